"""The straight path from standard normal noise to N(MEAN, STD^2) in closed form, and networks to test its methods with."""

import torch

from src.methods import get_method
from src.utils import expand_t

MEAN, STD = 0.3, 0.4


def moments(t, x):
    """Mean and standard deviation of xt, shaped to multiply x."""
    t = expand_t(t, x)
    return t * MEAN, (t**2 * STD**2 + (1 - t) ** 2).sqrt()


def velocity(x, t):
    """E[data - noise | xt = x]."""
    mean, std = moments(t, x)
    t = expand_t(t, x)
    return MEAN + (t * STD**2 - (1 - t)) / std**2 * (x - mean)


def flow_map(x, s, t):
    """Where the path through x at s is at t: the flow of a Gaussian keeps (x - mean) / std."""
    (mean_s, std_s), (mean_t, std_t) = moments(s, x), moments(t, x)
    return mean_t + std_t / std_s * (x - mean_s)


def average_velocity(x, t, h):
    """(X_{t, t+h}(x) - x) / h; for h = 0 the velocity."""
    safe = torch.where(h == 0, 1.0, h)
    average = (flow_map(x, t, t + safe) - x) / expand_t(safe, x)
    return torch.where(expand_t(h == 0, x), velocity(x, t), average)


class ExactNetwork(torch.nn.Module):
    """A network that has learnt everything: condition is the length of the jump."""

    use_additional_condition = True

    def __init__(self, time_scale=1000.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(time_scale))

    def forward(self, x, timestep, condition):
        return average_velocity(x, timestep / self.scale, condition / self.scale)


class PointNetwork(torch.nn.Module):
    """A small network for points (B, 2), with dropout."""

    use_additional_condition = True

    def __init__(self, dropout=0.0, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, width),
            torch.nn.Tanh(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(width, width),
            torch.nn.Tanh(),
            torch.nn.Linear(width, 2),
        )

    def forward(self, x, timestep, condition):
        return self.layers(torch.cat([x, torch.stack([timestep, condition], dim=1)], dim=1))


def exact_model(method, **options):
    options = {"time_scale": 1000.0, **options}
    return get_method(method).from_options(ExactNetwork(options["time_scale"]), **options).double()


def point_model(method, dropout=0.0, **options):
    return get_method(method).from_options(PointNetwork(dropout), **{"time_scale": 1.0, **options}).double()


def states(batch=64, size=(2,), least=0.05, seed=0):
    """States xs (batch, *size) on the path at s, and t at least `least` later; float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    t = least + (1 - least) * draw(batch)
    s = (t - least) * draw(batch)
    mean, std = moments(s, torch.empty(batch, *size))
    noise = torch.randn(batch, *size, generator=generator, dtype=torch.float64)
    return mean + std * noise, s, t


def pairs(batch=4096, size=(2,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(batch, *size, generator=generator, dtype=torch.float64)  # noqa: E731
    return MEAN + STD * draw(), draw()


def flip_the_derivative(monkeypatch):
    """Plant a sign error: torch.func.jvp gives the derivative with the wrong sign."""
    jvp = torch.func.jvp

    def flipped(*args, **kwargs):
        value, derivative = jvp(*args, **kwargs)
        return value, -derivative

    monkeypatch.setattr(torch.func, "jvp", flipped)


def shifted_losses(model, data, noise, shifts=(-0.3, 0.0, 0.3)):
    """The loss of the model with each shift added to its network's output, by the same draws."""
    forward, losses = model.network.forward, []
    for shift in shifts:
        model.network.forward = lambda *args, shift=shift: forward(*args) + shift
        torch.manual_seed(1)
        losses.append(model.compute_loss(data, noise).item())
    model.network.forward = forward
    return losses


def check_exact_samples(method, shape):
    """With the exact network 1, 2 and 4 steps end at the exact sample."""
    model = exact_model(method)
    seeds = list(range(shape[0]))
    noise = model.sample(shape, 1, return_traj=True, seeds=seeds)[0]
    for steps in (1, 2, 4):
        torch.testing.assert_close(model.sample(shape, steps, seeds=seeds), MEAN + STD * noise, atol=1e-6, rtol=0)


def check_points(method, **options):
    """Points (B, 2) train and sample, in batches of one and more, in either case of the loss."""
    for batch in (1, 1, 1, 1, 7):
        model = point_model(method, **options).float()
        loss = model.compute_loss(torch.randn(batch, 2), torch.randn(batch, 2), step=1, total_steps=10)
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.network.parameters())
        assert model.sample((batch, 2), 2, seeds=range(batch)).shape == (batch, 2)
