"""EDM against closed forms: a Gaussian and a mixture, where the best denoiser and the flow map are known."""

import math

import pytest
import torch

from src.common.noise import draw_noise
from src.methods import get_method
from tests.helpers import tiny_model
from tests.methods import battery
from tests.methods.oracles import GAUSSIAN, MIXTURE, Gaussian

SHAPE = (200, 2)  # points, not images: nothing may assume four axes
ORACLES = pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])


class ExactNetwork(torch.nn.Module):
    """The F of eq. 7 for which D is the best denoiser for data of the oracle."""

    def __init__(self, oracle, sigma_data, time_scale):
        super().__init__()
        self.oracle, self.sigma_data, self.time_scale = oracle, sigma_data, time_scale
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, timestep):
        sigma = (4 * timestep.double() / self.time_scale).exp().reshape(-1, *[1] * (x.ndim - 1))
        both = (sigma**2 + self.sigma_data**2).sqrt()
        xt = x * both
        wanted = self.oracle.posterior_mean(xt, 1, sigma) - self.sigma_data**2 / both**2 * xt
        return wanted / (sigma * self.sigma_data / both) + self.shift


class Constant(torch.nn.Module):
    """Returns one number everywhere, and keeps what it was given."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x, timestep):
        self.seen = x.detach(), timestep
        return self.value.expand(x.shape)


def edm(network, **options):
    return get_method("edm").from_options(network, **options).double()


def exact_model(oracle=GAUSSIAN, **options):
    return edm(ExactNetwork(oracle, options.get("sigma_data", 0.5), options.get("time_scale", 1.0)), **options)


@pytest.fixture
def double_noise(monkeypatch):
    """Sampling starts from float64 noise and so stays in float64."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape, *args, **kwargs: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr("src.methods.shared.method.draw_noise", draw)


def convergence(model, oracle, calls):
    """Mean distance from the exact flow map, for each number of calls."""
    errors = []
    for n in calls:
        states = model.sample(SHAPE, n, return_traj=True)
        errors.append((states[-1] - oracle.flow(states[0], 1, model.config.sigma_max)).abs().mean().item())
    return errors


def check_order(errors, order, least):
    ratios = [errors[i] / errors[i + 1] for i in range(len(errors) - 1)]
    assert errors[-1] < least, errors
    assert all(0.8 * 2**order < ratio < 1.25 * 2**order for ratio in ratios), ratios


# ---------------------------------------------------------------------------------------------------- what is learned


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 0.5, 3.0, 80.0])
def test_input_target_and_loss_have_unit_variance_at_every_level(sigma, sigma_data):
    """Table 1's preconditioning, for data of standard deviation sigma_data; by lambda(sigma) each level counts 1."""
    data = Gaussian(0.0, sigma_data).data((100000, 1), seed=1)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(2)).double()
    level = torch.full((len(data),), sigma, dtype=torch.float64)
    zero, one = edm(Constant(0.0), sigma_data=sigma_data), edm(Constant(1.0), sigma_data=sigma_data)
    xt = zero.scheduler.forward_process(data, noise, level)
    skipped = zero.predict(xt, level)
    c_out = one.predict(xt, level) - skipped
    target = (data - skipped) / c_out
    seen, c_noise = zero.network.seen
    assert seen.std().item() == pytest.approx(1, abs=0.01)
    assert target.std().item() == pytest.approx(1, abs=0.01)
    assert c_noise[0].item() == pytest.approx(math.log(sigma) / 4)

    losses = []
    zero.scheduler.sample_timesteps = lambda *args: level
    zero.on_losses = lambda t, values: losses.append((t, values))
    loss = zero.compute_loss(data, noise)
    torch.testing.assert_close(losses[0][1], target.square().flatten())
    assert torch.equal(losses[0][0], level) and loss.item() == pytest.approx(1, abs=0.02)


@ORACLES
def test_the_exact_denoiser_has_the_least_loss(oracle):
    model = exact_model(oracle, time_scale=7.0)
    data, noise = oracle.data((4000, 2)), torch.randn((4000, 2), generator=torch.Generator().manual_seed(1)).double()
    losses = {}
    for shift in (-0.2, 0.0, 0.2):
        torch.manual_seed(1)
        model.network.shift.data.fill_(shift)
        losses[shift] = model.compute_loss(data, noise).item()
    assert losses[0.0] < min(losses[-0.2], losses[0.2]) - 0.02
    assert losses[0.2] + losses[-0.2] - 2 * losses[0.0] == pytest.approx(2 * 0.2**2)  # each level's weight is 1


