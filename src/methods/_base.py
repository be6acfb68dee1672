"""What a method is to the rest of the kit: its registry, its options, and the hooks of the training loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.methods._schedules import uniform_grid

_REGISTRY: dict[str, type["Method"]] = {}
MethodClass = TypeVar("MethodClass", bound=type["Method"])


def register(name: str) -> Callable[[MethodClass], MethodClass]:
    """Class decorator: make a method known as `--method name`."""

    def add(cls: MethodClass) -> MethodClass:
        if not issubclass(cls, Method):
            raise TypeError(f"{cls.__name__} is registered as method {name!r} but is no subclass of Method")
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"method {name!r} is registered twice: {_REGISTRY[name].__qualname__} and {cls.__qualname__}")
        _REGISTRY[name] = cls
        return cls

    return add


def get_method(name: str) -> type["Method"]:
    """The class registered under this name; ValueError naming all of them if there is none."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown method {name!r}; expected one of {', '.join(method_names())}")
    return _REGISTRY[name]


def method_names() -> list[str]:
    return sorted(_REGISTRY)


class Method(BaseGenerativeModel):
    """A generative model the training loop can run. A subclass is one file of this folder, its paper named on line 1.

    Class attributes:
        Scheduler: the scheduler's class. It declares the direction of time by `t_noise` and `t_data`, and its options by a
            dataclass `Config`.
        Config: the options of method and scheduler, a dataclass that extends `Scheduler.Config`. Every field becomes a flag of
            train.py and a key of model_config.json. metadata may hold "help" and "choices".
        needs_condition: whether the network gets its second scalar input. None leaves it to --use_additional_condition.
        needs_teacher: whether it learns from a trained model, which train.py's --teacher names and set_teacher receives.
        needs_pairs: whether data and noise must belong together: train.py then asks for --pairs. Other methods may have them.
        takes_seeds: whether sample() takes `seeds`, one per image, so that an image does not depend on the batch it is in.
    """

    Scheduler: type[BaseScheduler]
    needs_condition: bool | None = False
    needs_teacher: bool = False
    needs_pairs: bool = False
    takes_seeds: bool = True

    @dataclass
    class Config:
        pass

    def _setup(self, **kwargs: Any) -> None:
        self.config = self.Config(**kwargs)
        self.train_only: dict[str, nn.Module] = {}
        self.on_losses: Callable[[torch.Tensor, torch.Tensor], None] | None = None

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> "Method":
        """Let the train-only modules follow the model to another device, precision or layout."""
        for module in self.train_only.values():
            module._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    @classmethod
    def from_options(cls, network: nn.Module, num_train_timesteps: int = 1000, **options: Any) -> "Method":
        """Build the method and its scheduler from the fields of Config."""
        values = asdict(cls.Config(**options))
        scheduler_fields = {item.name for item in fields(cls.Scheduler.Config)}
        scheduler = cls.Scheduler(num_train_timesteps, **{name: values[name] for name in scheduler_fields})
        return cls(network, scheduler, **values)

    # --------------------------------------------------------------------------------------------- teachers and students

    @property
    def parameterization(self) -> str | None:
        """Names what the network's output means, where that is more than the method's own affair.

        A student whose parameterization is its teacher's can start from the teacher's weights: start_from.
        """
        return None

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The data expected at x = data + sigma noise: what a method has to give to be a teacher.

        x is (B, ...), sigma (B,) above 0; the result is as x is. With it the probability flow of any Gaussian path
        is dx / dsigma = (x - denoised(x, sigma)) / sigma, since the paths differ in the scale of x and the clock alone.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no denoised data")

    def set_teacher(self, teacher: "Method") -> None:
        """Learn from this model, which is frozen, is saved with the run and never handed in.

        Raises ValueError where this method needs none, or the teacher's method gives no denoised data to solve its flow with.
        """
        if not self.needs_teacher:
            raise ValueError(f"{type(self).__name__} learns from data alone and takes no teacher")
        if type(teacher).denoised is Method.denoised:
            raise ValueError(
                f"a model of method {type(teacher).__name__} cannot teach: its flow has no solver; teachers are "
                f"{', '.join(name for name, cls in sorted(_REGISTRY.items()) if cls.denoised is not Method.denoised)}"
            )
        self.train_only["teacher"] = teacher.eval().requires_grad_(False)

    def start_from(self, teacher: "Method") -> bool:
        """Take the teacher's weights over if its network's output means what this one's does; whether it does.

        Raises ValueError where the two networks differ in more than the additional condition.
        """
        same = self.parameterization is not None and self.parameterization == teacher.parameterization
        if same:
            take_weights(self.network, teacher.network.state_dict())
        return same

    @property
    def teacher(self) -> "Method":
        """What set_teacher was given, or a module that a subclass keeps under this name; ValueError if there is neither."""
        kept = self._modules.get("teacher", self.train_only.get("teacher"))
        if kept is None:
            raise ValueError(f"{type(self).__name__} learns from a teacher: name its run with --teacher")
        return kept

    # ----------------------------------------------------------------------------------------------------- sampling

    def time_grid(self, steps: int) -> torch.Tensor:
        """The times (steps + 1,) that a sampler of so many steps visits, from noise to data: equal steps, if not overridden.

        Raises ValueError where steps is below 1.
        """
        return uniform_grid(self.scheduler.t_noise, self.scheduler.t_data, steps, self.device)

    def first_state(self, noise: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """The state (B, ...) that sampling starts from, of standard normal noise; for most paths the noise itself."""
        return noise

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """The state at t_next from x (B, ...) at t, both (B,), in one network call; noise() is fresh noise."""
        return self.scheduler.reverse_process_step(x, self.predict(x, t, **kwargs).to(x.dtype), t, t_next)

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int],
        num_inference_timesteps: int = 20,
        return_traj: bool = False,
        verbose: bool = False,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Go along time_grid by sampling_step: as many steps as asked, one network call each.

        Args:
            shape: (B, 3, H, W).
            seeds: one per image, which fix all noise of that image, whatever the batch; else torch's global generator is used.
            kwargs: handed to sampling_step.

        Returns images of this shape, or with return_traj the list of all states, the first one and the images included. The
        state is float32, whatever the network computes in. Raises ValueError for a number of steps that there is no grid of.
        """
        grid = self.time_grid(num_inference_timesteps)
        x = self.first_state(draw_noise(shape, self.device, seeds), grid)
        states = [x]
        for i, (t, t_next) in enumerate(tqdm(list(pairwise(grid)), disable=not verbose), start=1):
            noise = partial(draw_noise, shape, self.device, seeds, draw=i)
            x = self.sampling_step(x, t.expand(shape[0]), t_next.expand(shape[0]), noise, **kwargs)
            states.append(x)
        return states if return_traj else x

    # ------------------------------------------------------------------------------------- hooks of the training loop

    def optim_groups(self) -> dict[str, Iterator[nn.Parameter] | list[nn.Parameter]]:
        """Parameters by group. The loop has one optimizer a group and calls compute_loss(group=name) for each in turn."""
        return {"network": self.network.parameters()}

    def lr_scale(self, group: str) -> float:
        """What the run's learning rate is multiplied by for this parameter group."""
        return 1.0

    def betas(self, group: str) -> tuple[float, float]:
        """Adam's decay rates for this parameter group."""
        return 0.9, 0.999

    def report_losses(self, t: torch.Tensor, losses: torch.Tensor) -> None:
        """Call from compute_loss with the loss of each image (B,) at its time (B,), for the log's loss by time."""
        if self.on_losses is not None:
            self.on_losses(t, losses)

    def progress(self, t: torch.Tensor) -> torch.Tensor:
        """How far on the way from noise (0) to data (1) the times t (B,) are, for the log's loss by time."""
        scheduler = self.scheduler
        if hasattr(scheduler, "progress"):
            return scheduler.progress(t)
        return (t - scheduler.t_noise) / (scheduler.t_data - scheduler.t_noise)

    def on_step_end(self, step: int, total_steps: int) -> None:
        """Called after the optimizers have made step number `step` (from 1) of total_steps."""

    def milestones(self, total_steps: int) -> dict[int, str]:
        """Steps after which the averaged model is worth keeping: {step: name}, each kept as name.ckpt beside last.ckpt."""
        return {}


