"""What a discriminator is shown: each operation does what it says, and ADA turns it up when the discriminator overfits."""

import pytest
import torch

from src.methods.shared import augment as augment_file
from src.methods.shared.augment import Augment, brightness, contrast, cut_out, saturation, translate

OPERATIONS = [brightness, saturation, contrast, translate, cut_out]
COUNT = 200
ALL, NONE = torch.ones(COUNT, dtype=torch.bool), torch.zeros(COUNT, dtype=torch.bool)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(COUNT, 3, 16, 24) * 2 - 1


@pytest.mark.parametrize("kind", ["none", "ada"])
def test_at_p_0_nothing_changes(kind, images):
    assert torch.equal(Augment(kind)(images), images)


def test_points_are_left_alone():
    points = torch.randn(8, 2)
    assert torch.equal(Augment("diffaug")(points), points)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_the_chosen_images_change(operation, images):
    chosen = torch.arange(COUNT) % 2 == 0
    changed = (operation(images, chosen) - images).flatten(1).abs().amax(dim=1) > 1e-6
    assert not changed[~chosen].any()
    assert changed[chosen].float().mean() > 0.9  # a translation by (0, 0) is one in 35
    torch.testing.assert_close(operation(images, NONE), images)


def test_brightness_adds_a_number(images):
    added = brightness(images, ALL) - images
    torch.testing.assert_close(added, added[:, :1, :1, :1].expand_as(added), atol=1e-6, rtol=0)
    added = added[:, 0, 0, 0]
    assert -0.5 <= added.min() < -0.4 and 0.4 < added.max() <= 0.5


def test_saturation_keeps_the_grey_and_scales_the_colours(images):
    out = saturation(images, ALL)
    torch.testing.assert_close(out.mean(dim=1), images.mean(dim=1), atol=1e-5, rtol=0)
    before, after = (value - value.mean(dim=1, keepdim=True) for value in (images, out))
    factor = (before * after).flatten(1).sum(1) / before.square().flatten(1).sum(1)
    torch.testing.assert_close(after, factor[:, None, None, None] * before, atol=1e-5, rtol=0)
    assert 0 <= factor.min() < 0.1 and 1.9 < factor.max() <= 2


def test_contrast_keeps_the_mean_and_scales_the_rest(images):
    out = contrast(images, ALL)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    factor = ((out - mean) / (images - mean)).flatten(1).median(dim=1).values
    torch.testing.assert_close(out, mean + factor[:, None, None, None] * (images - mean), atol=1e-5, rtol=0)
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5


def test_translation_moves_by_up_to_an_eighth(images):
    """Position tells the shift: an image of row and column numbers."""
    rows, columns = torch.meshgrid(torch.arange(1.0, 17), torch.arange(1.0, 25), indexing="ij")
    out = translate(torch.stack([rows, columns, rows]).expand(COUNT, 3, 16, 24), ALL)
    down, right = rows[8, 12] - out[:, 0, 8, 12], columns[8, 12] - out[:, 1, 8, 12]
    assert set(down.tolist()) == set(range(-2, 3)) and set(right.tolist()) == set(range(-3, 4))
    for index in range(20):
        moved, (dy, dx) = torch.zeros(16, 24), (int(down[index]), int(right[index]))
        source = rows[max(-dy, 0) : 16 - max(dy, 0), max(-dx, 0) : 24 - max(dx, 0)]
        moved[max(dy, 0) : 16 + min(dy, 0), max(dx, 0) : 24 + min(dx, 0)] = source
        assert torch.equal(out[index, 0], moved)


def test_cut_out_is_a_rectangle_of_half_the_sides(images):
    out = cut_out(images, ALL)
    cut = (out == 0).all(dim=1)
    assert torch.equal(out, images * ~cut[:, None])
    heights, widths = cut.any(dim=2).sum(dim=1), cut.any(dim=1).sum(dim=1)
    assert torch.equal(cut.sum(dim=(1, 2)), heights * widths), "not a rectangle"
    assert heights.max() == 8 and widths.max() == 12 and heights.min() >= 3 and widths.min() >= 5
    assert cut.any(dim=0).all(), "some pixels are never cut out"


def test_it_is_differentiable(images):
    """The gradient against a difference, the draws being the same."""
    augment, x, step = Augment("diffaug"), images[:4].double().requires_grad_(), 1e-4
    weights = torch.randn(4, 3, 16, 24).double()

    def value(x):
        torch.manual_seed(3)
        return (augment(x) * weights).sum()

    value(x).backward()
    direction = torch.randn_like(x)
    difference = (value(x.detach() + step * direction) - value(x.detach() - step * direction)) / (2 * step)
    torch.testing.assert_close((x.grad * direction).sum(), difference, atol=1e-6, rtol=1e-6)
    assert x.grad.abs().mean() > 0.1


def test_each_operation_has_its_probability(monkeypatch, images):
    asked = []
    for operation in OPERATIONS:
        monkeypatch.setattr(augment_file, operation.__name__, lambda x, chosen: asked.append(chosen) or x)
    augment = Augment("ada")
    augment.p.fill_(0.3)
    torch.manual_seed(0)
    for _ in range(10):
        augment(images)
    chosen = torch.stack(asked).float().reshape(10, len(OPERATIONS), COUNT)
    assert (chosen.mean(dim=(0, 2)) - 0.3).abs().max() < 0.04
    together = torch.corrcoef(chosen.transpose(0, 1).flatten(1)) - torch.eye(len(OPERATIONS))
    assert together.abs().max() < 0.08, "operations are chosen together"


def logits(mean_sign: float) -> list[torch.Tensor]:
    """Two scales of a batch of 100."""
    positive = round(50 * (1 + mean_sign))
    signs = torch.cat([torch.ones(positive), -torch.ones(100 - positive)])[:, None]
    return [3 * signs, 0.1 * signs.expand(100, 4)]


def follow(augment: Augment, mean_sign: float, steps: int) -> float:
    for _ in range(steps):
        augment.observe(logits(mean_sign))
        augment.observe(logits(mean_sign))
        augment.adapt()
    return augment.p.item()


def test_ada_rises_when_the_discriminator_overfits():
    """By the number of images: 1,000 of them move p by a tenth."""
    augment = Augment("ada", target=0.6, images=10_000)
    assert follow(augment, 1.0, 5) == pytest.approx(0.1)
    assert follow(augment, 0.7, 5) == pytest.approx(0.2)
    assert follow(augment, 0.5, 5) == pytest.approx(0.1), "below the target it falls"
    assert follow(augment, -1.0, 20) == 0
    assert follow(augment, 1.0, 100) == 1


def test_nothing_observed_changes_nothing_and_diffaug_stays():
    augment = Augment("ada")
    augment.p.fill_(0.5)
    augment.adapt()
    assert augment.p == 0.5
    assert follow(Augment("diffaug"), -1.0, 100) == 1 and follow(Augment("none"), 1.0, 100) == 0


def test_the_probability_is_saved():
    augment, other = Augment("ada", images=1000), Augment("ada", images=1000)
    follow(augment, 1.0, 2)
    augment.observe(logits(1.0))
    other.load_state_dict(augment.state_dict())
    assert follow(other, 1.0, 1) == follow(augment, 1.0, 1) == pytest.approx(0.7)