@ORACLES
def test_prediction_is_the_denoised_data_in_the_states_own_type(oracle):
    model = exact_model(oracle)
    x, sigma = torch.linspace(-2, 2, 8).double().reshape(4, 2), torch.tensor([0.05, 0.5, 2.0, 60.0]).double()
    torch.testing.assert_close(model.predict(x, sigma), oracle.posterior_mean(x, 1, sigma[:, None]))
    tiny = tiny_model("edm")
    with torch.autocast("cpu", torch.bfloat16):
        states = tiny.sample((2, 3, 16, 16), 3, return_traj=True, seeds=[1, 2])
        assert all(state.dtype == torch.float32 for state in states)
        assert tiny.compute_loss(states[-1], states[0]).dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------ sampling


def check_convergence(model, oracle):
    if model.config.solver == "euler":
        check_order(convergence(model, oracle, (32, 64, 128, 256)), order=1, least=0.02)
    else:
        check_order(convergence(model, oracle, (63, 127, 255)), order=2, least=2e-3)


@ORACLES
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_sampling_converges_to_the_exact_map(solver, oracle, double_noise):
    """Euler's method at first order, Heun's at second; its last step, Euler's, is short here."""
    check_convergence(exact_model(oracle, solver=solver, sigma_min=1e-5), oracle)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_wrong_sign_in_the_step_is_found(solver, double_noise, monkeypatch):
    model = exact_model(solver=solver, sigma_min=1e-5)
    check_convergence(model, GAUSSIAN)
    step = model.scheduler.reverse_process_step
    monkeypatch.setattr(model.scheduler, "reverse_process_step", lambda xt, pred, t, t_next: 2 * xt - step(xt, pred, t, t_next))
    with pytest.raises(AssertionError):
        check_convergence(model, GAUSSIAN)


@pytest.mark.parametrize("calls", range(1, 10))
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_every_call_is_counted(solver, calls):
    model = tiny_model("edm", solver=solver)
    with battery.network_calls(model) as seen:
        states = model.sample((2, 3, 16, 16), calls, return_traj=True, seeds=[1, 2])
    steps = calls if solver == "euler" else calls // 2 + 1
    assert len(seen) == calls and len(states) == steps + 1
    levels = [round(math.exp(4 * call[1][0].item()), 4) for call in seen]
    grid = [round(level, 4) for level in model.time_grid(calls).tolist()[:-1]]
    if solver == "euler":
        assert levels == pytest.approx(grid, rel=1e-3, abs=1e-4)
        return
    corrected = calls - steps  # levels are seen as a step's start, and once more as the end of a corrected step before
    expected = [grid[0]]
    for i, level in enumerate(grid[1:], start=1):
        expected += [level] * (2 if i >= steps - corrected else 1)
    assert levels == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_churned_samples_have_the_distribution_of_the_data():
    torch.manual_seed(0)
    x = exact_model(MIXTURE, S_churn=40.0).sample((4000, 2), 99)
    uniform = MIXTURE.cdf(x, 1, 0).flatten().sort().values
    assert (uniform - torch.linspace(0, 1, 8000)).abs().max() < 0.025


def test_churn_raises_the_level_by_the_noise_it_adds():
    model = exact_model(S_churn=1.0, S_min=0.1, S_max=10.0, S_noise=1.5)
    t = torch.tensor([0.05, 1.0, 20.0]).double()
    x, raised = model.churn(torch.zeros(3, 2).double(), t, 4, torch.ones(3, 2).double())
    assert raised.tolist() == pytest.approx([0.05, 1.25, 20.0])
    assert x[:, 0].tolist() == pytest.approx([0, 1.5 * 0.75, 0])
    assert exact_model(S_churn=100.0).churn(x, t, 4, x)[1].tolist() == pytest.approx((math.sqrt(2) * t).tolist())


def test_each_draw_of_a_sample_has_its_number(monkeypatch):
    """Seeds fix all. A step's noise is not that of the start or of another step; the start is of sigma_max."""
    battery.check_seeds(lambda: tiny_model("edm", S_churn=2.0))
    draws = []
    record = lambda *args, draw=0: draws.append(draw) or draw_noise(*args, draw=draw)  # noqa: E731
    monkeypatch.setattr("src.methods.shared.method.draw_noise", record)
    states = tiny_model("edm", S_churn=2.0, sigma_max=30.0).sample((4, 3, 16, 16), 5, return_traj=True, seeds=[1, 2, 3, 4])
    assert draws == [0, 1, 2, 3]
    torch.testing.assert_close(states[0], 30 * draw_noise((4, 3, 16, 16), torch.device("cpu"), [1, 2, 3, 4]))
