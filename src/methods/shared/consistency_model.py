"""What all models share that name the clean image from any noise level, and sample by cleaning and putting noise back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from src.methods.shared.karras_path import Denoiser, DenoiserOptions, KarrasPathScheduler
from src.utils import expand_t


class ConsistencyPathScheduler(KarrasPathScheduler):
    """The Karras path with the sampler's step: from the clean image back to a lower noise level."""

    @property
    def boundary(self) -> float:
        """The level at which the model is the identity."""
        return 0.0

    def reverse_process_step(
        self,
        xt: torch.Tensor,
        pred: torch.Tensor,
        t: torch.Tensor,
        t_next: torch.Tensor,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Take pred, the clean data, back to level t_next with new noise (arXiv:2303.01469, algorithm 1).

        Without noise it is an Euler step.
        """
        if noise is None:
            return super().reverse_process_step(xt, pred, t, t_next)
        return pred + expand_t((t_next**2 - self.boundary**2).clamp(min=0).sqrt(), xt) * noise


@dataclass
class ConsistencyOptions(DenoiserOptions):
    """Options of the sampler; a Config lists this class before its scheduler's Config."""

    mid_sigma: float = field(default=0.821, metadata={"help": "noise level of the second of two calls", "minimum": 0})
    mid_span: float = field(
        default=3.0, metadata={"help": "more calls: levels between mid_sigma times and divided by this", "minimum": 1}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.mid_sigma / self.mid_span, self.mid_sigma * self.mid_span
        if not self.sigma_min <= low <= high <= self.sigma_max:
            raise ValueError(
                f"expected mid_sigma / mid_span and mid_sigma * mid_span within [{self.sigma_min:g}, {self.sigma_max:g}], "
                f"got {low:g} and {high:g}"
            )

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a sampler of `steps` calls: sigma_max, then geometrically around mid_sigma."""
        if steps < 1:
            raise ValueError(f"expected at least 1 step, got {steps}")
        count = steps - 1
        exponents = [0.0] if count == 1 else [1 - 2 * i / (count - 1) for i in range(count)]
        return [self.sigma_max] + [self.mid_sigma * self.mid_span**exponent for exponent in exponents]


class ConsistencyModel(Denoiser):
    """A network in EDM's preconditioning that names the clean image, and multistep consistency sampling.

    A subclass says how it learns: compute_loss.
    """

    Scheduler = ConsistencyPathScheduler
    takes_labels = takes_guidance = few_calls = True

    @dataclass
    class Config(ConsistencyOptions, ConsistencyPathScheduler.Config):
        pass

    @property
    def boundary(self) -> float:
        return self.scheduler.boundary

    def levels(self, steps: int) -> list[float]:
        """The noise levels of a sampler of `steps` calls."""
        return self.config.levels(steps)

    def time_grid(self, steps: int) -> torch.Tensor:
        """The levels of a sampler of so many calls, and the boundary: (steps + 1,), float32."""
        return torch.tensor([*self.levels(steps), self.scheduler.boundary], device=self.device)

    def sampling_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, noise: Callable[[], torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """To the data and back to the lower noise level t_next (arXiv:2303.01469, algorithm 1)."""
        return self.scheduler.reverse_process_step(x, self.steered(x, t, **kwargs).to(x.dtype), t, t_next, noise())
