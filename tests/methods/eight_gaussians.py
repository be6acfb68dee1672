"""Eight Gaussians in the plane: a diffusion model of them, students trained on them, and the modes that samples reach."""

import copy
import functools
import math

import torch

from src.challenges import get_challenge
from src.challenges.toy2d.points import MODE_STD, MODES, POINT_SETS, STD
from src.common.devices import seed_everything
from src.methods import Method, get_method
from src.training.ema import EMA

SCALE = STD / math.sqrt(0.5 + MODE_STD**2)  # from the unit circle to the set
ANGLES = 2 * math.pi / MODES * torch.arange(MODES)
MEANS = SCALE * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
POINTS = torch.from_numpy(POINT_SETS["eight_gaussians"](65536, 0))
OPTIONS = {"sigma_data": STD, "time_scale": 10.0}
STUDENT = {**OPTIONS, "mid_sigma": 3.3, "feature_sigma": 0.3, "r1_gamma": 0.5, "r1_interval": 4}
SAMPLES = 2048


def train(model: Method, steps: int, batch: int, lr: float = 2e-3, seed: int = 2) -> Method:
    """What the training loop does, on points; the model is left with its weight averages."""
    seed_everything(seed)
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    optimizers = {name: torch.optim.Adam(values, lr, model.betas(name), fused=True) for name, values in groups.items()}
    ema = EMA(model)
    model.train()
    for step in range(1, steps + 1):
        data = POINTS[torch.randint(len(POINTS), (batch,))]
        noise = torch.randn_like(data)
        for name, optimizer in optimizers.items():
            for other in optimizers.values():
                other.zero_grad()
            model.compute_loss(data, noise, step=step, total_steps=steps, group=name).backward()
            torch.nn.utils.clip_grad_norm_(groups[name], 1.0)
            for options in optimizer.param_groups:
                options["lr"] = lr * model.lr_scale(name) * min(1.0, 2 * (steps - step + 1) / steps)
            optimizer.step()
        model.on_step_end(step, steps)
        ema.update(step)
    ema._swap(next(iter(ema.averages.values())))
    return model.eval()


@functools.cache
def teacher() -> Method:
    seed_everything(0)
    return train(
        get_method("edm").from_options(get_challenge("toy2d").network(), P_mean=0.2, **OPTIONS), 400, batch=128, seed=0
    )


def student(method: str, **options) -> Method:
    """One that starts from its teacher's weights."""
    seed_everything(1)
    model = get_method(method).from_options(get_challenge("toy2d").network(), **{**STUDENT, **options})
    model.network.load_state_dict(copy.deepcopy(teacher().network.state_dict()))
    model.set_teacher(teacher())
    return model.eval()


def shares(model: Method, nfe: int) -> torch.Tensor:
    """The share of the samples within three standard deviations of each mode: (8,)."""
    samples = model.sample((SAMPLES, 2), num_inference_timesteps=nfe, seeds=range(SAMPLES))
    distance, nearest = torch.cdist(samples, MEANS).min(dim=1)
    return torch.bincount(nearest[distance < 3 * MODE_STD * SCALE], minlength=MODES) / SAMPLES


def modes(model: Method, nfe: int) -> int:
    """How many modes get at least 4 % of the samples, of the 12.5 % that are due to each."""
    return int((shares(model, nfe) >= 0.04).sum())
