"""DDPM and DDIM against closed forms: a Gaussian and a mixture, where the best prediction and the flow map are known."""

import math

import pytest
import torch

from custom_model import create_custom_model
from src.common.noise import draw_noise
from src.methods import get_method
from tests.helpers import tiny_model
from tests.methods import battery
from tests.methods.oracles import GAUSSIAN, MIXTURE

PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
SCHEDULES = pytest.mark.parametrize("schedule", ["linear", "cosine"])
SHAPE = (200, 2)  # points, not images: nothing may assume four axes


class ExactNetwork(torch.nn.Module):
    """The best prediction for data of the oracle, from the textbook's conversions."""

    def __init__(self, oracle, prediction, log_alpha_bar, time_scale):
        super().__init__()
        self.oracle, self.prediction, self.log_alpha_bar, self.time_scale = oracle, prediction, log_alpha_bar, time_scale
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, timestep):
        step = (timestep / self.time_scale * (len(self.log_alpha_bar) - 1)).round().long()
        log = self.log_alpha_bar[step].double().reshape(-1, *[1] * (x.ndim - 1))
        a, s = (log / 2).exp(), (-log.expm1()).sqrt()
        data = self.oracle.posterior_mean(x, a, s)
        noise = (x - a * data) / s
        return {"epsilon": noise, "x0": data, "v": a * noise - s * data}[self.prediction] + self.shift


def exact_model(oracle=GAUSSIAN, steps=1024, **options):
    cls = get_method("ddpm")
    model = cls.from_options(torch.nn.Identity(), steps, **options)
    config = model.config
    model.network = ExactNetwork(oracle, config.prediction, model.scheduler.log_alpha_bar, config.time_scale)
    return model.double()


@pytest.fixture
def double_noise(monkeypatch):
    """Sampling starts from float64 noise and so stays in float64."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape, *args, **kwargs: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr("src.methods.shared.method.draw_noise", draw)


def ends(model):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t = 1."""
    log = model.scheduler.log_alpha_bar[-1].item()
    return math.exp(log / 2), math.sqrt(-math.expm1(log))


def convergence(model, oracle, steps=(16, 32, 64, 128)):
    """Mean distance from the exact flow map, for each number of steps."""
    errors = []
    for n in steps:
        states = model.sample(SHAPE, n, return_traj=True)
        errors.append((states[-1] - oracle.flow(states[0], *ends(model))).abs().mean().item())
    return errors


def check_first_order(errors):
    ratios = [errors[i] / errors[i + 1] for i in range(len(errors) - 1)]
    assert errors[-1] < 0.02, errors
    assert all(1.7 < ratio < 2.3 for ratio in ratios[1:]), ratios


# -------------------------------------------------------------------------------------------------------- the schedule


