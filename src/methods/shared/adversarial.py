"""What students share that learn from a discriminator, and those among them that learn at the levels of their sampler."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.augment import ADA_INTERVAL, Augment
from src.methods.shared.discriminators import DiscriminatorOptions, Logits, gradient_penalty, make_discriminator
from src.methods.shared.karras_path import ConsistencyModel, ConsistencyOptions, KarrasPathScheduler
from src.methods.shared.method import Method, split_batch
from src.methods.shared.student import Student
from src.utils import expand_t

BETAS = (0.0, 0.99)  # GDD's: an opponent that moves leaves no direction to remember


class WithDiscriminator(Student):
    """A method whose samples a discriminator is to take for data; its Config extends DiscriminatorOptions.

    Two groups take turns: "network", and "discriminator", which is train-only. The subclass says by which losses, and has
    generate(data, noise, labels), which gives samples (B, ...) and the noise levels (B,) that they are made from.
    """

    has_discriminator = True  # with its options
    discriminator_levels: Sequence[float] = ()  # noise levels that the discriminator tells apart, if it does

    def set_teacher(self, teacher: Method) -> None:
        """And build the discriminator, which may look through the teacher's network; ValueError also if it has no weights."""
        super().set_teacher(teacher)
        if self.has_discriminator:
            config, levels = self.config, self.discriminator_levels
            self.train_only["discriminator"] = make_discriminator(config, teacher, levels).to(self.device)
            self.train_only["augment"] = Augment(config.augment, config.ada_target, config.ada_images).to(self.device)

    def optim_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        if not self.has_discriminator:
            return super().optim_groups()
        self.teacher  # noqa: B018 - without one there is no discriminator either, and this says so
        return {
            "network": [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            "discriminator": list(self.train_only["discriminator"].parameters()),
        }

    def lr_scale(self, group: str) -> float:
        return self.config.d_lr_scale if group == "discriminator" else super().lr_scale(group)

    def betas(self, group: str) -> tuple[float, float]:
        return BETAS if group == "discriminator" else super().betas(group)

    def on_step_end(self, step: int, total_steps: int) -> None:
        super().on_step_end(step, total_steps)
        if self.has_discriminator and step % ADA_INTERVAL == 0:
            self.train_only["augment"].adapt()

    def critic_logits(self, fake: Tensor, sigma: Tensor | None = None, labels: Tensor | None = None) -> Logits:
        """The discriminator's logits of samples (B, ...) that are made from levels sigma (B,) for labels (B,).

        They have gradients for the samples and none for its weights.
        """
        discriminator = self.train_only["discriminator"].requires_grad_(False)
        return discriminator(discriminator.features(self.train_only["augment"](fake), labels), sigma, labels)

    def discriminator_loss(
        self, data: Tensor, noise: Tensor, step: int, loss: Callable[[Logits, Logits], Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """The mean of `loss`, of the logits of data and of samples, and at every r1_interval-th step R1: a scalar.

        A row of data is compared with samples of its own label, and of the level that the sample in its row was made from.
        """
        discriminator, augment = self.train_only["discriminator"].requires_grad_(True), self.train_only["augment"]
        with torch.no_grad():
            fake, sigma = self.generate(data, noise, labels)
            real_features, fake_features = (discriminator.features(augment(samples), labels) for samples in (data, fake))
        penalised = self.config.r1_gamma > 0 and (step - 1) % self.config.r1_interval == 0
        if penalised:  # as views, since torch's counter of FLOP refuses the gradient of a layer's input that is a leaf
            real_features = [maps.requires_grad_().view_as(maps) for maps in real_features]
        real_logits = discriminator(real_features, sigma, labels)
        augment.observe(real_logits)
        losses = loss(real_logits, discriminator(fake_features, sigma, labels))
        if penalised:
            weight = self.config.r1_interval * self.config.r1_gamma / 2
            losses = losses + weight * gradient_penalty(real_logits, real_features)
        return losses.mean()


class SamplerLevelsScheduler(KarrasPathScheduler):
    """The Karras path, trained at the few noise levels that the sampler visits: sigma_max and, below it, the mid levels."""

    @dataclass
    class Config(ConsistencyOptions):
        train_levels: int = option(4, "train at the levels of a sampler of so many calls; 1: sigma_max alone", minimum=1)
        mid_share: float = option(0.5, "share of the batch at levels below sigma_max, if there are any", minimum=0, maximum=1)

        def training_levels(self) -> list[float]:
            return self.levels(self.train_levels)

    def sample_timesteps(self, batch_size: int, device: torch.device | str) -> Tensor:
        """sigma_max for 1 - mid_share of the batch; for the rest one of the other levels, equally likely."""
        levels = torch.tensor(self.config.training_levels(), device=device)
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
        tell_level: bool = option(False, "tell the discriminator which of the train_levels a sample was made from")

    @property
    def discriminator_levels(self) -> Sequence[float]:
        return self.config.levels(self.config.train_levels) if self.config.tell_level else ()

    def betas(self, group: str) -> tuple[float, float]:
        return BETAS

    def generate(self, data: Tensor, noise: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples (B, ...) as the sampler makes them in one call from a training level, and these levels (B,).

        At sigma_max that is from noise alone; below, from data with noise, instead of the sampler's own samples.
        """
        sigma = self.scheduler.sample_timesteps(data.shape[0], data.device)
        below = expand_t(sigma < self.config.sigma_max, data)
        xt = self.scheduler.forward_process(data * below, noise, sigma)
        return self.predict(xt, sigma, **with_labels(labels)).to(data.dtype), sigma
