"""What the page computes, without Streamlit: against what the scripts make of the same checkpoints."""

import base64
import io
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sampling
from src.challenges import get_challenge
from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.distilled import LOSS_TYPES, describe_prior
from src.common.files import PROJECT_ROOT
from src.page import distillation, history, pictures, samples, sources
from src.page.samples import Request
from src.runs.folder import Run
from src.score_distillation import __main__ as distillation_command
from tests.helpers import TINY, add_measured, call, random_images, tiny_model
from tests.test_layers import SRC, imports

REQUEST = Request(seed=5, count=3)
WITH_STREAMLIT = {"page.py", "sidebar.py", "tabs.py", "app.py"}


def silent(share: float) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def of_classes(shipped):
    return sources.load(shipped / "classes" / "best_model.pt", "cpu")


@pytest.fixture(scope="module")
def plain(shipped):
    return sources.load(shipped / "plain" / "best_model.pt", "cpu")


@pytest.fixture(scope="module")
def points(results):
    return sources.load(results / "points" / "last.ckpt", "cpu")


def test_what_computes_does_not_know_of_streamlit():
    files = sorted((SRC / "page").glob("*.py"))
    assert {path.name for path in files if any(name.startswith("streamlit") for name in imports(path))} == WITH_STREAMLIT


def test_checkpoints_are_listed(shipped, results, tmp_path):
    assert [source.name for source in sources.shipped(shipped)] == [
        "checkpoints/classes (rectified_flow, mnist)",
        "checkpoints/plain (meanflow, mnist)",
    ]
    runs = sources.trained(results)
    assert [source.name for source in runs] == ["results/points (meanflow, toy2d)", "results/images (custom, mnist)"]
    assert [run.is_on_the_plane for run in runs] == [True, False]
    assert [source.can_be_distilled for source in [*sources.shipped(shipped), *runs]] == [True, *[False] * 3]
    assert sources.shipped(tmp_path / "absent") == sources.trained(tmp_path / "absent") == []


