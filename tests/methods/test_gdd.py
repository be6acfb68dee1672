"""GDD: what its generator is trained on, what is frozen, what is kept, and that a one-step start finds all modes."""

import json

import pytest
import torch

from custom_model import create_custom_model
from src.methods import get_method
from src.methods.gdd import block_convolutions
from src.methods.shared.discriminators import non_saturating_discriminator
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests.helpers import SHAPE, TINY, random_images, slow_but, tiny_model
from tests.methods import battery, eight_gaussians

CPU = torch.device("cpu")
STUDENTS = pytest.mark.parametrize("method", ["gdd", "add"])


def batch(count=4):
    torch.manual_seed(0)
    return torch.randn(count, *SHAPE), torch.randn(count, *SHAPE)


@pytest.mark.parametrize("tell_level", slow_but([True], [False, True]))
def test_a_one_step_start_that_misses_all_modes_finds_all_eight(tell_level):
    student = eight_gaussians.student("gdd", tell_level=tell_level)
    assert eight_gaussians.modes(student, 1) == 0, "the start is the blurred mean"
    trained = eight_gaussians.train(student, 250, batch=256)
    assert [eight_gaussians.modes(trained, nfe) for nfe in (1, 2, 4)] == [8, 8, 8]
    assert eight_gaussians.shares(trained, 1).sum() > 0.6


@STUDENTS
@pytest.mark.parametrize(("train_levels", "share"), [(1, 0.0), (2, 0.25), (4, 0.5)])
def test_levels_of_training_are_those_of_the_sampler(method, train_levels, share):
    model = tiny_model(method, train_levels=train_levels, mid_share=share, mid_sigma=0.8, mid_span=2.0)
    torch.manual_seed(0)
    sigma = model.scheduler.sample_timesteps(4000, "cpu")
    wanted = {1: [80.0], 2: [0.8, 80.0], 4: [0.4, 0.8, 1.6, 80.0]}[train_levels]
    torch.testing.assert_close(sigma.unique(), torch.tensor(wanted))
    counts = [(sigma == level).float().mean().item() for level in sigma.unique()]
    assert counts == pytest.approx([share / max(train_levels - 1, 1)] * (train_levels - 1) + [1 - share], abs=0.03)
    for nfe in range(1, train_levels + 1):
        assert set(torch.tensor(model.config.levels(nfe)).tolist()) <= set(sigma.unique().tolist())


@STUDENTS
def test_the_generator_gets_noise_alone_at_sigma_max_and_noisy_data_below(method):
    model = tiny_model(method)
    (data, noise), seen = batch(8), []
    model.predict = lambda xt, t: seen.append((xt, t)) or xt
    fake, sigma = model.generate(data, noise)
    (xt, t) = seen[0]
    assert torch.equal(t, sigma) and torch.equal(fake, xt) and 0 < (t == 80).sum() < 8
    level = t[:, None, None, None]
    torch.testing.assert_close(xt[t == 80], (80 * noise)[t == 80], atol=0, rtol=0)
    torch.testing.assert_close(xt[t < 80], (data + level * noise)[t < 80])


@STUDENTS
@pytest.mark.parametrize("group", ["network", "discriminator"])
def test_a_group_s_loss_leaves_the_other_and_the_teacher_alone(method, group):
    model = tiny_model(method).train()
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    assert list(groups) == ["network", "discriminator"]
    model.compute_loss(*batch(), step=1, group=group).backward()
    for name, parameters in groups.items():
        assert all((p.grad is not None) == (name == group) for p in parameters)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_the_losses_pull_the_discriminator_and_the_network_against_each_other():
    """A step down either loss moves the logits of samples the way it should: up for the network, down for the discriminator."""
    for group, sign in (("network", 1), ("discriminator", -1)):
        model = tiny_model("gdd", train_levels=1, augment="none", r1_gamma=0.0)
        data, noise = batch(8)

        def logit(model=model, data=data, noise=noise):
            with torch.no_grad():
                torch.manual_seed(1)
                return sum(rows.mean() for rows in model.critic_logits(*model.generate(data, noise))).item()

        before, parameters = logit(), list(model.optim_groups()[group])
        for _ in range(5):
            torch.manual_seed(1)
            loss = model.compute_loss(data, noise, group=group)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.sub_(1e-2 * gradient / (1e-8 + torch.cat([g.flatten() for g in gradients]).norm()) ** 0.5)
        assert sign * (logit() - before) > 1e-4


