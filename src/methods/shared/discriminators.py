"""Discriminators on frozen features, as projected GANs have them (Sauer et al., arXiv:2111.01007), and their losses.

A discriminator gives for each sample one row of logits a scale, (B, patches): high for what it takes to be data. Rows of a
batch are never mixed. It may tell classes apart (Miyato and Koyama, arXiv:1802.05637), and in the same way the noise levels
that samples are made from. Samples of one level then cannot make up for what those of another lack.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from src.common.efficientnet import OUTPUTS, load_efficientnet
from src.common.guidance import with_labels
from src.common.networks import embed, halvings
from src.common.options import Options, option
from src.methods.shared.augment import AUGMENTATIONS
from src.methods.shared.method import Method
from src.module import DownSample

Logits = list[Tensor]


@dataclass
class DiscriminatorOptions(Options):
    """Of a discriminator, of what it sees, and of how it learns."""

    discriminator: str = option("unet", "on whose features: the teacher's, or ImageNet's", choices=("unet", "efficientnet"))
    feature_sigma: float = option(0.2, "unet: noise level at which the teacher looks at samples", above=0)
    feature_size: int = option(128, "efficientnet: pixels that images are enlarged to", minimum=32)
    head_width: int = option(64, "channels of the discriminator's heads", minimum=1)
    r1_gamma: float = option(1e-4, "weight of R1 on the features of data; 0: none", minimum=0)
    r1_interval: int = option(16, "steps from one R1 to the next, which weighs as much more", minimum=1)
    d_lr_scale: float = option(2.0, "the discriminator's learning rate over --lr", above=0)
    augment: str = option("ada", "what the discriminator sees, as often as it needs or always", choices=AUGMENTATIONS)
    ada_target: float = option(0.6, "ada: mean sign of the logits of data", above=-1, below=1)
    ada_images: int = option(500_000, "ada: images over which p can go from 0 to 1", minimum=1)


class Head(nn.Module):
    """Features (B, channels, H, W) -> logits (B, patches), a patch about half of the positions wide and high. In float32.

    Features are brought to mean 0 and variance 1 image by image; convolutions have spectral norm. The last one has an output
    for each of `kinds` kinds of sample: that of a row, (B,), is read, or the first of all rows.
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

    def forward(self, features: Tensor, kind: Tensor | None = None) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            maps = self.layers(self.norm(features.float()))
        return maps[:, 0].flatten(1) if kind is None else maps[torch.arange(len(maps), device=maps.device), kind].flatten(1)


