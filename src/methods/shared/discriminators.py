"""Discriminators on frozen features, as projected GANs have them (Sauer et al., arXiv:2111.01007), and their losses.

A discriminator gives for each sample one row of logits a scale, (B, patches): high for what it takes to be data. Rows of
a batch are never mixed, and the frozen part lets gradients through to the samples but has nothing to train.

It can be told a sample's class, as conditional discriminators are (Miyato and Koyama, arXiv:1802.05637), and in the same way
the noise level that a sample was made from. Samples of one level then cannot make up for what those of another lack: where it
sees only the mixture of all levels, a mode may be missing from samples of one call if those of more calls have it too often.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from src.common.efficientnet import OUTPUTS, load_efficientnet
from src.common.guidance import with_labels
from src.common.networks import embed, halvings
from src.methods.shared.method import Method
from src.module import DownSample

Logits = list[torch.Tensor]
DISCRIMINATORS = ("unet", "efficientnet")


class Head(nn.Module):
    """Features (B, channels, H, W) -> logits (B, patches), a patch about half of the positions wide and high. In float32.

    Features are brought to mean 0 and variance 1 image by image; convolutions have spectral norm. The last one has an output
    for each of `kinds` kinds of sample, and forward is told the kind of every row, (B,); None is the first for all.
    """

    def __init__(self, channels: int, width: int, kinds: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, width, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, kinds, 1)),
        )

    def forward(self, features: torch.Tensor, kind: torch.Tensor | None = None) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            maps = self.layers(self.norm(features.float()))
        return maps[:, 0].flatten(1) if kind is None else maps[torch.arange(len(maps), device=maps.device), kind].flatten(1)


class Discriminator(nn.Module):
    """Frozen `features` of samples and, as forward, what is trained, features -> logits. Its parameters are the latter.

    Args:
        levels: the noise levels that samples are made from. Forward is told each row's, sigma (B,), of these; where there are
            none it makes no difference between rows.
        num_classes: of the labels (B,), 0 for none of them, which features and forward are told; 0: they are told none.
    """

    def __init__(self, levels: Sequence[float] = (), num_classes: int = 0):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.num_classes = num_classes

    def features(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        """What the trained part looks at, scale by scale: each (B, ...) for samples x (B, ...)."""
        raise NotImplementedError

    @property
    def kinds(self) -> int:
        """How many kinds of sample it tells apart: levels times labels."""
        return max(len(self.levels), 1) * (self.num_classes + 1)

    def kind(self, sigma: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor | None:
        """The kind (B,) of samples of these levels and labels, both (B,); None where all are of one."""
        kind = (self.levels - sigma[:, None]).abs().argmin(dim=1) if len(self.levels) else None
        if not self.num_classes:
            return kind
        return labels if kind is None else kind * (self.num_classes + 1) + labels


class HeadsDiscriminator(Discriminator):
    """A head on each scale of the features, which have these numbers of channels."""

    def __init__(self, channels: Sequence[int], width: int, levels: Sequence[float] = (), num_classes: int = 0):
        super().__init__(levels, num_classes)
        self.heads = nn.ModuleList(Head(count, width, self.kinds) for count in channels)

    def forward(
        self, features: list[torch.Tensor], sigma: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> Logits:
        kind = self.kind(sigma, labels)
        return [head(maps, kind) for head, maps in zip(self.heads, features, strict=True)]


class UNetDiscriminator(HeadsDiscriminator):
    """Heads on the encoder half of the teacher's U-Net, which sees the image with noise of level sigma added, and its label.

    Adding it keeps the teacher on what it was trained for (Sauer et al., LADD, arXiv:2403.12015).
    """

    def __init__(self, teacher: Method, sigma: float, width: int, levels: Sequence[float] = ()):
        seen, network = TeacherInput(teacher, sigma), teacher.network
        size = 2 ** halvings(network)
        image = torch.zeros(1, network.head.in_channels, size, size, device=teacher.device)
        maps = seen(image, encode)
        super().__init__([scale.shape[1] for scale in maps], width, levels, teacher.num_classes)
        self.seen = seen

    def features(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        return self.seen(self.seen.noised(x), encode, labels=labels)


class EfficientNetDiscriminator(HeadsDiscriminator):
    """Heads on ImageNet features of EfficientNet-Lite0, which sees the image enlarged to size x size pixels."""

    def __init__(self, size: int, width: int, levels: Sequence[float] = (), num_classes: int = 0):
        super().__init__(list(OUTPUTS.values()), width, levels, num_classes)
        try:
            self.size, self.network = size, load_efficientnet()
        except ValueError as error:
            raise ValueError(f"discriminator efficientnet, in training alone: {error}; or choose discriminator unet") from error

    def features(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        x = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)  # grey
        return self.network(F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False))


class NetworkDiscriminator(Discriminator):
    """For samples of any shape: a second network like the teacher's, which starts as it and whose output adds up to the logit.

    Nothing in it is frozen: its features are the samples, with noise of level sigma added, themselves. The level that a sample
    was made from is told in the place of sigma.
    """

    def __init__(self, teacher: Method, sigma: float, levels: Sequence[float] = ()):
        super().__init__(levels, teacher.num_classes)
        self.seen = TeacherInput(teacher, sigma)
        self.network = copy.deepcopy(teacher.network).requires_grad_(True)

    def features(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> list[torch.Tensor]:
        return [self.seen.noised(x)]

    def forward(
        self, features: list[torch.Tensor], sigma: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> Logits:
        told = sigma if len(self.levels) else None
        _, *scalars = self.seen(features[0], lambda teachers, *arguments, **_: arguments, told)
        output = self.seen(features[0], lambda teachers, x, *_, **known: self.network(x, *scalars, **known), labels=labels)
        return [output.flatten(1).sum(dim=1, keepdim=True)]


def make_discriminator(
    kind: str, teacher: Method, sigma: float, size: int, width: int, levels: Sequence[float] = ()
) -> Discriminator:
    """The discriminator of one of DISCRIMINATORS; for a teacher whose network is no U-Net, "unet" is a NetworkDiscriminator.

    Args:
        sigma: the noise level at which a teacher's network looks at samples.
        size: of the images that EfficientNet sees, in pixels.
        width: channels of the heads.
        levels: the noise levels that samples are made from, if it shall be told them.

    Raises ValueError for another kind, for EfficientNet without its weights or on what is no image.
    """
    is_unet = hasattr(teacher.network, "downblocks")
    if kind == "unet":
        return UNetDiscriminator(teacher, sigma, width, levels) if is_unet else NetworkDiscriminator(teacher, sigma, levels)
    if kind != "efficientnet":
        raise ValueError(f"unknown discriminator {kind!r}; expected one of {', '.join(DISCRIMINATORS)}")
    if not is_unet:
        raise ValueError("discriminator efficientnet looks at images, and this teacher's network is no U-Net: choose unet")
    return EfficientNetDiscriminator(size, width, levels, teacher.num_classes)


# ------------------------------------------------------------------------------------------- a teacher's network, read


class TeacherInput:
    """Calls a function as the teacher calls its network for samples x (B, ...) at noise level sigma, whatever its path is.

    The teacher is not a part of what holds this object: it is saved and moved elsewhere.
    """

    def __init__(self, teacher: Method, sigma: float):
        self.teacher, self.sigma = teacher, sigma

    def noised(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.sigma * torch.randn_like(x)

    def __call__(
        self,
        x: torch.Tensor,
        function: Callable[..., Any],
        sigma: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> Any:
        """function(network, network's input, its time[, its condition][, labels=]) for x, which has its noise already.

        sigma: (B,), in the place of this object's own.
        """
        network = self.teacher.network
        standing_in = _StandIn(network, function)
        self.teacher.network = standing_in
        try:
            sigma = torch.full((len(x),), self.sigma, device=x.device) if sigma is None else sigma
            self.teacher.denoised(x, sigma, **with_labels(labels))
        finally:
            self.teacher.network = network
        return standing_in.result


class _StandIn(nn.Module):
    """Has the call of a network, keeps what `function` makes of it, and gives its input back."""

    def __init__(self, network: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: torch.Tensor, *scalars: torch.Tensor, **known: torch.Tensor) -> torch.Tensor:
        self.result = self.function(self.network, x, *scalars, **known)
        return x


def encode(
    network: nn.Module,
    x: torch.Tensor,
    timestep: torch.Tensor,
    condition: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The U-Net's activations on its way down: the last of every level, the deepest after the middle blocks."""
    temb = embed(network, timestep, condition, labels)
    h, levels = network.head(x), []
    for block in network.downblocks:
        if isinstance(block, DownSample):
            levels.append(h)
        h = block(h, temb)
    for block in network.middleblocks:
        h = block(h, temb)
    return [*levels, h]


# ------------------------------------------------------------------------------------------------------------ losses


def per_sample(logits: Logits, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A function of each logit, its mean over patches, added up over scales: (B,)."""
    return torch.stack([function(rows.float()).mean(dim=1) for rows in logits]).sum(dim=0)


def hinge_discriminator(real: Logits, fake: Logits) -> torch.Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), (B,): Lim and Ye, Geometric GAN, arXiv:1705.02894."""
    return per_sample(real, lambda logit: F.relu(1 - logit)) + per_sample(fake, lambda logit: F.relu(1 + logit))


def hinge_generator(fake: Logits) -> torch.Tensor:
    """-D(fake), (B,)."""
    return per_sample(fake, torch.neg)


def non_saturating_discriminator(real: Logits, fake: Logits) -> torch.Tensor:
    """-log s(D(real)) - log(1 - s(D(fake))) with the sigmoid s, (B,): Goodfellow et al., arXiv:1406.2661."""
    return per_sample(real, lambda logit: F.softplus(-logit)) + per_sample(fake, F.softplus)


def non_saturating_generator(fake: Logits) -> torch.Tensor:
    """-log s(D(fake)), (B,)."""
    return per_sample(fake, lambda logit: F.softplus(-logit))


def gradient_penalty(logits: Logits, features: list[torch.Tensor]) -> torch.Tensor:
    """|d sum of logits / d features|^2, (B,), the features having requires_grad: R1 without its gamma / 2.

    Mescheder et al., arXiv:1801.04406. On features instead of images, as in ADD (arXiv:2311.17042), which spares the second
    derivative of the frozen part.
    """
    total = torch.stack([rows.float().sum() for rows in logits]).sum()
    gradients = torch.autograd.grad(total, features, create_graph=True)
    return torch.stack([gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)