def test_r1_is_on_the_features_of_data_at_every_sixteenth_step():
    """It adds interval * gamma / 2 * |gradient|^2: 16 times as much as every step would, a sixteenth as often."""
    model, (data, noise) = tiny_model("gdd", augment="none"), batch()
    discriminator = model.train_only["discriminator"].eval()  # spectral norm takes no step

    def loss(gamma, step):
        model.config.r1_gamma = gamma
        torch.manual_seed(2)
        return model.compute_loss(data, noise, step=step, group="discriminator").item()

    torch.manual_seed(2)
    _, sigma = model.generate(data, noise)  # draws what the loss draws before the features
    features = [maps.detach().requires_grad_() for maps in discriminator.features(data)]
    slopes = torch.autograd.grad(sum(rows.sum() for rows in discriminator(features, sigma)), features)
    penalty = sum(slope.square().flatten(1).sum(1) for slope in slopes).mean().item()
    assert penalty > 1e-3
    for step in (1, 17):
        assert loss(0.5, step) - loss(0.0, step) == pytest.approx(16 * 0.5 / 2 * penalty, rel=1e-3)
    for step in (2, 16):
        assert loss(0.5, step) == loss(0.0, step)


@STUDENTS
def test_data_and_samples_of_a_row_have_the_level_the_sample_was_made_from(method):
    assert len(tiny_model(method).train_only["discriminator"].levels) == 0
    model, (data, noise) = tiny_model(method, tell_level=True), batch(8)
    discriminator, told = model.train_only["discriminator"], []
    assert discriminator.levels.tolist() == pytest.approx(model.config.levels(4))
    discriminator.register_forward_pre_hook(lambda module, arguments: told.append(arguments[1]))
    for group, calls in (("network", 1), ("discriminator", 2)):
        torch.manual_seed(3)
        model.compute_loss(data, noise, step=2, group=group)
        torch.manual_seed(3)
        sigma = model.generate(data, noise)[1]
        assert len(told) == calls and len(sigma.unique()) > 1
        assert all(torch.equal(levels, sigma) for levels in told)
        told.clear()


@STUDENTS
def test_ada_hears_the_logits_of_data(method):
    model = tiny_model(method, ada_images=64)
    augment = model.train_only["augment"]
    heads = model.train_only["discriminator"].heads
    for value, expected in ((50.0, 0.5), (-50.0, 0.25)):
        for head in heads:
            torch.nn.init.constant_(head.layers[-1].bias, value)
        for step in (1, 2, 3, 4) if value > 0 else (5, 6):
            model.compute_loss(*batch(8), step=step, group="discriminator")
            model.on_step_end(step, 10)
        if value < 0:
            model.on_step_end(8, 10)
        assert augment.p.item() == pytest.approx(expected)


DENOISE = {"later_calls": "denoise", "mid_sigma": 0.4, "mid_span": 2.0, "mid_share": 0.25}


def test_a_model_whose_later_calls_denoise_generates_from_noise_alone():
    model, (data, noise) = tiny_model("gdd", **DENOISE), batch(8)
    fake, sigma = model.generate(data, noise)
    assert (sigma == 80).all()
    torch.testing.assert_close(fake, model.generate(torch.zeros_like(data), noise)[0], atol=0, rtol=0)
    seen = []
    model.train_only["discriminator"].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    model.compute_loss(data, noise, step=2, group="network")
    model.compute_loss(data, noise, step=2, group="discriminator")
    assert [len(sigma) for sigma in seen] == [6, 8, 8] and all((sigma == 80).all() for sigma in seen)