class Discriminator(nn.Module):
    """Frozen `features` of samples and, as forward, trained heads on each scale of them. Its parameters are those of the heads.

    channels are those of the scales. It tells samples apart by these noise levels that they are made from, sigma (B,), if there
    are any, and by labels (B,) from 0, no class, to num_classes.
    """

    def __init__(self, channels: Sequence[int], width: int, levels: Sequence[float] = (), num_classes: int = 0):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.num_classes = num_classes
        kinds = max(len(levels), 1) * (num_classes + 1)
        self.heads = nn.ModuleList(Head(count, width, kinds) for count in channels)

    def features(self, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """What the heads look at, scale by scale: each (B, ...) for samples x (B, ...)."""
        raise NotImplementedError

    def forward(self, features: list[Tensor], sigma: Tensor | None = None, labels: Tensor | None = None) -> Logits:
        kind = (self.levels - sigma[:, None]).abs().argmin(dim=1) if len(self.levels) else None
        if self.num_classes:
            kind = labels if kind is None else kind * (self.num_classes + 1) + labels
        return [head(maps, kind) for head, maps in zip(self.heads, features, strict=True)]


class UNetDiscriminator(Discriminator):
    """Heads on the encoder half of the teacher's U-Net, which sees the image with noise of feature_sigma added, and its label.

    Adding it keeps the teacher on what it was trained for (Sauer et al., LADD, arXiv:2403.12015).
    """

    def __init__(self, options: DiscriminatorOptions, teacher: Method, levels: Sequence[float]):
        size, seen = 2 ** halvings(teacher.network), partial(encoded, teacher, options.feature_sigma)
        maps = seen(torch.zeros(1, teacher.network.head.in_channels, size, size, device=teacher.device))
        super().__init__([scale.shape[1] for scale in maps], options.head_width, levels, teacher.num_classes)
        self.sigma, self.seen = options.feature_sigma, seen  # which is no module: the teacher is saved and moved elsewhere

    def features(self, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        return self.seen(x + self.sigma * torch.randn_like(x), labels)


class EfficientNetDiscriminator(Discriminator):
    """Heads on ImageNet features of EfficientNet-Lite0, which sees the image enlarged to feature_size pixels."""

    def __init__(self, options: DiscriminatorOptions, teacher: Method, levels: Sequence[float]):
        super().__init__(list(OUTPUTS.values()), options.head_width, levels, teacher.num_classes)
        try:
            self.size, self.network = options.feature_size, load_efficientnet()
        except ValueError as error:
            raise ValueError(f"discriminator efficientnet, in training alone: {error}; or choose discriminator unet") from error

    def features(self, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        x = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)  # grey
        return self.network(F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False))


class NetworkDiscriminator(nn.Module):
    """For samples of any shape: a second network like the teacher's, which starts as it and whose output adds up to the logit.

    Nothing in it is frozen: its features are the samples, with noise of feature_sigma added, themselves. Where it tells levels
    apart, its time is that of the level that a sample was made from.
    """

    def __init__(self, options: DiscriminatorOptions, teacher: Method, levels: Sequence[float]):
        super().__init__()
        self.levels, self.sigma, self.inputs = levels, options.feature_sigma, partial(network_inputs, teacher)
        self.network = copy.deepcopy(teacher.network).requires_grad_(True)

    def features(self, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        return [x + self.sigma * torch.randn_like(x)]

    def forward(self, features: list[Tensor], sigma: Tensor | None = None, labels: Tensor | None = None) -> Logits:
        (x, *scalars), label_kwargs = self.inputs(features[0], self.sigma, labels)
        if len(self.levels):
            (_, *scalars), _ = self.inputs(features[0], sigma)
        return [self.network(x, *scalars, **label_kwargs).flatten(1).sum(dim=1, keepdim=True)]


def make_discriminator(options: DiscriminatorOptions, teacher: Method, levels: Sequence[float] = ()) -> nn.Module:
    """The discriminator of these options. Raises ValueError for EfficientNet without its weights or on what is no image."""
    is_unet = hasattr(teacher.network, "downblocks")
    if options.discriminator == "unet":
        return (UNetDiscriminator if is_unet else NetworkDiscriminator)(options, teacher, levels)
    if not is_unet:
        raise ValueError("discriminator efficientnet looks at images, and this teacher's network is no U-Net: choose unet")
    return EfficientNetDiscriminator(options, teacher, levels)


def network_inputs(
    teacher: Method, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What a teacher calls its network with for samples x (B, ...) with noise of level sigma (B,): positions and keywords."""
    network, sigma = teacher.network, torch.as_tensor(sigma, device=x.device).expand(len(x))
    teacher.network = recorder = Recorder(network)
    try:
        teacher.denoised(x, sigma, **with_labels(labels))
    finally:
        teacher.network = network
    return recorder.inputs


class Recorder(nn.Module):
    """Is called as a network and keeps what it was called with."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *scalars: Tensor, **label_kwargs: Tensor) -> Tensor:
        self.inputs = (x, *scalars), label_kwargs
        return x


def encoded(teacher: Method, sigma: float, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
    """The activations of a teacher's U-Net on its way down: the last of every level, the deepest after the middle blocks."""
    (h, *scalars), label_kwargs = network_inputs(teacher, x, sigma, labels)
    network, levels = teacher.network, []
    temb, h = embed(network, *scalars, **label_kwargs), network.head(h)
    for block in network.downblocks:
        if isinstance(block, DownSample):
            levels.append(h)
        h = block(h, temb)
    for block in network.middleblocks:
        h = block(h, temb)
    return [*levels, h]


def per_sample(logits: Logits, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of each logit, its mean over patches, added up over scales: (B,)."""
    return torch.stack([function(rows.float()).mean(dim=1) for rows in logits]).sum(dim=0)


def hinge_discriminator(real: Logits, fake: Logits) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), (B,): Lim and Ye, Geometric GAN, arXiv:1705.02894."""
    return per_sample(real, lambda logit: F.relu(1 - logit)) + per_sample(fake, lambda logit: F.relu(1 + logit))


def hinge_generator(fake: Logits) -> Tensor:
    """-D(fake), (B,)."""
    return per_sample(fake, torch.neg)


def non_saturating_discriminator(real: Logits, fake: Logits) -> Tensor:
    """-log s(D(real)) - log(1 - s(D(fake))) with the sigmoid s, (B,): Goodfellow et al., arXiv:1406.2661."""
    return non_saturating_generator(real) + per_sample(fake, F.softplus)


def non_saturating_generator(fake: Logits) -> Tensor:
    """-log s(D(fake)), (B,)."""
    return per_sample(fake, lambda logit: F.softplus(-logit))


def gradient_penalty(logits: Logits, features: list[Tensor]) -> Tensor:
    """|d sum of logits / d features|^2, (B,), the features having requires_grad: R1 (arXiv:1801.04406) without its gamma / 2.

    On features instead of images, as in ADD (arXiv:2311.17042), which spares the second derivative of the frozen part.
    """
    total = torch.stack([rows.float().sum() for rows in logits]).sum()
    gradients = torch.autograd.grad(total, features, create_graph=True)
    return torch.stack([gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)
