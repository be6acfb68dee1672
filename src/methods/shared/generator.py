"""Few-step generators that begin as their teacher and learn from a discriminator at the levels that their sampler visits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from src.common.guidance import with_labels
from src.methods.shared.adversarial import DiscriminatorOptions, WithDiscriminator
from src.methods.shared.consistency_model import ConsistencyModel, ConsistencyOptions, ConsistencyPathScheduler
from src.methods.shared.karras_path import KarrasLevels
from src.methods.shared.method import split_batch
from src.utils import expand_t


class SamplerLevelsScheduler(ConsistencyPathScheduler):
    """The Karras path, trained at the few noise levels that the sampler visits: sigma_max and, below it, the mid levels."""

    @dataclass
    class Config(ConsistencyOptions, KarrasLevels):
        train_levels: int = field(
            default=4, metadata={"help": "train at the levels of a sampler of so many calls; 1: sigma_max alone", "minimum": 1}
        )
        mid_share: float = field(
            default=0.5,
            metadata={"help": "share of the batch at levels below sigma_max, if there are any", "minimum": 0, "maximum": 1},
        )

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        """sigma_max for 1 - mid_share of the batch; for the rest one of the other levels, equally likely."""
        levels = torch.tensor(self.config.levels(self.config.train_levels), device=device)
        sigma = levels[:1].repeat(batch_size)
        if len(levels) > 1:
            below = levels[torch.randint(1, len(levels), (batch_size,), device=device)]
            mid = split_batch(batch_size, self.config.mid_share)[0].to(device)
            sigma[mid] = below[mid]
        return sigma


class AdversarialModel(WithDiscriminator, ConsistencyModel):
    """A student that begins as its teacher and learns from a discriminator at the few noise levels that its sampler visits."""

    Scheduler = SamplerLevelsScheduler

    @dataclass
    class Config(DiscriminatorOptions, SamplerLevelsScheduler.Config):
        tell_level: bool = field(
            default=False, metadata={"help": "tell the discriminator which of the train_levels a sample was made from"}
        )

    @property
    def judged_levels(self) -> Sequence[float]:
        return self.levels(self.config.train_levels) if self.config.tell_level else ()

    def betas(self, group: str) -> tuple[float, float]:
        """GDD's, for both groups."""
        return 0.0, 0.99

    def generator_levels(self, batch_size: int, device: torch.device | str) -> torch.Tensor:
        """The noise levels (B,) that a batch of samples is made from: the scheduler's, of training."""
        return self.scheduler.sample_timesteps(batch_size, device)

    def generate(
        self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples (B, ...) as the sampler makes them in one call from a training level, and these levels (B,).

        At sigma_max that is from noise alone; below, from data with noise, in the place of the sampler's own samples.
        """
        sigma = self.generator_levels(data.shape[0], data.device)
        below = expand_t(sigma < self.config.sigma_max, data)
        xt = self.scheduler.forward_process(data * below, noise, sigma)
        return self.predict(xt, sigma, **with_labels(labels)).to(data.dtype), sigma