def test_later_calls_stay_the_teacher_s():
    """The loss is 0 for the teacher itself; for another network it is the weighted square that it is told to be."""
    (data, noise), seen = batch(64), []
    model = tiny_model("gdd", denoise_weight=3.0, **DENOISE)
    same = tiny_model("gdd", **DENOISE)
    same.network.load_state_dict(same.teacher.network.state_dict())
    assert same.denoising_losses(data, noise).abs().max() < 1e-8
    torch.nn.init.normal_(model.network.tail[-1].weight, std=0.1)
    model.on_losses = lambda sigma, losses: seen.append((sigma, losses))
    loss = model.denoising_losses(data, noise)
    ((sigma, losses),) = seen
    assert torch.equal(loss, losses) and 0.2 <= sigma.min() < 0.25 and 0.65 < sigma.max() <= 0.8
    assert set(sigma.tolist()) != set(model.config.levels(4)), "any number of calls is served, not that of the training alone"
    xt = data + sigma[:, None, None, None] * noise
    with torch.no_grad():
        gap = (model.predict(xt, sigma) - model.teacher.predict(xt, sigma)).square().mean((1, 2, 3))
    sigma_data = model.config.sigma_data
    torch.testing.assert_close(loss, 3 * gap * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2)
    loss.sum().backward()
    assert all(p.grad is None for p in model.teacher.parameters()) and model.network.tail[-1].weight.grad is not None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_of_one_kind(share):
    model = tiny_model("gdd", **{**DENOISE, "mid_share": share})
    loss = model.compute_loss(*batch(), group="network")
    assert torch.isfinite(loss) and loss.requires_grad


@pytest.mark.parametrize("sigma_max", [80.0, 10.7])  # as float32 the second is less than as Python's number
def test_later_calls_are_euler_steps_from_new_noise(sigma_max):
    """The second call is given a sample with new noise; those after it go on with the noise that is in it."""
    model, seen = tiny_model("gdd", sigma_max=sigma_max, **DENOISE), []
    model.predict = lambda xt, t, **kwargs: seen.append((xt, t)) or 0.5 * xt / (1 + t[:, None, None, None])
    sample = model.sample((2, *SHAPE), num_inference_timesteps=4, seeds=[1, 2])
    (_, first), (x1, t1), (x2, t2), (x3, t3) = seen
    assert [t[0].item() for t in (first, t1, t2, t3)] == pytest.approx([sigma_max, 0.8, 0.4, 0.2])
    clean = 0.5 * seen[0][0] / (1 + sigma_max)
    assert (x1 - clean).std() == pytest.approx(0.8, rel=0.2) and not torch.allclose(
        x1 - clean, 0.8 / sigma_max * (seen[0][0] - clean)
    )
    for (x, t), (x_next, t_next) in (((x1, t1), (x2, t2)), ((x2, t2), (x3, t3))):
        clean = 0.5 * x / (1 + t[:, None, None, None])
        torch.testing.assert_close(x_next, clean + t_next[0] / t[0] * (x - clean))
    torch.testing.assert_close(sample, (0.5 * x3 / (1 + t3[0])).clamp(-1, 1))
    other = tiny_model("gdd", sigma_max=sigma_max, **{**DENOISE, "later_calls": "generate"})
    other.predict = model.predict
    assert not torch.allclose(other.sample((2, *SHAPE), num_inference_timesteps=4, seeds=[1, 2]), sample)


@pytest.mark.slow
def test_one_network_learns_to_generate_and_stays_a_denoiser():
    """In the plane: all modes in one call, and below sigma_max a twentieth as far from the teacher as where it generates."""
    data, gaps = eight_gaussians.POINTS[: eight_gaussians.SAMPLES], {}
    for later_calls in ("generate", "denoise"):
        student = eight_gaussians.student("gdd", later_calls=later_calls, mid_sigma=0.6, mid_span=2.0)
        trained = eight_gaussians.train(student, 400, batch=256)
        assert eight_gaussians.modes(trained, 1) == 8
        gaps[later_calls] = 0.0
        for level in trained.config.levels(4)[1:]:
            sigma = torch.full((len(data),), level)
            xt = data + level * torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                gaps[later_calls] += (trained.predict(xt, sigma) - trained.teacher.predict(xt, sigma)).square().mean().item()
    assert gaps["denoise"] < gaps["generate"] / 20