def take_weights(network: nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Load another network's state_dict. Layers of the additional condition stay fresh, or are left out, where one has none.

    Raises ValueError, naming a parameter, where the networks differ in anything else.
    """
    own = network.state_dict()
    given = {name: value for name, value in given.items() if name in own or not name.startswith("condition_")}
    absent = [name for name in own if name not in given and not name.startswith("condition_")]
    strange = [name for name in given if name not in own]
    other = [name for name in given if name in own and given[name].shape != own[name].shape]
    for names, words in ((absent, "lacks"), (strange, "has in addition"), (other, "has in another shape")):
        if names:
            raise ValueError(f"of another network: it {words} {len(names)} parameters, such as {names[0]}")
    network.load_state_dict(given, strict=False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average, a module like the network, towards it: it keeps `decay` of itself. Buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mine, buffer in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(buffer)


def draw_noise(shape: Sequence[int], device: torch.device, seeds: Sequence[int] | None = None, draw: int = 0) -> torch.Tensor:
    """Standard normal noise (B, C, H, W), float32.

    With seeds, one per image, image i depends on seeds[i] and `draw` alone: neither on the batch it is in nor on the device.
    `draw` numbers the draws of a sampler that adds noise more than once. Without seeds, torch's global generator is used.
    """
    if seeds is None:
        return torch.randn(*shape, device=device)
    if len(seeds) != shape[0]:
        raise ValueError(f"expected {shape[0]} seeds, one per image, got {len(seeds)}")
    images = []
    for seed in seeds:
        generator = torch.Generator().manual_seed((int(seed) + draw * 0x9E3779B97F4A7C15) % 2**63)
        images.append(torch.randn(*shape[1:], generator=generator))
    return torch.stack(images).to(device)
