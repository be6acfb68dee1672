"""Labels as arguments: every method that takes them tells each image its own."""

import pytest
import torch

from custom_model import create_custom_model
from src.challenges.shared.unet import ClassUNet
from src.methods import METHODS, method_names
from src.network import UNet
from tests.helpers import TINY, fill_by_rule
from tests.methods import battery

CLASSES = 6
LABELLED = [name for name in method_names() if METHODS.get(name).takes_labels]


def labelled_model(method, **options):
    cls = METHODS.get(method)
    network = fill_by_rule(ClassUNet(**TINY, use_additional_condition=bool(cls.needs_condition), num_classes=CLASSES))
    with torch.no_grad():
        network.class_embedding.weight.mul_(20)
    model = cls.from_options(network, **options)
    if model.needs_teacher:
        model.set_teacher(labelled_model("edm"))
    return model.eval()


def test_these_methods_take_labels():
    wanted = {"rectified_flow", "ddpm", "edm", "shortcut", "meanflow", "consistency", "progressive", "gdd", "custom"}
    assert wanted <= set(LABELLED)


@pytest.mark.parametrize("method", LABELLED)
def test_battery_of_labels(method):
    battery.check_labels(lambda: labelled_model(method))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("flow_map", {"variant": "progressive"}),
        ("consistency", {"variant": "ict"}),
        ("gdd", {"tell_level": True}),
        ("meanflow", {"flow_share": 0.5}),
        ("shortcut", {"bootstrap_share": 0.5}),
        ("add", {"distill_weight": 1.0}),
    ],
)
def test_battery_of_labels_with_options(method, options):
    battery.check_labels(lambda: labelled_model(method, **options))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_students_of_a_guided_teacher(scale):
    """The teacher is asked for each image's label, and where it is guided for no class too."""
    for method in ("progressive", "consistency"):
        model = labelled_model(method, teacher_guidance=scale)
        model.set_teacher(labelled_model("edm"))
        given, denoised = [], model.teacher.denoised
        model.train_only["teacher"].denoised = lambda x, sigma, labels, given=given, denoised=denoised: (
            given.append(labels.tolist()) or denoised(x, sigma, labels=labels)
        )
        labels = torch.tensor([1, 6, 0, 3])
        torch.manual_seed(0)
        model.compute_loss(torch.randn(4, *battery.SHAPE), torch.randn(4, *battery.SHAPE), step=1, labels=labels)
        expected = [labels.tolist(), [0] * 4] if scale else [labels.tolist()]
        assert given == expected * 2, method


def test_a_teacher_of_other_classes_is_refused():
    student = labelled_model("progressive")
    unlabelled = METHODS.get("edm").from_options(UNet(**TINY))
    with pytest.raises(ValueError, match="a model of no classes cannot teach one of 6"):
        student.set_teacher(unlabelled)


@pytest.mark.parametrize("fault", ["dropped in the loss", "order", "dropped in sampling", "a part's labels", "deaf"])
def test_the_battery_finds(fault):
    """A method that loses or confuses labels."""

    def make():
        model = labelled_model("shortcut" if fault == "a part's labels" else "rectified_flow")
        loss, step = model.compute_loss, model.sampling_step
        if fault == "dropped in the loss":
            model.compute_loss = lambda *args, labels, **kwargs: loss(*args, **kwargs)
        elif fault == "order":
            model.compute_loss = lambda *args, labels, **kwargs: loss(*args, labels=labels.flip(0), **kwargs)
        elif fault == "dropped in sampling":
            model.sampling_step = lambda *args, labels=None, **kwargs: step(*args, **kwargs)
        elif fault == "a part's labels":
            target = model.bootstrap_target
            model.bootstrap_target = lambda *args, labels: target(*args, labels=labels * 0 + 1)
        else:
            with torch.no_grad():
                model.network.class_embedding.weight.zero_()
        return model

    with pytest.raises(AssertionError):
        battery.check_labels(make)


def test_without_classes_it_is_the_u_net():
    """Names, shapes, order of parameters and outputs."""
    torch.manual_seed(0)
    plain = UNet(**TINY)
    torch.manual_seed(0)
    other = ClassUNet(**TINY)
    assert list(plain.state_dict()) == list(other.state_dict())
    fill_by_rule(plain).eval(), fill_by_rule(other).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 300.0])
    assert torch.equal(plain(x, t), other(x, t))
    labelled = ClassUNet(**TINY, num_classes=3)
    added = set(labelled.state_dict()) - set(plain.state_dict())
    assert added == {"class_embedding.weight"} and labelled.class_embedding.weight.shape == (4, 4 * TINY["ch"])


def test_a_label_is_an_embedding_beside_the_time():
    """With every class's embedding zero the network is the U-Net, with and without the second scalar."""
    for condition in (None, torch.tensor([0.3, 0.7])):
        flags = {**TINY, "use_additional_condition": condition is not None}
        plain, labelled = fill_by_rule(UNet(**flags)).eval(), fill_by_rule(ClassUNet(**flags, num_classes=3)).eval()
        torch.nn.init.zeros_(labelled.class_embedding.weight)
        x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 300.0])
        torch.testing.assert_close(labelled(x, t, condition, labels=torch.tensor([1, 3])), plain(x, t, condition))


def test_who_takes_no_labels_says_so():
    with pytest.raises(ValueError, match=r"method ctm takes no labels; those that do: .*meanflow"):
        create_custom_model(challenge="mnist", method="ctm", classes=["a"])
    with pytest.raises(ValueError, match="challenge simpsons takes no labels"):
        create_custom_model(method="edm", classes=["a"])
