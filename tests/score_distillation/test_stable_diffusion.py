"""Stable Diffusion's path, for real, on a tiny pipeline with random weights; and the course-style class on the same."""

import argparse
import copy
import importlib.util

import pytest
import torch

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.score_distillation import __main__ as command
from src.score_distillation.command import LOSSES
from src.score_distillation.sdi import ddim, time_grid
from src.score_distillation.stable_diffusion import StableDiffusion
from tests.helpers import call, fails
from tests.score_distillation.tiny_pipeline import tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def pipe(folder):
    return tiny_pipeline(folder)


@pytest.fixture
def prior(pipe):
    return StableDiffusion(copy.copy(pipe), CPU)


@pytest.fixture
def latents():
    torch.manual_seed(1)
    return torch.randn(1, 4, 8, 8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(loss_type, prior, condition, **options):
    return LOSSES[loss_type](prior, condition, LOSSES[loss_type].Config(**options))


def needs_peft():
    pytest.importorskip("peft", reason="peft is not installed: pip install -r requirements-score_distillation.txt")


def test_conditions_are_texts(prior, pipe, latents):
    condition = prior.encode_condition("a cat", "low quality")
    assert condition.positive.shape == (1, 12, 16)
    expected, negative = pipe.encode_prompt("a cat", CPU, 1, True, "low quality")
    torch.testing.assert_close(condition.positive, expected)
    torch.testing.assert_close(condition.negative, negative)
    wanted, unwanted = (prior.network_noise(latents, torch.tensor([500]), each) for each in (expected, negative))
    found = prior.predict_noise(latents, torch.tensor([500]), condition, 7.5)
    torch.testing.assert_close(found, unwanted + 7.5 * (wanted - unwanted), atol=1e-5, rtol=1e-4)
    assert (wanted - unwanted).abs().max() > 1e-6, "the text does not matter"


def test_noise_and_steps_are_the_packages(prior, pipe, latents):
    """add_noise, and DDIM from noise to data, as DDIMScheduler has them."""
    t, noise = torch.tensor([700]), torch.randn_like(latents)
    torch.testing.assert_close(prior.add_noise(latents, noise, t), pipe.scheduler.add_noise(latents, noise, t))
    condition = prior.encode_condition("a cat", "")
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(5)
    times, x = [int(time) for time in scheduler.timesteps], latents
    for time in times[:-1]:
        step = prior.predict_noise(x, torch.tensor([time]), condition, 3.0)
        x = scheduler.step(step, time, x, eta=0.0).prev_sample
    found = ddim(latents, times, condition, prior, 3.0, generator())
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_a_network_that_predicts_v(folder, pipe, latents):
    """v = signal noise - level data: the noise is what, with the data that v says, makes the state."""
    other = copy.copy(pipe)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    prior, t = StableDiffusion(other, CPU), torch.tensor([400])
    condition = prior.encode_condition("a cat", "")
    noise = prior.predict_noise(latents, t, condition)
    with torch.no_grad():
        v = other.unet(latents, t, encoder_hidden_states=condition.positive).sample
    signal, level = prior.signal_and_noise(t, latents)
    torch.testing.assert_close(prior.predict_data(latents, noise, t), signal * latents - level * v, atol=1e-5, rtol=1e-4)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="sample")
    with pytest.raises(UserError, match="the model predicts sample; expected epsilon or v_prediction"):
        StableDiffusion(other, CPU)


def test_images_are_decoded(prior, pipe, latents):
    images = prior.decode(latents)
    assert images.shape == (1, 3, 64, 64) and images.abs().max() <= 1
    with torch.no_grad():
        expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(images, expected)


def test_adapters_change_nothing_before_they_are_trained(prior, latents):
    needs_peft()
    t, condition = torch.tensor([300]), prior.encode_condition("a cat", "")
    lora, parameters = prior.adapted(2)
    assert all(2 in parameter.shape for parameter in parameters)
    expected = prior.predict_noise(latents, t, condition)
    torch.testing.assert_close(lora.predict_noise(latents, t, condition), expected)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.5)
    assert (lora.predict_noise(latents, t, condition) - expected).abs().max() > 1e-4
    torch.testing.assert_close(prior.predict_noise(latents, t, condition), expected)
    shared = {id(parameter) for parameter in prior.unet.parameters()}
    assert shared < {id(parameter) for parameter in lora.unet.parameters()}, "the frozen weights are held twice"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_half_precision(folder, dtype, loss_type, latents):
    """Latents and gradients stay float32 and near those of float32, adapters are float32; fp16 needs a GPU."""
    if dtype == torch.float16 and not torch.cuda.is_available():
        pytest.skip("fp16 needs a GPU")
    if loss_type == "vsd":
        needs_peft()
    found = []
    for kind, device in ((torch.float32, CPU), (dtype, torch.device("cuda") if dtype == torch.float16 else CPU)):
        prior = StableDiffusion(tiny_pipeline(folder), device, kind)
        torch.manual_seed(0)
        loss = make(loss_type, prior, prior.encode_condition("a cat", "low quality"))
        found.append(loss.gradient(latents.to(device), 1, 500, generator()).cpu())
        if loss_type == "vsd":
            assert {parameter.dtype for parameter in loss.parameters} == {torch.float32}
    assert found[1].dtype == torch.float32 and torch.isfinite(found[1]).all()
    if loss_type == "sds":
        assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()