def test_runs_that_were_not_saved_come_last(results, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(results / "points", folder / "there")
    for name in ("a", "z"):
        (folder / name).mkdir()
        (folder / name / "training_config.json").write_text('{"save_interval": 500}')
    runs = sources.trained(folder)
    there, first = "results/there (meanflow, toy2d)", "results/a (not saved yet)"
    assert [source.name for source in runs] == [there, first, "results/z (not saved yet)"]
    assert not runs[1].is_on_the_plane and not runs[1].can_be_distilled
    with pytest.raises(UserError, match=r"results/a has not saved yet: it ended before that; give the train.py command"):
        sources.load(runs[1].checkpoint, "cpu")
    assert sources.checkpoint_at(folder / "there") == sources.checkpoint_at(folder / "there" / "last.ckpt")
    with pytest.raises(UserError, match=f"results is a folder of 3 runs: type in the path of a run, such as {folder / 'a'}$"):
        sources.checkpoint_at(folder)


def test_what_is_handed_in_comes_last_and_the_damaged_is_named(shipped, tmp_path):
    for name in ("best_model.pt", "first/best_model.pt", "second/best_model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "first" / "model_config.json").write_text("{")
    first, own = sources.shipped(tmp_path)
    assert first.name == f"{tmp_path.name}/first (damaged)" and not first.is_on_the_plane, "the second has no configuration"
    assert own.checkpoint == tmp_path / "best_model.pt"


def test_a_checkpoint_that_is_written_anew_is_another(tmp_path):
    file = tmp_path / "last.ckpt"
    assert sources.version(file) == (0, 0)
    save_model(tiny_model("meanflow"), file, {"method": "meanflow", **TINY})
    first = sources.version(file)
    save_model(tiny_model("meanflow"), file, {"method": "meanflow", **TINY})
    assert 0 not in first and sources.version(file) != first


def test_a_model_knows_its_data_and_classes(of_classes, plain, points, results):
    assert of_classes.classes == tuple("0123456789") and plain.classes == () and of_classes.shape == (1, 28, 28)
    assert of_classes.takes_guidance and not plain.takes_guidance and points.shape == (2,)
    assert plain.data_root == "./data/mnist" and points.data_root == "moons" and not plain.run.exists
    assert points.run == Run(results / "points") and not points.makes_images and plain.makes_images
    assert str(plain).startswith("MeanFlow, challenge mnist, ") and str(plain).endswith(" parameters, on cpu in float32")


@pytest.mark.parametrize(
    ("model", "classes", "scale", "flags"),
    [
        ("plain", None, 0.0, []),
        ("of_classes", None, 0.0, []),
        ("of_classes", (4, 8), 2.0, ["--classes", "3", "7", "--guidance_scale", 2]),
        ("of_classes", (0,), 0.0, ["--classes", "none"]),
    ],
)
def test_samples_are_those_of_sampling_py(model, classes, scale, flags, request, tmp_path, monkeypatch):
    loaded = request.getfixturevalue(model)
    flags += ["--ckpt_path", loaded.checkpoint, "--save_dir", tmp_path, "--num_samples", 3, "--nfe_list", 4, "--seed", 5]
    assert call(sampling, monkeypatch, *flags, "--device", "cpu") == 0
    found = samples.draw(loaded, 4, replace(REQUEST, classes=classes, scale=scale), silent)
    assert np.array_equal(loaded.challenge.to_array(found.samples), loaded.challenge.read(tmp_path / "nfe=4"))
    assert found.calls == 4 and 0 < found.seconds < 60


def test_classes_are_named(of_classes, plain):
    assert samples.class_names(of_classes, REQUEST) == ["0", "1", "2"]
    assert samples.class_names(of_classes, replace(REQUEST, classes=(4, 0))) == ["3", "no class", "3"]
    assert samples.class_names(plain, REQUEST) == []


def test_progress_is_told_and_the_model_left_as_it_was(of_classes):
    shares = []
    samples.way(of_classes, 4, replace(REQUEST, classes=(3,), scale=2.0), shares.append)
    assert shares == sorted(shares) and len(shares) == 8 and shares[-1] == 1.0, "two steps and two predictions of two calls"

    class ByTheUser(Exception):
        pass

    def stop(share: float) -> None:
        raise ByTheUser

    with pytest.raises(ByTheUser):
        samples.draw(of_classes, 4, REQUEST, stop)
    assert not of_classes.model.network._forward_hooks
    assert samples.draw(of_classes, 1, REQUEST, silent).calls == 1, "and the next one does not wait for it"


def test_a_guided_step_makes_two_calls(of_classes):
    for work in (samples.draw, samples.way, samples.paths):
        with pytest.raises(UserError, match="NFE 1: a guided step makes two calls"):
            work(of_classes, 1, replace(REQUEST, scale=2.0), tell=silent)


def test_more_steps_than_the_method_has(tmp_path):
    options = {"method": "ddpm", "challenge": "mnist", "num_train_timesteps": 10, **TINY}
    save_model(tiny_model(**options), tmp_path / "last.ckpt", options)
    with pytest.raises(UserError, match="NFE 11: DDPM expected from 1 to num_train_timesteps = 10 sampling steps, got 11"):
        samples.draw(sources.load(tmp_path / "last.ckpt", "cpu"), 11, REQUEST, silent)


@pytest.mark.parametrize("model", ["of_classes", "points"])
def test_a_line_goes_from_one_seed_to_the_other(model, request):
    loaded = request.getfixturevalue(model)
    lines = samples.between(loaded, 2, REQUEST, 9, 5, silent)
    array = lines.samples.unflatten(0, (3, 5))
    first, last = (samples.draw(loaded, 2, replace(REQUEST, seed=seed), silent).samples for seed in (5, 9))
    torch.testing.assert_close(array[:, 0], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(array[:, -1], last, atol=1e-4, rtol=1e-4)
    steps = (array[:, 1:] - array[:, :-1]).flatten(2).norm(dim=2)
    assert (steps > 0).all() and lines.calls == 2


def test_no_line_without_seeds(plain, monkeypatch):
    monkeypatch.setattr(plain.model, "takes_seeds", False)
    with pytest.raises(UserError, match="takes no seeds"):
        samples.between(plain, 2, REQUEST, 9, 5, silent)


@pytest.mark.parametrize("model", ["of_classes", "plain", "points"])
def test_a_way_ends_in_the_samples(model, request):
    loaded = request.getfixturevalue(model)
    (states, denoised), drawn = samples.way(loaded, 4, REQUEST, silent), samples.draw(loaded, 4, REQUEST, silent).samples
    assert states.shape == denoised.shape == (5, 3, *loaded.shape)
    torch.testing.assert_close(denoised[-1], drawn, atol=1e-4, rtol=1e-4)
    size = drawn.square().mean().sqrt().clamp(min=1) if loaded.makes_images else 1
    torch.testing.assert_close(states[-1], drawn / size, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(states[0], denoised[0])
    torch.testing.assert_close(samples.paths(loaded, 4, REQUEST, silent), states)


def test_the_nearest_training_image_of_a_copy_is_itself():
    training = random_images(30, shape=(1, 28, 28))
    copies = np.repeat(training[[7, 21]], 3, axis=1)
    copies[1, :, 0, 0] = 255 - copies[1, :, 0, 0]
    rows, images, distances = samples.nearest_training(copies, training)
    assert rows.tolist() == [7, 21] and distances[0] == 0 and images.shape == (2, 3, 28, 28)
    change = abs(255 - 2 * int(training[21, 0, 0, 0])) / 28  # of one of 784 pixels
    assert distances[1] == pytest.approx(change, abs=0.05)
    assert np.array_equal(images[0][0], training[7, 0])


def flags(loss_type: str = "sds", **options) -> dict:
    """Four steps toward a seven, two moments."""
    return {"class": "7", "loss_type": loss_type, "steps": 4, "log_step": 2, "particles": 2, "seed": 5, **options}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_distilled_images_are_those_of_the_command(of_classes, loss_type, tmp_path, monkeypatch, capsys):
    words, seen = shlex.split(distillation.command(of_classes, flags(loss_type, lr=0.05))), []
    assert words[:3] == ["python", "-m", "src.score_distillation"]
    assert call(distillation_command, monkeypatch, *words[3:], "--save_dir", tmp_path) == 0
    distils = describe_prior(of_classes.checkpoint, of_classes.model, of_classes.dtype)
    assert f"distils {distils}" in capsys.readouterr().out.splitlines()
    found = distillation.distil(of_classes, flags(loss_type, lr=0.05), lambda *moment: seen.append(moment))
    place = tmp_path / loss_type
    for particle, image in enumerate(found.images[-1]):
        assert np.array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(place / f"7_{particle}.png")))
    for images, step in zip(found.images, found.steps, strict=True):
        strip = np.asarray(Image.open(place / "7" / f"step_{step:05d}.png"))
        assert np.array_equal(np.concatenate(list(images), axis=2).transpose(1, 2, 0), strip)
    assert found.steps == [2, 4] == [step for step, _, _ in seen]
    assert found.losses == [loss for _, loss, _ in seen] and all(loss > 0 for loss in found.losses)


@pytest.mark.parametrize("loss_type", distillation.OF_CHECKPOINTS)
def test_the_document_has_the_options_for_a_checkpoint(loss_type):
    lines = (PROJECT_ROOT / "docs" / "score_distillation.md").read_text().splitlines()
    (line,) = [line for line in lines if "--class 7" in line and f"--loss_type {loss_type} " in line]
    args = distillation_command.parse(shlex.split(line, comments=True)[3:])
    assert all(getattr(args, name) == value for name, value in distillation.OF_CHECKPOINTS[loss_type].items())
    assert tuple(distillation.OF_CHECKPOINTS) == LOSS_TYPES and args.guidance_scale == distillation.GUIDANCE_SCALE


def test_what_cannot_be_distilled(points, plain, of_classes):
    assert of_classes.refused == ""
    assert points.refused == "samples of challenge toy2d are no images"
    assert plain.refused.startswith("the checkpoint knows no classes")
    with pytest.raises(UserError, match="no such class; expected one of 0, 1, "):
        distillation.distil(of_classes, {**flags(), "class": "10"}, lambda *moment: None)
    with pytest.raises(UserError, match="the gradient is not finite in step"):
        distillation.distil(of_classes, flags(lr=1e38, log_step=1), lambda *moment: None)


def test_another_choice_ends_the_process(of_classes, monkeypatch):
    """Streamlit stops a page by an exception out of what it calls."""
    started = []
    popen = distillation.subprocess.Popen
    monkeypatch.setattr(distillation.subprocess, "Popen", lambda *args, **kw: started.append(popen(*args, **kw)) or started[0])

    def stop(*moment):
        raise KeyError

    with pytest.raises(KeyError):
        distillation.distil(of_classes, flags(steps=10000), stop)
    assert started[0].returncode < 0


def decoded(page: str) -> list[np.ndarray]:
    """The pictures of a piece of HTML, (H, W, 3)."""
    found = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found]


def test_tiles_hold_every_pixel_and_are_enlarged_by_the_browser():
    images = random_images(3, shape=(3, 28, 28))
    page = pictures.tiles(images, ["a", "<b>", "c"])
    assert np.array_equal(np.stack(decoded(page)), images.transpose(0, 2, 3, 1))
    assert page.count("image-rendering:pixelated") == page.count('width="84" height="84"') == 3
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert [pictures.enlargement(size) for size in (28, 32, 64, 128)] == [3, 3, 2, 1]
    rows = pictures.rows_of_tiles([images[:2], images[2:]], ["NFE 1", "<NFE> 2"])
    assert len(decoded(rows)) == 3 and "&lt;NFE&gt; 2" in rows
    assert np.array_equal(
        decoded(pictures.wide_tiles([Image.fromarray(images[0].transpose(1, 2, 0))]))[0].T, images[0].swapaxes(1, 2)
    )


def test_sheets_and_grids():
    digits, toy = get_challenge("mnist"), get_challenge("toy2d")
    images = random_images(9, shape=(3, 28, 28))
    grid = np.asarray(pictures.grid(digits, images, "unused"))
    assert grid.shape == (2 * 84, 8 + 8 * 84, 3)
    assert np.array_equal(grid[84 + 1 :: 3, 8 + 1 : 8 + 84 : 3], images[8].transpose(1, 2, 0)), "the ninth begins a row"
    assert pictures.sheet(digits, [images[:2], images[2:4]], ["a", "b"]).size == (15 + 2 * 84, 2 * 84)
    cloud = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert pictures.grid(toy, cloud, "NFE 4").size == pictures.sheet(toy, [cloud], ["NFE 4"]).size
    data = pictures.png(pictures.grid(digits, images, ""))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), grid)


