"""What a method is to the rest of the kit: its registry, its options, its sampler, and the hooks of the training loop."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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


class PathScheduler(BaseScheduler):
    """A path between noise and data. `config` are its options: of a method's scheduler the method's own object."""

    t_noise: float  # the times of its ends: a subclass declares them
    t_data: float
    Config: type[Options] = Options

    def _setup(self, config: Options | None = None, **options: Any) -> None:
        self.config = self.Config(**options) if config is None else config


class Method(BaseGenerativeModel):
    """A generative model the training loop can run. A subclass is one file of src/methods/, its paper named on line 1.

    It extends Method or one of the classes for a path and what a network gives on it (VelocityModel, AverageVelocityModel,
    DDIMModel, Denoiser, ConsistencyModel), and may extend Student or WithDiscriminator besides. In which order they stand makes
    no difference: none of the latter defines a name that one of the former does.
    """

    Scheduler: type[BaseScheduler]
    Config: type[Options] = Options  # of method and scheduler: it extends Scheduler.Config. Each field is a flag of train.py
    renamed_options: dict[str, str] = {}  # noqa: RUF012 - what older checkpoints call an option -> its name
    cost: float | None = None  # of a training step, over a rectified flow's; --method list shows it. It is not inherited

    needs_condition: bool | None = False  # the network's second scalar input; None leaves it to --use_additional_condition
    takes_teacher: bool = False  # it can learn from a trained model, which train.py's --teacher names: see Student
    needs_teacher: bool = False  # and cannot do without
    needs_pairs: bool = False  # data and noise belong together: train.py asks for --pairs, which other methods may have too
    takes_seeds: bool = True  # sample() takes seeds, one per image, so that an image does not depend on its batch
    takes_labels: bool = False  # compute_loss, predict and sample() take labels, one per image, where the network has classes
    takes_guidance: bool = False  # sample() takes guidance: the network's output is linear in the denoised data
    few_calls: bool = False  # made for few calls: where a challenge samples with many as well, they are left out by default
    independent_rows: bool = True  # an image's loss depends on its own row of the batch alone, and only the network learns

    def _setup(self, config: Options | None = None, **options: Any) -> None:
        self.config = self.Config(**options) if config is None else config
        self.train_only: dict[str, nn.Module] = {}  # not in state_dict, and so never handed in
        self.on_losses: Callable[[Tensor, Tensor], None] | None = None

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> "Method":
        """Let the train-only modules follow the model to another device, precision or layout."""
        for module in self.train_only.values():
            module._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    @classmethod
    def from_options(cls, network: nn.Module, num_train_timesteps: int = 1000, **options: Any) -> "Method":
        """Build the method and its scheduler, which share one Config of these options."""
        config = cls.Config(**options)
        return cls(network, cls.Scheduler(num_train_timesteps, config=config), config=config)

    @property
    def parameterization(self) -> str | None:
        """Names what the network's output means. A student of the same parameterization can start from a teacher's weights."""
        return None

    def denoised(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The data expected at x = data + sigma noise, as x (B, ...), for sigma (B,) above 0: a teacher has to give it.

        kwargs go to predict, such as labels. The probability flow is dx / dsigma = (x - denoised(x, sigma)) / sigma: Gaussian
        paths differ in the scale of x and the clock alone.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no denoised data")

    @property
    def num_classes(self) -> int:
        """Of the labels 1..num_classes that the network takes; 0 where it takes none."""
        return getattr(self.network, "num_classes", 0)

    def steered(
        self, x: Tensor, t: Tensor, *args: Any, labels: Tensor | None = None, guidance: Guidance | None = None, **kwargs: Any
    ) -> Tensor:
        """predict at x (B, ...) and t (B,) for these labels (B,), steered by guidance where there is one: see Guidance."""
        if guidance is None or not guidance.acts_at(self.scheduler.noise_level(t)):
            return self.predict(x, t, *args, **with_labels(labels), **kwargs)
        return guidance.apply(self, x, t, *args, labels=labels, **kwargs)

    def time_grid(self, steps: int) -> Tensor:
        """The times (steps + 1,) that a sampler visits, from noise to data: equal steps here. ValueError for less than one."""
        if steps < 1:
            raise ValueError(f"expected at least 1 step, got {steps}")
        return torch.linspace(self.scheduler.t_noise, self.scheduler.t_data, steps + 1, device=self.device)

    def first_state(self, noise: Tensor, grid: Tensor) -> Tensor:
        """The state (B, ...) that sampling starts from, of standard normal noise; for most paths the noise itself."""
        return noise

    def sampling_step(self, x: Tensor, t: Tensor, t_next: Tensor, noise: Callable[[], Tensor], **kwargs: Any) -> Tensor:
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
    ) -> Tensor | list[Tensor]:
        """Go along time_grid by sampling_step: as many steps as asked, one network call each.

        Args:
            shape: (B, 3, H, W).
            seeds: one per image, which fix all noise of that image, whatever the batch; else torch's global generator is used.
            kwargs: handed to sampling_step: labels (B,), of a network with classes; guidance, which makes two calls of one.

        Returns images of this shape, float32, or with return_traj the list of all states from the first to the images.
        Raises ValueError for a number of steps that there is no grid of.
        """
        grid = self.time_grid(num_inference_timesteps)
        x = self.first_state(draw_noise(shape, self.device, seeds), grid)
        states = [x]
        for i, (t, t_next) in enumerate(tracked(list(pairwise(grid)), "sampling" if verbose else None, "step"), start=1):
            noise = partial(draw_noise, shape, self.device, seeds, draw=i)
            x = self.sampling_step(x, t.expand(shape[0]), t_next.expand(shape[0]), noise, **kwargs)
            states.append(x)
        return states if return_traj else x

    def optim_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """Parameters by group. The loop has one optimizer per group and calls compute_loss(group=name) for each in turn."""
        return {"network": self.network.parameters()}

    def lr_scale(self, group: str) -> float:
        """What the run's learning rate is multiplied by for this parameter group."""
        return 1.0

    def betas(self, group: str) -> tuple[float, float]:
        """Adam's decay rates for this parameter group."""
        return 0.9, 0.999

    def report_losses(self, t: Tensor, losses: Tensor) -> Tensor:
        """The mean of the images' losses (B,) at their times (B,), which the log's loss by time takes note of."""
        if self.on_losses is not None:
            self.on_losses(t, losses)
        return losses.mean()

    def progress(self, t: Tensor) -> Tensor:
        """How far on the way from noise (0) to data (1) the times t (B,) are, for the log's loss by time."""
        return (t - self.scheduler.t_noise) / (self.scheduler.t_data - self.scheduler.t_noise)

    def on_step_end(self, step: int, total_steps: int) -> None:
        """Called after the optimizers have made step number `step` (from 1) of total_steps."""

    def milestones(self, total_steps: int) -> dict[int, str]:
        """Steps after which the averaged model is worth keeping: {step: name}, each kept as name.ckpt beside last.ckpt."""
        return {}


def split_batch(batch_size: int, share: float) -> tuple[Tensor, Tensor]:
    """Divide the images of a batch between two losses: indices of `share` of them, and of the rest, both int64 on the CPU.

    The share is met to one image, rounded up or down at random so that it is right on average, and spread over the batch.
    """
    marks = (torch.arange(batch_size + 1, dtype=torch.float64) * share + torch.rand(()).item()).floor()
    chosen = marks[1:] > marks[:-1]
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