def test_the_command(pipe, tmp_path, monkeypatch, capsys):
    """From a local folder, as any user has one, to the image."""
    pipe.save_pretrained(tmp_path / "model")
    flags = ["--model", tmp_path / "model", "--save_dir", tmp_path / "out", "--device", "cpu"]
    flags += ["--prompt", "a cat, in a hat", "--steps", 3, "--log_step", 2]
    assert call(command, monkeypatch, *flags) == 0
    assert (tmp_path / "out" / "sds" / "a_cat,_in_a_hat.png").is_file()
    capsys.readouterr()
    line = fails(command, monkeypatch, capsys, "--prompt", "a cat", "--model", tmp_path / "nowhere", "--device", "cpu")
    assert f"--model {tmp_path / 'nowhere'}: no weights to be had (" in line and "distil a checkpoint of this kit" in line


def load_example():
    spec = importlib.util.spec_from_file_location("sd", PROJECT_ROOT / "docs" / "examples" / "sd.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sd(folder):
    def make(loss_type):
        if loss_type == "vsd":
            needs_peft()
        args = argparse.Namespace(device="cpu", precision="fp32", loss_type=loss_type, lora_rank=2)
        return load_example().StableDiffusion(args, pipe=tiny_pipeline(folder))

    return make


@pytest.fixture
def agreed(prior, sd, latents):
    """The class of the course and the prior with one text, and the same state for both wherever one is drawn."""

    def make(loss_type):
        theirs = sd(loss_type)
        texts = theirs.get_text_embeds("a cat", "low quality")
        ours = prior.encode_condition("a cat", "low quality")
        torch.testing.assert_close(texts, torch.cat([ours.negative, ours.positive]))
        t, noise = torch.tensor([600]), torch.randn(1, 4, 8, 8, generator=generator(7))
        state = (prior.add_noise(latents, noise, t), t, noise)
        theirs.draw_state = lambda x: state
        prior.draw_state = lambda x, draws: state
        return theirs, texts, ours

    return make


def gradient_of(loss, latents):
    (found,) = torch.autograd.grad(loss, latents, retain_graph=True)
    return found


def test_course_style_sds(agreed, prior, latents):
    theirs, texts, condition = agreed("sds")
    x = latents.clone().requires_grad_()
    found = gradient_of(theirs.get_sds_loss(x, texts, 25.0), x)
    expected = make("sds", prior, condition, guidance_scale=25.0).gradient(latents, 1, 1, generator())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_course_style_vsd(agreed, prior, latents):
    """The same gradient of the latents; the adapters get theirs, and no other weight."""
    theirs, texts, condition = agreed("vsd")
    with torch.no_grad():
        for parameter in theirs.lora_parameters():
            parameter.add_(0.1)
    ours = make("vsd", prior, condition, guidance_scale=7.5)
    ours.lora = copy.copy(prior)
    ours.lora.unet = theirs.unet
    x = latents.clone().requires_grad_()
    loss = theirs.get_vsd_loss(x, texts, 7.5, 1.0)
    torch.testing.assert_close(gradient_of(loss, x), ours.difference(latents, generator()), atol=1e-4, rtol=1e-4)
    loss.backward()
    trained = theirs.lora_parameters()
    assert trained and all(parameter.grad is not None for parameter in trained)
    others = {id(parameter) for parameter in trained}
    assert all(parameter.grad is None for parameter in theirs.unet.parameters() if id(parameter) not in others)


def test_course_style_sdi(agreed, prior, latents):
    theirs, texts, condition = agreed("sdi")
    x = latents.clone().requires_grad_()
    ours = make("sdi", prior, condition, inversion_n_steps=3, inversion_eta=0.0)
    settings = {"inversion_n_steps": 3, "inversion_eta": 0.0, "update_interval": 2, "total_iters": 10}
    found = gradient_of(theirs.get_sdi_loss(x, texts, 7.5, current_iter=0, **settings), x)
    expected = latents - ours.target_at(latents, 980, generator())
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    target = theirs.sdi_target
    theirs.get_sdi_loss(x, texts, 7.5, current_iter=1, **settings)
    assert theirs.sdi_target is target
    theirs.get_sdi_loss(x, texts, 7.5, current_iter=2, **settings)
    expected = ours.target_at(latents, round(980 - 960 * 0.2), generator())
    torch.testing.assert_close(theirs.sdi_target, expected, atol=1e-3, rtol=1e-3)
    inverted = theirs.invert_noise(latents, 500, texts, -7.5, 4, 0.0)
    mine = ddim(latents, time_grid(500, 4), condition, prior, -7.5, generator())
    torch.testing.assert_close(inverted, mine, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_course_style_five_steps(sd, loss_type, latents):
    theirs = sd(loss_type)
    texts, x = theirs.get_text_embeds("a cat"), latents.clone().requires_grad_()
    optimizer = torch.optim.AdamW([x, *theirs.lora_parameters()], lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        loss = {
            "sds": lambda: theirs.get_sds_loss(x, texts, 25.0),
            "vsd": lambda: theirs.get_vsd_loss(x, texts, 7.5, 1.0),
            "sdi": lambda step=step: theirs.get_sdi_loss(x, texts, 7.5, step, 5, -7.5, 2, 0.3, 2),
        }[loss_type]()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(x).all() and (x - latents).abs().max() > 0.1
    images = theirs.decode_latents(x.detach())
    assert images.shape == (1, 3, 64, 64) and images.min() >= 0 and images.max() <= 1