def test_alpha_bar_at_known_values():
    linear, cosine = (tiny_model("ddpm", schedule=name).scheduler.log_alpha_bar.exp() for name in ("linear", "cosine"))
    for table in (linear, cosine):
        assert len(table) == 1001 and table[0] == 1 and (table.diff() < 0).all() and table[-1] > 0
    assert linear[-1].item() == pytest.approx(4.036e-5, rel=1e-3)
    assert linear[1].item() == pytest.approx(1 - 1e-4, abs=1e-7)
    expected = (math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert cosine[500].item() == pytest.approx(expected, rel=1e-5)
    assert cosine[-1].item() == pytest.approx(cosine[-2].item() * 0.001, rel=1e-4)  # beta is at most 0.999


@pytest.mark.parametrize("total", [1, 4, 100, 4000])
@SCHEDULES
def test_schedule_means_the_same_at_any_number_of_steps(schedule, total):
    long, here = (create_table(schedule, steps) for steps in (1000, total))
    assert len(here) == total + 1 and here[0] == 0 and (here.diff() < 0).all() and torch.isfinite(here).all()
    same = [k for k in range(total) if 1000 * k % total == 0]
    torch.testing.assert_close(here[same], long[[1000 * k // total for k in same]], atol=1e-5, rtol=1e-5)


@SCHEDULES
def test_shift_multiplies_every_noise_level(schedule):
    """The noise level is sqrt(1 / alpha_bar - 1), the noise over the signal."""
    plain, shifted = (create_table(schedule, 1000, shift=shift) for shift in (1.0, 0.5))
    levels, halved = ((-table.double()).expm1().sqrt() for table in (plain, shifted))
    torch.testing.assert_close(halved, levels / 2, atol=0, rtol=1e-4)
    assert tiny_model("ddpm", shift=0.5).parameterization != tiny_model("ddpm").parameterization


def create_table(schedule, steps, **options):
    return get_method("ddpm").Scheduler(steps, schedule=schedule, **options).log_alpha_bar


# ---------------------------------------------------------------------------------------------------- what is learned


@PREDICTIONS
@SCHEDULES
def test_the_exact_prediction_has_the_least_loss(prediction, schedule):
    model = exact_model(MIXTURE, prediction=prediction, schedule=schedule)
    data, noise = MIXTURE.data((4000, 2)), torch.randn((4000, 2), generator=torch.Generator().manual_seed(1)).double()
    losses = {}
    for shift in (-0.2, 0.0, 0.2):
        torch.manual_seed(1)
        model.network.shift.data.fill_(shift)
        losses[shift] = model.compute_loss(data, noise).item()
    assert losses[0.0] < min(losses[-0.2], losses[0.2]) - 0.02
    torch.manual_seed(1)
    model.network.shift.data.zero_()
    model.compute_loss(data, noise).backward()
    assert abs(model.network.shift.grad) < 0.05


@PREDICTIONS
@SCHEDULES
def test_targets_convert_into_data_and_noise(prediction, schedule):
    scheduler = exact_model(prediction=prediction, schedule=schedule).scheduler
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1020, 2, generator=generator).double() for _ in range(2))
    t = torch.arange(1, 1021) / 1024  # the last steps of epsilon-prediction are the next test's
    found = scheduler.data_and_noise(scheduler.forward_process(data, noise, t), scheduler.get_target(data, noise, t), t)
    torch.testing.assert_close(found[0], data, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[1], noise, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_a_wrong_epsilon_has_a_bounded_effect_where_there_is_no_signal(nfe):
    """At t = 1 of the cosine schedule sqrt(alpha_bar) is 5e-5: an error of 0.01 would be one of 200."""
    model = exact_model(prediction="epsilon")
    model.network.shift.data.fill_(0.01)
    states = model.sample(SHAPE, nfe, return_traj=True)
    assert torch.isfinite(states[-1]).all() and states[-1].abs().max() < 5


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shift": 0.5},
        {"prediction": "x0"},
        {"prediction": "epsilon", "schedule": "linear"},
        {"prediction": "v", "schedule": "linear"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_ddim_converges_to_the_exact_map_at_first_order(options, oracle, double_noise):
    check_first_order(convergence(exact_model(oracle, **options), oracle))


def test_a_wrong_sign_in_the_step_is_found(double_noise, monkeypatch):
    model = exact_model()
    check_first_order(convergence(model, GAUSSIAN))
    step = model.scheduler.reverse_process_step
    wrong = lambda xt, pred, t, t_next, noise=None: step(xt, -pred, t, t_next, noise)  # noqa: E731
    monkeypatch.setattr(model.scheduler, "reverse_process_step", wrong)
    with pytest.raises(AssertionError):
        check_first_order(convergence(model, GAUSSIAN))


@PREDICTIONS
def test_eta_one_is_the_posterior_of_ddpm_at_adjacent_steps(prediction):
    """arXiv:2006.11239, eq. 7."""
    scheduler = exact_model(prediction=prediction, schedule="linear", eta=1.0).scheduler
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1024, 2, generator=generator).double() for _ in range(2))
    k = torch.arange(1, 1025)
    alpha_bar = scheduler.log_alpha_bar.exp().double()[:, None]
    now, before = alpha_bar[k], alpha_bar[k - 1]
    alpha, beta = now / before, 1 - now / before
    xt = scheduler.forward_process(data, noise, k / 1024)
    mean = (before.sqrt() * beta * data + alpha.sqrt() * (1 - before) * xt) / (1 - now)
    variance = (1 - before) / (1 - now) * beta
    pred = scheduler.get_target(data, noise, k / 1024)
    still, moved = (
        scheduler.reverse_process_step(xt, pred, k / 1024, (k - 1) / 1024, value)
        for value in (torch.zeros_like(xt), torch.ones_like(xt))
    )
    torch.testing.assert_close(still, mean, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close((moved - still).square(), variance.expand(-1, 2), atol=1e-8, rtol=1e-6)
    scheduler.config.eta = 0.25
    less = [scheduler.reverse_process_step(xt, pred, k / 1024, (k - 1) / 1024, value) for value in (0 * xt, 0 * xt + 1)]
    torch.testing.assert_close(less[1] - less[0], (moved - still) / 4, atol=1e-8, rtol=1e-6)  # arXiv:2010.02502, eq. 16


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ancestral_samples_have_the_distribution_of_the_data(eta):
    torch.manual_seed(0)
    x = exact_model(MIXTURE, steps=500, eta=eta).sample((4000, 2), 250)
    uniform = MIXTURE.cdf(x, 1, 0).flatten().sort().values
    assert (uniform - torch.linspace(0, 1, 8000)).abs().max() < 0.025
    assert x.var().item() == pytest.approx(MIXTURE.data((100000,)).var().item(), rel=0.04)


def test_ancestral_sampling_follows_seeds():
    battery.check_seeds(lambda: tiny_model("ddpm", eta=1.0))
    same = [tiny_model("ddpm", eta=eta).sample((2, 3, 16, 16), 4, seeds=[1, 2]) for eta in (0.0, 1.0, 1.0)]
    assert (same[0] - same[1]).abs().mean() > 1e-2 and torch.equal(same[1], same[2])


def test_each_draw_of_a_sample_has_its_number(monkeypatch):
    """A step's noise is not that of the start or of another step (the last one's is not added); DDIM's steps draw none."""
    draws = []
    record = lambda *args, draw=0: draws.append(draw) or draw_noise(*args, draw=draw)  # noqa: E731
    monkeypatch.setattr("src.methods.shared.method.draw_noise", record)
    for eta, expected in ((1.0, [0, 1, 2, 3, 4]), (0.0, [0])):
        draws.clear()
        tiny_model("ddpm", eta=eta).sample((2, 3, 16, 16), 4, seeds=[1, 2])
        assert draws == expected


def test_noise_of_a_step_may_be_left_to_it():
    scheduler = get_method("ddpm").Scheduler(eta=1.0)
    x, t = torch.zeros(2, 2), torch.full((2,), 0.5)
    torch.manual_seed(0)
    drawn = [scheduler.reverse_process_step(x, x, t, t_next) for t_next in (t - 0.1, t - 0.1, t - 0.5)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], x), "noise was added in the step to the data"


@pytest.mark.parametrize("total", [1, 7, 1000])
def test_grid_has_both_ends_and_falls(total):
    model = create_custom_model(method="ddpm", num_train_timesteps=total, ch=32, ch_mult=(1,), attn=(), num_res_blocks=1)
    for steps in {1, min(2, total), min(4, total), (total + 1) // 2, total}:
        grid = model.time_grid(steps)
        whole = grid * total
        assert len(grid) == steps + 1 and grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()
        torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
        assert (whole - torch.linspace(total, 0, steps + 1)).abs().max() < 0.501
    for steps in (0, total + 1):
        with pytest.raises(ValueError, match=f"from 1 to num_train_timesteps = {total} sampling steps, got {steps}"):
            model.sample((1, 3, 8, 8), steps)