def test_a_gif_has_every_step_and_stays_on_the_last():
    frames = [Image.new("RGB", (20, 10), (40 * i, 0, 0)) for i in range(5)]
    with Image.open(io.BytesIO(pictures.gif(frames))) as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0 and gif.size == (20, 10)
        times = []
        for frame in range(5):
            gif.seek(frame)
            times.append(gif.info["duration"])
    assert times == [pictures.FRAME] * 4 + [pictures.LAST_FRAME]


def test_the_plane_shows_lines_from_noise_to_samples():
    rng = np.random.default_rng(0)
    ways, data = np.linspace(rng.normal(size=(40, 2)), 4 + rng.normal(size=(40, 2)) / 9, 5), rng.normal(size=(100, 2))
    drawn, without = (np.asarray(pictures.plane(way, data, "moons")).astype(int) for way in (ways, ways[:1] - 100))
    red = (drawn[..., 0] > drawn[..., 2] + 80).nonzero()
    height, width, _ = drawn.shape
    assert red[0].mean() < height / 3 and red[1].mean() > 0.7 * width, "the samples are at the upper right"
    blue = (drawn[..., 2] > drawn[..., 0] + 40).sum()
    assert blue > 500 and (without[..., 2] > without[..., 0] + 40).sum() == 0
    both = pictures.side_by_side([Image.fromarray(drawn.astype(np.uint8))] * 5)
    assert both.size == (4 * width, 2 * height)