def test_freeze_is_the_residual_blocks_convolutions():
    with torch.device("meta"):
        network = create_custom_model("meta", method="gdd").network
    share = sum(p.numel() for p in block_convolutions(network)) / sum(p.numel() for p in network.parameters())
    assert share == pytest.approx(0.783, abs=1e-3)
    model = tiny_model("gdd", freeze=True)
    learns = {name for name, p in model.network.named_parameters() if p.requires_grad}
    frozen = {name for name, _ in model.network.named_parameters()} - learns
    assert all(".block1.2." in name or ".block2.3." in name for name in frozen) and len(frozen) == 4 * 8
    assert {"head.weight", "tail.2.weight", "upblocks.0.shortcut.weight", "downblocks.1.main.weight"} <= learns
    assert {"upblocks.0.block1.0.weight", "middleblocks.0.attn.proj_q.weight", "upblocks.0.temb_proj.1.weight"} <= learns


def test_what_is_frozen_stays_and_the_rest_learns(tmp_path):
    model = tiny_model("gdd", freeze=True)
    battery.check_loss(lambda: model)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.network.named_parameters()}
    battery.run_loop(model, tmp_path, steps=4)
    for name, p in model.network.named_parameters():
        learns, old = before[name]
        assert torch.equal(p, old) != learns, name
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    frozen = [name for name, (learns, _) in before.items() if not learns]
    assert all(torch.equal(saved[f"network.{name}"], before[name][1]) for name in frozen)


def test_freeze_needs_residual_blocks():
    with pytest.raises(ValueError, match="freeze is for the U-Net: this network has no residual blocks"):
        get_method("gdd").from_options(torch.nn.Linear(2, 2), freeze=True)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """With the discriminator, its optimizer's pace and ADA's probability, which resume.pt holds."""

    def run(folder, steps, resume=False):
        torch.manual_seed(7)
        model = tiny_model("gdd", ada_images=40, d_lr_scale=3.0, r1_interval=2, dropout=0.1)
        with torch.no_grad():
            for head in model.train_only["discriminator"].heads:
                head.layers[-1].bias.fill_(3.0)
        if resume:
            for p in model.train_only["discriminator"].parameters():
                torch.nn.init.zeros_(p)
        short = {"lr_warmup": 0, "log_interval": 2, "save_interval": 100}
        config = TrainingConfig(batch_size=8, num_iterations=steps, lr=1e-3, **short)
        Trainer(model, random_images(32), config, {"method": "gdd", **TINY}, folder, CPU).run(resume)
        return torch.load(folder / "resume.pt", weights_only=True)

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 5)
    parts = run(tmp_path / "parts", 6, resume=True)
    assert set(parts["train_only"]) == {"teacher", "discriminator", "augment"}
    for part in ("discriminator", "augment"):
        for name, value in whole["train_only"][part].items():
            assert torch.equal(value, parts["train_only"][part][name]), name
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    assert whole["train_only"]["augment"]["p"] > 0.5
    optimizer = parts["optimizers"]["discriminator"]["param_groups"][0]
    assert optimizer["lr"] == pytest.approx(3e-3) and tuple(optimizer["betas"]) == (0.0, 0.99)
    assert {"loss", "loss_discriminator"} <= set(json.loads((tmp_path / "parts" / "log.jsonl").read_text().splitlines()[-1]))


@STUDENTS
def test_without_a_teacher_it_says_so(method):
    model = create_custom_model(method=method, **TINY)
    with pytest.raises(ValueError, match="learns from a teacher: name its run with --teacher"):
        model.optim_groups()


def test_the_loss_is_the_non_saturating_one():
    """With the logits planted: log(1 + e^-a) + log(1 + e^b) for the discriminator, log(1 + e^-b) for the network."""
    model = tiny_model("gdd", r1_gamma=0.0)
    discriminator = model.train_only["discriminator"]
    discriminator.features = lambda x, labels=None: [x]
    a, b = torch.tensor([[0.3], [1.0]]), torch.tensor([[-0.7], [2.0]])
    data, noise = batch(2)
    discriminator.forward = lambda features, sigma, labels=None: [a if torch.equal(features[0], data) else b]
    got = model.compute_loss(data, noise, group="discriminator")
    torch.testing.assert_close(got, non_saturating_discriminator([a], [b]).mean())
    torch.testing.assert_close(model.compute_loss(data, noise), torch.log1p((-b).exp()).mean())
