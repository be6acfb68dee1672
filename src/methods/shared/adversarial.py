"""What students share that learn from a discriminator: its options, its parameter group, its loss and its pace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from src.common.guidance import with_labels
from src.methods.shared.augment import ADA_INTERVAL, AUGMENTATIONS, Augment
from src.methods.shared.discriminators import DISCRIMINATORS, Logits, gradient_penalty, make_discriminator
from src.methods.shared.method import Method
from src.methods.shared.student import Student


@dataclass
class DiscriminatorOptions:
    """Of a discriminator and of what it sees; a Config lists this class before its scheduler's Config."""

    discriminator: str = field(
        default="unet",
        metadata={"help": "whose features it looks at: the teacher's own, or ImageNet's", "choices": DISCRIMINATORS},
    )
    feature_sigma: float = field(
        default=0.2, metadata={"help": "unet: noise level at which the teacher looks at samples", "above": 0}
    )
    feature_size: int = field(default=128, metadata={"help": "efficientnet: pixels that images are enlarged to", "minimum": 32})
    head_width: int = field(default=64, metadata={"help": "channels of the discriminator's heads", "minimum": 1})
    r1_gamma: float = field(default=1e-4, metadata={"help": "weight of R1 on the features of data; 0: none", "minimum": 0})
    r1_interval: int = field(
        default=16, metadata={"help": "steps from one R1 to the next, which weighs as much more", "minimum": 1}
    )
    d_lr_scale: float = field(default=2.0, metadata={"help": "the discriminator's learning rate over --lr", "above": 0})
    augment: str = field(
        default="ada",
        metadata={"help": "what the discriminator sees, as often as it needs or always", "choices": AUGMENTATIONS},
    )
    ada_target: float = field(default=0.6, metadata={"help": "ada: mean sign of the logits of data", "above": -1, "below": 1})
    ada_images: int = field(default=500_000, metadata={"help": "ada: images over which p can go from 0 to 1", "minimum": 1})


class WithDiscriminator(Student):
    """A method whose samples a discriminator is to take for data; its Config has DiscriminatorOptions.

    Two groups take turns: "network", and "discriminator", which is train-only. The subclass says by which losses, and what
    samples there are: generate. Where these are of few noise levels, it names them: judged_levels.
    """

    judged_levels: Sequence[float] = ()  # that the discriminator is told, none: it is not

    @property
    def has_discriminator(self) -> bool:
        """Whether there is one, with these options."""
        return True

    def set_teacher(self, teacher: Method) -> None:
        """Learn from this model, and build the discriminator, which may look through its network.

        Raises ValueError where the teacher gives no denoised data, or the discriminator's weights are missing.
        """
        super().set_teacher(teacher)
        if not self.has_discriminator:
            return
        config = self.config
        self.train_only["discriminator"] = make_discriminator(
            config.discriminator, teacher, config.feature_sigma, config.feature_size, config.head_width, self.judged_levels
        ).to(self.device)
        self.train_only["augment"] = Augment(config.augment, config.ada_target, config.ada_images).to(self.device)

    # --------------------------------------------------------------------------------------- hooks of the training loop

    def optim_groups(self) -> dict[str, Iterator[nn.Parameter] | list[nn.Parameter]]:
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
        """GDD's for the discriminator: an opponent that moves leaves no direction to remember."""
        return (0.0, 0.99) if group == "discriminator" else super().betas(group)

    def on_step_end(self, step: int, total_steps: int) -> None:
        super().on_step_end(step, total_steps)
        if self.has_discriminator and step % ADA_INTERVAL == 0:
            self.train_only["augment"].adapt()

    # ------------------------------------------------------------------------------------------------------ for losses

    def generate(
        self, data: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples (B, ...), with gradients for the network, and the noise levels (B,) that they were made from."""
        raise NotImplementedError

    def judge(self, fake: torch.Tensor, sigma: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> Logits:
        """The discriminator's logits of samples (B, ...), with gradients for the samples and none for its weights.

        sigma: the levels (B,) that they were made from, where there are judged_levels. labels: (B,), that they were made for.
        """
        discriminator, known = self.train_only["discriminator"].requires_grad_(False), with_labels(labels)
        return discriminator(discriminator.features(self.train_only["augment"](fake), **known), sigma, **known)

    def discriminator_loss(
        self,
        data: torch.Tensor,
        noise: torch.Tensor,
        step: int,
        loss: Callable[[Logits, Logits], torch.Tensor],
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mean of `loss`, of the logits of data and of samples, and at every r1_interval-th step R1: a scalar.

        A row of data is compared with samples of its own label, and of the level that the sample in its row was made from.
        """
        discriminator, augment = self.train_only["discriminator"].requires_grad_(True), self.train_only["augment"]
        known = with_labels(labels)
        with torch.no_grad():
            fake, sigma = self.generate(data, noise, **known)
            real_features, fake_features = (discriminator.features(augment(samples), **known) for samples in (data, fake))
        penalised = self.config.r1_gamma > 0 and (step - 1) % self.config.r1_interval == 0
        if penalised:  # as views, since torch's counter of FLOP refuses the gradient of a layer's input that is a leaf
            real_features = [maps.requires_grad_().view_as(maps) for maps in real_features]
        real_logits = discriminator(real_features, sigma, **known)
        augment.observe(real_logits)
        losses = loss(real_logits, discriminator(fake_features, sigma, **known))
        if penalised:
            penalty = gradient_penalty(real_logits, real_features)
            losses = losses + self.config.r1_interval * self.config.r1_gamma / 2 * penalty
        return losses.mean()