def test_curves_and_scores_of_a_run(results, tmp_path):
    run = Run(results / "images")
    curves = history.curves(run)
    assert list(curves) == ["training loss"]
    assert [point[history.SEEN] for point in curves["training loss"]] == [8, 16, 24, 32]
    assert {point[history.CURVE] for point in curves["training loss"]} == {"loss"}
    assert history.scores(run, {"fid_pytorch": "FID pytorch-fid"}) == [
        {"NFE": 1, "score": "300.00", "of": "FID pytorch-fid", "samples vs reference": "12 vs 100", "steps": 4},
        {"NFE": 4, "score": "250.50", "of": "FID pytorch-fid", "samples vs reference": "12 vs 100", "steps": 4},
    ]
    assert history.progress(run).startswith("**4 of 4 steps**, `train.py --ch 8 ")
    assert history.curves(Run(tmp_path)) == {} and history.scores(Run(tmp_path), {"fid_pytorch": "FID"}) == []


def measure(run: Run, **row) -> None:
    add_measured(run, {"step": 4, "nfe": 2, "options": {}, "num_generated": 1000, "reference": "300", **row})


@pytest.fixture
def classes_measured(of_classes, tmp_path):
    """The model of digits after four steps, in a run of its own without measurements."""
    (tmp_path / "training_config.json").write_text("{}")
    return replace(of_classes, checkpoint=tmp_path / "last.ckpt", step=4)


