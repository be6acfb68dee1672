"""Evaluation of all classes or prompts, by stand-ins of what scores; the sweep of an option; the comparison sheet."""

import argparse
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.distilled import describe_marks
from src.common.files import PROJECT_ROOT, load_json
from src.evaluation.classifier import ClassifierConfig, train_classifier
from src.score_distillation import ablate, evaluate
from src.score_distillation.evaluate import classes_read, open_scorer, read_prompts
from src.score_distillation.outputs import write_png
from src.score_distillation.prior import Condition
from tests.helpers import call, fails
from tests.score_distillation.conftest import CLASSES, draw
from tests.score_distillation.mixture import Mixture

FAST = ["--steps", 2, "--device", "cpu"]


@pytest.fixture(scope="module")
def classifier():
    """One that a few drawn shapes are enough for."""
    rng = np.random.default_rng(5)
    images = np.stack([draw(CLASSES[k % 2], rng).transpose(2, 0, 1) for k in range(120)])
    labels = np.array([1 + k % 2 for k in range(120)])
    return train_classifier(images, labels, 2, ClassifierConfig(images=6000, width=8))


@pytest.fixture
def shapes_scorer(classifier, monkeypatch):
    """Every command scores by this classifier, instead of one of thousands of images."""
    scorer = classes_read(classifier, CLASSES)
    for module in (evaluate, ablate):
        monkeypatch.setattr(module, "open_scorer", lambda args, prior: scorer)
    return scorer


class ColourClip:
    """Instead of CLIP: an image is embedded as its mean colour, a text as the colour that it names."""

    opened: list[str] = []  # noqa: RUF012

    def __init__(self, given, device):
        self.opened.append(given)

    def features(self, images):
        return images.mean(axis=(2, 3)) + 1e-3

    def text(self, prompt):
        return np.array([float(colour in prompt) for colour in "rgb"])


class Colours(Mixture):
    """Instead of Stable Diffusion: images of 8x8 that show a colour named r, g or b after some steps."""

    def __init__(self):
        super().__init__([(0.0, 0.0)], 1.0)
        self.shape = (3, 8, 8)

    def encode_condition(self, wanted, negative):
        return Condition(*(torch.tensor([[2.0 * (c in text[-1:]) - 1 for c in "rgb"]]) for text in (wanted, negative)))

    def network_noise(self, xt, t, embedding):
        signal, level = self.signal_and_noise(t, xt)
        return (xt - signal * embedding[..., None, None]) / level

    def adapted(self, rank):
        scale = torch.nn.Parameter(torch.zeros(3))
        other = Colours()
        other.network_noise = lambda xt, t, embedding: self.network_noise(xt, t, embedding) + scale[:, None, None]
        return other, [scale]

    def decode(self, latents):
        return latents.clamp(-1, 1)


def test_the_classifier_reads_what_is_shown(shapes_scorer):
    rng = np.random.default_rng(9)
    images = np.stack([draw(name, rng).transpose(2, 0, 1) for name in ("disc", "square", "disc")])
    assert shapes_scorer(images, "disc").tolist() == [1, 0, 1]
    assert shapes_scorer(images, "square").tolist() == [0, 1, 0]


def test_all_classes(run, shapes_scorer, tmp_path, monkeypatch, capsys):
    flags = ["--prior", run, "--particles", 2, "--save_dir", tmp_path, *FAST]
    assert call(evaluate, monkeypatch, *flags, "--loss_type", "vsd") == 0
    scores = load_json(tmp_path / "vsd" / "eval.json")
    assert list(scores) == ["disc_0.png", "disc_1.png", "square_0.png", "square_1.png", "score"]
    assert scores["score"] == pytest.approx(np.mean(list(scores.values())[:-1])) and set(scores.values()) <= {
        0,
        0.25,
        0.5,
        0.75,
        1,
    }
    assert Image.open(tmp_path / "comparison.png").size[1] == 64
    assert call(evaluate, monkeypatch, *flags, "--loss_type", "sds") == 0
    assert Image.open(tmp_path / "comparison.png").size[1] == 128, "a row of each loss that was evaluated"
    assert call(evaluate, monkeypatch, *flags, "--loss_type", "sds") == 0
    assert capsys.readouterr().out.count("there already, of these settings") == 2


