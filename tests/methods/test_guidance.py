"""Guidance on a mixture of two Gaussians, its two classes, where the guided score has a closed form."""

import pytest
import torch
from torch import nn

from custom_model import create_custom_model
from src.common.guidance import Guidance, guided_denoised
from src.methods import METHODS, get_method
from tests.methods.oracles import Gaussian, Mixture

NULL = Mixture((-0.6, 0.5), (0.25, 0.15), (0.4, 0.6))
CLASSES = [NULL, Gaussian(-0.6, 0.25), Gaussian(0.5, 0.15)]
SIGMA_DATA = 0.5
CASES = [
    ("rectified_flow", {}),
    ("edm", {"sigma_data": SIGMA_DATA}),
    ("ddpm", {"prediction": "epsilon"}),
    ("ddpm", {"prediction": "v"}),
    ("ddpm", {"prediction": "x0"}),
]


class ExactNetwork(nn.Module):
    """Knows the best denoiser of both classes and of their mixture, and gives it as its method's network does."""

    use_additional_condition, num_classes = False, 2

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.labels = []

    def forward(self, x, timestep, labels=None):
        labels = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
        self.labels.append(labels.tolist())
        alpha, sigma, unscaled = self.path(timestep[:, None], x)
        each = torch.stack([part.posterior_mean(unscaled, alpha, sigma) for part in CLASSES])
        return self.output(each[labels, torch.arange(len(x))], x, timestep[:, None])


def exact_model(method, options):
    """The method with an exact network."""
    network = ExactNetwork()
    model = get_method(method).from_options(network, time_scale=1.0, **options).double()
    prediction = options.get("prediction")

    def path(time, x):
        """alpha and sigma of the state, and the state, for what the network is given."""
        if method == "rectified_flow":
            return time, 1 - time, x
        if method == "edm":
            sigma = (4 * time).exp()
            return torch.ones_like(sigma), sigma, x * (sigma**2 + SIGMA_DATA**2).sqrt()
        return *model.scheduler.signal_and_noise(time[:, 0], x), x

    def output(data, x, time):
        alpha, sigma, state = path(time, x)
        noise = (state - alpha * data) / sigma
        if method == "rectified_flow":
            return data - noise
        if method == "edm":
            return (data - SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2) * state) / (
                sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()
            )
        return {"epsilon": noise, "x0": data, "v": alpha * noise - sigma * data}[prediction]

    network.path, network.output = path, output
    return model


def states(model, method):
    """States (B, 3) at times inside of the path, their times, alpha and sigma, and labels of both classes."""
    torch.manual_seed(0)
    t = 0.1 + 0.8 * torch.rand(16, dtype=torch.float64)
    if method == "ddpm":
        t = (t * 1000).round() / 1000
        alpha, sigma = model.scheduler.signal_and_noise(t, t)
    elif method == "edm":
        t = 3 * t
        alpha, sigma = torch.ones_like(t), t
    else:
        alpha, sigma = t, 1 - t
    labels = torch.arange(16) % 2 + 1
    return torch.randn(16, 3, dtype=torch.float64), t, alpha[:, None], sigma[:, None], labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 7.5])
@pytest.mark.parametrize(("method", "options"), CASES)
def test_the_guided_score_has_its_closed_form(method, options, scale):
    """score(null) + w (score(class) - score(null)), whatever the network predicts."""
    model = exact_model(method, options)
    x, t, alpha, sigma, labels = states(model, method)
    steered = model.steered(x, t, labels=labels, guidance=Guidance(scale))

    null = NULL.score(x, alpha, sigma)
    own = torch.stack([part.score(x, alpha, sigma) for part in CLASSES])[labels, torch.arange(len(x))]
    score = null + scale * (own - null)
    data = (x + sigma**2 * score) / alpha  # Tweedie's formula
    noise = -sigma * score
    kind = {"rectified_flow": "velocity", "edm": "x0"}.get(method) or options["prediction"]
    expected = {"velocity": data - noise, "epsilon": noise, "x0": data, "v": alpha * noise - sigma * data}[kind]
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_as_a_teacher_it_is_guided_the_same_way(method, options):
    model = exact_model(method, options)
    x, _, _, sigma, labels = states(model, "edm")
    guided = guided_denoised(model, x, sigma[:, 0], labels, 3.0)
    null = NULL.posterior_mean(x, 1.0, sigma)
    own = torch.stack([part.posterior_mean(x, 1.0, sigma) for part in CLASSES])[labels, torch.arange(len(x))]
    torch.testing.assert_close(guided, null + 3 * (own - null), atol=2e-3, rtol=2e-3)


def test_the_other_convention_is_the_same_at_one_less():
    """The docstring's translation: (1 + w') pred - w' base with w' = w - 1."""
    model = exact_model("edm", {"sigma_data": SIGMA_DATA})
    x, t, _, _, labels = states(model, "edm")
    pred, base = model.predict(x, t, labels=labels), model.predict(x, t, labels=torch.zeros_like(labels))
    torch.testing.assert_close(model.steered(x, t, labels=labels, guidance=Guidance(7.5)), 7.5 * pred - 6.5 * base)