def test_what_is_known_of_samples_is_of_that_checkpoint_sampled_so(classes_measured):
    run = classes_measured.run
    for row in (
        {"fid_pytorch": 9.0, "num_generated": 5000, "reference": "60000", "classes": ["all"]},
        {"fid_pytorch": 8.0},  # later, of fewer samples
        {"fid_pytorch": 7.0, "step": 3},
        {"fid_pytorch": 6.0, "nfe": 4},
        {"fid_pytorch": 5.0, "guidance_scale": 2.0, "guidance_interval": [0.0, None], "autoguidance": None},
        {"fid_pytorch": 4.0, "guidance_scale": 2.0, "guidance_interval": [0.5, 3.0]},
        {"fid_pytorch": 3.0, "options": {"eta": 1}, "num_generated": 9000},
        {"fid_pytorch": 2.0, "classes": ["7"], "num_generated": 9000},
    ):
        measure(run, **row)
    found = [
        history.scores_of_samples(classes_measured, nfe, replace(REQUEST, scale=scale))
        for nfe, scale in ((2, 0), (2, 2), (4, 0), (1, 0))
    ]
    title = classes_measured.challenge.metrics["fid_pytorch"]
    assert found == [
        {title: ("9.00", "5,000 vs 60,000")},
        {title: ("5.00", "1,000 vs 300")},
        {title: ("6.00", "1,000 vs 300")},
        {},
    ]
    assert history.scores_of_samples(classes_measured, 2, replace(REQUEST, classes=(8,))) == {}
    assert history.scores_of_samples(replace(classes_measured, step=None), 2, REQUEST) == {}


def test_the_distances_of_points_are_known_by_their_names(points, tmp_path):
    (tmp_path / "training_config.json").write_text("{}")
    loaded = replace(points, checkpoint=tmp_path / "last.ckpt")
    assert points.step == loaded.step == 4 and history.scores_of_samples(loaded, 2, REQUEST) == {}
    measure(loaded.run, mmd=0.0144, sliced_w2=1e-05, chamfer=4567.891)
    counts = "1,000 vs 300"
    assert history.scores_of_samples(loaded, 2, REQUEST) == {
        "Chamfer distance": ("4,567.89", counts),
        "sliced Wasserstein-2 distance": ("1e-05", counts),
        "squared MMD": ("0.0144", counts),
    }
    assert history.last_scores(loaded.run, loaded.challenge.metrics) == {"NFE 2": 4567.891}


def test_every_measurement_is_listed_with_what_was_unusual(tmp_path):
    run, titles = Run(tmp_path), {"fid_pytorch": "FID"}
    for row in (
        {"fid_pytorch": 9.0, "nfe": 4},
        {"fid_pytorch": 8.0, "reference": "edm.npz"},
        {"fid_pytorch": 7.0, "options": {"eta": 1}, "guidance_scale": 2.5, "guidance_interval": [0.0, 2.0]},
        {"fid_pytorch": 6.0, "guidance_scale": 2.0, "autoguidance": "weak.pt", "classes": ["3", "7"]},
        {"kid": 6.0},
        {"fid_pytorch": 5.0, "nfe": None},
        {"fid_pytorch": "broken"},
    ):
        measure(run, **row)
    assert [tuple(line.values()) for line in history.scores(run, titles)] == [
        (2, "6.00", "FID", "1,000 vs 300", 4, "guidance scale 2, away from a weaker model, classes 3 7"),
        (2, "7.00", "FID", "1,000 vs 300", 4, "guidance scale 2.5, at noise levels 0 to 2, eta=1"),
        (2, "8.00", "FID", "1,000 vs edm.npz", 4, ""),
        (4, "9.00", "FID", "1,000 vs 300", 4, ""),
    ]
    assert history.last_scores(run, titles) == {"NFE 2": 8.0, "NFE 4": 9.0}


def test_a_log_of_other_lines_is_no_traceback(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"loss": 1.0}\n{"step": 3, "loss": 1.0}\n')
    (tmp_path / "training_config.json").write_text("{}")
    assert history.progress(Run(tmp_path)) == "**3 steps**" and history.curves(Run(tmp_path)) == {}


def test_scores_of_a_development_split_have_a_curve_for_each_average(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 1, "images_seen": 8, "loss": 1.5, "loss_by_time": [1.0]}\n'
        '{"step": 2, "images_seen": 16, "ema_half_life": 0.05, "fid_nfe1": 300.0, "fid_nfe2": 200.0}\n'
    )
    found = history.curves(Run(tmp_path))["score on the development split"]
    assert [(point[history.CURVE], point[history.VALUE]) for point in found] == [
        ("fid_nfe1, EMA 0.05", 300.0),
        ("fid_nfe2, EMA 0.05", 200.0),
    ]