def test_the_classifier_learns_from_the_data(run, shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    flags = ["--prior", run, "--classes", "square", "--save_dir", tmp_path, *FAST]
    assert call(evaluate, monkeypatch, *flags, "--data_root", shapes_root) == 0
    assert re.search(r"the classifier reads (9\d|100)\.\d\d% of 20 real images right", capsys.readouterr().out)
    assert list(load_json(tmp_path / "sds" / "eval.json")) == ["square.png", "score"]
    others = shutil.copytree(shapes_root, tmp_path / "others")
    for split in ("train", "val"):
        (others / split / "square").rename(others / split / "star")
    line = fails(evaluate, monkeypatch, capsys, *flags, "--data_root", others)
    assert "are of other classes than the checkpoint, which knows disc, square" in line


def test_all_prompts(tmp_path, monkeypatch, capsys):
    """Images of colours, by their own prior, scored by the colour that the prompt names; the marks are named."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"one": {"prompt": "in r"}, "two": {"prompt": "in g"}}))
    monkeypatch.setattr(evaluate, "open_prior", lambda args: Colours())
    monkeypatch.setattr(evaluate, "Clip", ColourClip)
    flags = ["--prompts", prompts, "--save_dir", tmp_path, "--device", "cpu", "--steps", 150, "--lr", 0.05]
    assert call(evaluate, monkeypatch, *flags, "--negative_prompt", "in b", "--loss_type", "sds") == 0
    scores = load_json(tmp_path / "sds" / "eval.json")
    assert list(scores) == ["in_r.png", "in_g.png", "score"] and min(scores.values()) > 0.9
    assert "full marks: 0.28, reached" in capsys.readouterr().out
    assert call(evaluate, monkeypatch, *flags, "--clip", "ViT-B-32:openai", "--loss_type", "vsd") == 0
    assert ColourClip.opened == [evaluate.CLIP, "ViT-B-32:openai"] and evaluate.CLIP == "ViT-L-14:openai"


@pytest.mark.slow
def test_the_real_package_of_clip(tmp_path, monkeypatch):
    """The scorer on a tiny CLIP with random weights of open_clip: the cosine that the package itself gives."""
    package = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    package.add_model_config(config)
    torch.manual_seed(0)
    model, _, preprocess = package.create_model_and_transforms("tiny-clip")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 40, 40), dtype=np.uint8)
    args = argparse.Namespace(prior=None, clip=f"tiny-clip:{tmp_path / 'weights.pt'}", device="cpu")
    found = open_scorer(args, None)(images, "a fox")
    with torch.no_grad():
        batch = torch.stack([preprocess(Image.fromarray(image.transpose(1, 2, 0))) for image in images])
        token = package.get_tokenizer("tiny-clip")(["a fox"])
        expected = torch.cosine_similarity(model.eval().encode_image(batch), model.encode_text(token))
    np.testing.assert_allclose(found, expected.clamp(min=0), atol=1e-5)
    assert (expected > 1e-3).any()


def test_prompts_of_the_kit():
    prompts = read_prompts(PROJECT_ROOT / evaluate.PROMPTS)
    assert len(prompts) == len(set(prompts)) == 10


def test_marks():
    words = describe_marks(0.27)
    assert words == "full marks: 0.28, not reached; second mark: 0.26, reached; third mark: 0.24, reached"


def test_a_sweep(run, shapes_scorer, tmp_path, monkeypatch, capsys):
    flags = ["--prior", run, "--loss_type", "sdi", "--classes", "disc", "--save_dir", tmp_path, *FAST]
    sweep = ["--option", "inversion_n_steps", "--values", 1, 3]
    assert call(ablate, monkeypatch, *flags, *sweep) == 0
    place = tmp_path / "ablation"
    out = capsys.readouterr().out
    assert "| inversion_n_steps | score |\n|---|---|\n| 1 | " in out and "\n| 3 | " in out
    for value in (1, 3):
        settings = load_json(place / f"inversion_n_steps={value}" / "sdi" / "run_config.json")
        assert settings["inversion_n_steps"] == value and type(settings["inversion_n_steps"]) is int
    assert set(load_json(place / "sdi_inversion_n_steps.json")) == {"1", "3"}
    for name in ("sdi_inversion_n_steps.png", "sdi_inversion_n_steps_sheet.png"):
        assert Image.open(place / name).width > 30


@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        (evaluate, ["--classes", "disk"], "--class disk: no such class"),
        (evaluate, ["--prompts", "x.json"], "--prior is asked for classes, not for texts"),
        (ablate, ["--option", "lora_rank"], "--option lora_rank: sds has none of that name; expected one of guidance_scale"),
        (ablate, ["--loss_type", "sdi", "--option", "inversion_n_steps", "--values", "2.5"], "--values 2.5: expected whole"),
        (ablate, ["--option", "guidance_scale", "--values", "-1"], "expected guidance_scale of at least 0, got -1"),
    ],
)
def test_what_is_refused(run, shapes_scorer, module, flags, words, tmp_path, monkeypatch, capsys):
    capsys.readouterr()
    line = fails(module, monkeypatch, capsys, "--prior", run, "--save_dir", tmp_path, *flags, *FAST)
    assert words in line


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": "b"}', '{"a": {"prompt": " "}}'])
def test_another_file_is_no_file_of_prompts(text, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(evaluate.UserError, match=r'expected \{name: \{"prompt": text\}'):
        read_prompts(tmp_path / "p.json")


def test_images_are_written_as_they_are(tmp_path):
    image = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 4)
    write_png(image, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 128, 255, 255]