@pytest.mark.parametrize(("method", "options"), CASES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_scale_0_makes_one_call_a_step_and_another_one_two(method, options, steps):
    for scale, calls in ((None, steps), (0.0, steps), (7.5, 2 * steps)):
        model = exact_model(method, options).float()
        guidance = None if scale is None else Guidance(scale)
        model.sample((4, 3), steps, seeds=range(4), labels=torch.tensor([1, 2, 1, 2]), guidance=guidance)
        assert len(model.network.labels) == calls
        told = [[1, 2, 1, 2], [0, 0, 0, 0]] * steps if scale else [[1, 2, 1, 2]] * steps
        assert model.network.labels == told


@pytest.mark.parametrize(("method", "options"), CASES[:3])
def test_guidance_moves_samples_towards_their_class_and_together(method, options):
    """At scale 3 samples of a class lie farther from the other class, and nearer each other, than at scale 1."""
    ends = {}
    for scale in (0.0, 0.01, 0.5, 1.0, 3.0):
        model = exact_model(method, options).float()
        labels = torch.full((256,), 2)
        ends[scale] = model.sample((256, 1), 40, seeds=range(256), labels=labels, guidance=Guidance(scale))
    unguided = model.sample((256, 1), 40, seeds=range(256), labels=torch.zeros(256, dtype=torch.int64))
    distance = {scale: (samples - unguided).abs().mean() for scale, samples in ends.items()}
    assert distance[0.01] < 0.1 * distance[1.0] and distance[0.01] < distance[0.5] < distance[1.0], "a small scale is no class"
    torch.testing.assert_close(ends[0.0], ends[1.0], atol=1e-3, rtol=1e-3)
    assert ends[1.0].mean() == pytest.approx(0.5, abs=0.05) and ends[1.0].std() == pytest.approx(0.15, abs=0.04)
    assert ends[3.0].mean() > ends[1.0].mean()
    assert ends[3.0].std() < ends[1.0].std()


def test_swapped_null_and_label_are_found():
    """The planted fault: what is told no class is steered towards, and the class away from."""
    model = exact_model("edm", {"sigma_data": SIGMA_DATA}).float()
    labels = torch.full((256,), 2)
    right = model.sample((256, 1), 20, seeds=range(256), labels=labels, guidance=Guidance(3.0))
    predict = model.predict
    model.predict = lambda x, t, labels: predict(x, t, labels=torch.where(labels == 0, 2, 0))
    wrong = model.sample((256, 1), 20, seeds=range(256), labels=labels, guidance=Guidance(3.0))
    assert (right - 0.5).abs().mean() < 0.3 < (wrong - 0.5).abs().mean()


def test_an_interval_guides_between_its_noise_levels_only():
    model = exact_model("edm", {"sigma_data": SIGMA_DATA, "solver": "euler"}).float()
    levels = model.time_grid(10)
    low, high = levels[6].item(), levels[3].item()
    model.sample((2, 3), 10, seeds=range(2), labels=torch.tensor([1, 2]), guidance=Guidance(2.0, low, high))
    expected = []
    for level in levels[:-1]:
        expected += [[1, 2], [0, 0]] if low <= level <= high else [[1, 2]]
    assert model.network.labels == expected and len(expected) == 14


@pytest.mark.parametrize(("method", "options"), CASES)
def test_times_stand_for_their_noise_levels(method, options):
    model = exact_model(method, options)
    _, t, alpha, sigma, _ = states(model, method)
    torch.testing.assert_close(model.scheduler.noise_level(t), (sigma / alpha)[:, 0], atol=1e-5, rtol=1e-4)


def test_autoguidance_steers_away_from_the_weaker_model():
    """The weaker model knows one wide Gaussian instead of both classes; it is asked for the same labels."""
    model = exact_model("edm", {"sigma_data": SIGMA_DATA})
    weak = exact_model("edm", {"sigma_data": SIGMA_DATA})
    wide = Gaussian(0.0, 0.8)
    x, t, _, sigma, labels = states(model, "edm")
    weak.predict = lambda x, t, labels=None: wide.posterior_mean(x, 1.0, t[:, None])
    steered = model.steered(x, t, labels=labels, guidance=Guidance(2.0, weak=weak))
    own = torch.stack([part.posterior_mean(x, 1.0, sigma) for part in CLASSES])[labels, torch.arange(len(x))]
    torch.testing.assert_close(steered, 2 * own - wide.posterior_mean(x, 1.0, sigma), atol=1e-6, rtol=1e-6)
    without = model.steered(x, t, guidance=Guidance(2.0, weak=weak))  # a model without labels has a weaker one too
    torch.testing.assert_close(without, 2 * NULL.posterior_mean(x, 1.0, sigma) - wide.posterior_mean(x, 1.0, sigma))


def test_what_cannot_be_guided_says_so():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Guidance(-1.0)
    with pytest.raises(ValueError, match="at least 0, got nan"):
        Guidance(float("nan"))
    with pytest.raises(ValueError, match="low < high, got 2 to 1"):
        Guidance(1.0, 2.0, 1.0)
    model = exact_model("edm", {"sigma_data": SIGMA_DATA})
    with pytest.raises(ValueError, match="needs labels"):
        model.steered(torch.zeros(2, 3), torch.ones(2), guidance=Guidance(2.0))
    unguided = [name for name, cls in METHODS.items() if not cls.takes_guidance]
    assert {"meanflow", "shortcut", "flow_map"} <= set(unguided) and "edm" not in unguided
    network = create_custom_model(challenge="mnist", method="edm", ch=8).network
    with pytest.raises(ValueError, match="labels were given to a network without classes"):
        network(torch.zeros(1, 1, 28, 28), 0.0, labels=torch.tensor([1]))
