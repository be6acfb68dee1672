"""What a method is to the rest of the kit: its registry, its options, and the hooks of the training loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from src.base_model import BaseGenerativeModel, BaseScheduler
from src.common.guidance import Guidance, with_labels
from src.common.noise import draw_noise
from src.common.options import Options
from src.common.progress import tracked
from src.common.registry import Registry

METHODS: Registry[type["Method"]] = Registry("method")
MethodClass = TypeVar("MethodClass", bound=type["Method"])


def register(name: str) -> Callable[[MethodClass], MethodClass]:
    """Class decorator: make a method known as `--method name`."""

    def add(cls: MethodClass) -> MethodClass:
        if not issubclass(cls, Method):
            raise TypeError(f"{cls.__name__} is registered as method {name!r} but is no subclass of Method")
        METHODS.add(name, cls)
        return cls

    return add


class Method(BaseGenerativeModel):
    """A generative model the training loop can run. A subclass is one file of this folder, its paper named on line 1.

    Class attributes:
        Scheduler: the scheduler's class. It declares the direction of time by `t_noise` and `t_data`, and its options by a
            dataclass `Config`.
        Config: the options of method and scheduler, a dataclass that extends `Scheduler.Config`. Every field becomes a flag of
            train.py and a key of model_config.json; its metadata may hold help, bounds and choices (src/common/options.py).
        needs_condition: whether the network gets its second scalar input. None leaves it to --use_additional_condition.
        takes_teacher: whether it can learn from a trained model, which train.py's --teacher names. See _student.py.
        needs_teacher: whether it cannot do without.
        needs_pairs: whether data and noise must belong together: train.py then asks for --pairs. Other methods may have them.
        takes_seeds: whether sample() takes `seeds`, one per image, so that an image does not depend on the batch it is in.
        takes_labels: whether compute_loss, predict and sample() take `labels`, one per image, where the network has classes.
        takes_guidance: whether sample() takes `guidance` (src/common/guidance.py): the network's output is linear in the
            denoised data.
        few_calls: whether it is made for few calls: what a challenge samples with many is left out unless somebody asks for it
            (Challenge.calls_of).
        independent_rows: whether an image's loss depends on its own row of the batch alone, and nothing but the network learns:
            recipes/toy2d.py then trains many networks as one, on rows of their own, and else one after the other.
    """

    Scheduler: type[BaseScheduler]
    needs_condition: bool | None = False
    takes_teacher: bool = False
    needs_teacher: bool = False
    needs_pairs: bool = False
    takes_seeds: bool = True
    takes_labels: bool = False
    takes_guidance: bool = False
    few_calls: bool = False
    independent_rows: bool = True

    @dataclass
    class Config(Options):
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

    # ---------------------------------------------------------------------------------------------- what a teacher gives

    @property
    def parameterization(self) -> str | None:
        """Names what the network's output means, where that is more than the method's own affair.

        A student whose parameterization is its teacher's can start from the teacher's weights.
        """
        return None

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The data expected at x = data + sigma noise: what a method has to give to be a teacher.

        x is (B, ...), sigma (B,) above 0; the result is as x is; kwargs go to predict, such as labels. With it the probability
        flow of a Gaussian path is dx / dsigma = (x - denoised(x, sigma)) / sigma: paths differ in the scale of x and the clock
        alone.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no denoised data")

    # ----------------------------------------------------------------------------------------------------- sampling

    @property
    def num_classes(self) -> int:
        """Of the labels 1..num_classes that the network takes; 0 where it takes none."""
        return getattr(self.network, "num_classes", 0)

    def steered(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        *args: Any,
        labels: torch.Tensor | None = None,
        guidance: Guidance | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """predict at x (B, ...) and t (B,) for these labels (B,), steered by guidance where there is one: see Guidance."""
        if guidance is None or not guidance.acts_at(self.scheduler.noise_level(t)):
            return self.predict(x, t, *args, **with_labels(labels), **kwargs)
        return guidance.apply(self, x, t, *args, labels=labels, **kwargs)

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
        return self.scheduler.reverse_process_step(x, self.steered(x, t, **kwargs).to(x.dtype), t, t_next)

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
            kwargs: handed to sampling_step, such as labels (B,), of a network with classes, and guidance, which makes two
                network calls of one.

        Returns images of this shape, or with return_traj the list of all states, the first one and the images included. The
        state is float32, whatever the network computes in. Raises ValueError for a number of steps that there is no grid of.
        """
        grid = self.time_grid(num_inference_timesteps)
        x = self.first_state(draw_noise(shape, self.device, seeds), grid)
        states = [x]
        for i, (t, t_next) in enumerate(tracked(list(pairwise(grid)), "sampling" if verbose else None, "step"), start=1):
            noise = partial(draw_noise, shape, self.device, seeds, draw=i)
            x = self.sampling_step(x, t.expand(shape[0]), t_next.expand(shape[0]), noise, **kwargs)
            states.append(x)
        return states if return_traj else x

    # ------------------------------------------------------------------------------------- hooks of the training loop

    def optim_groups(self) -> dict[str, Iterator[nn.Parameter] | list[nn.Parameter]]:
        """Parameters by group. The loop has one optimizer per group and calls compute_loss(group=name) for each in turn."""
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


def uniform_grid(start: float, end: float, steps: int, device: torch.device | str) -> torch.Tensor:
    """steps + 1 equally spaced times from start to end, both exactly included: (steps + 1,), float32."""
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    return torch.linspace(start, end, steps + 1, device=device)


def split_batch(batch_size: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide the images of a batch between two losses: indices of `share` of them, and of the rest, both int64 on the CPU.

    The share is met to one image, rounded up or down at random so that it is right on average, and its images are spread
    evenly over the batch: micro-batches of a multiple of 1 / share images take the same images as the whole batch. The two
    sizes are known without waiting for the device.
    """
    marks = (torch.arange(batch_size + 1, dtype=torch.float64) * share + torch.rand(()).item()).floor()
    chosen = marks[1:] > marks[:-1]
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
