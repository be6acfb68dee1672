"""Differentiable augmentation of what a discriminator sees, always or as often as it needs to be kept from overfitting.

The operations are DiffAugment's (Zhao et al., arXiv:2006.10738): colour, translation, cutout. How often each is applied to an
image is 1 (DiffAugment) or a probability that follows the discriminator (ADA, Karras et al., arXiv:2006.06676).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUGMENTATIONS = ("none", "diffaug", "ada")
SHIFT = 1 / 8  # largest translation, as a share of height and width
CUTOUT = 1 / 2  # side of the square that is cut out, likewise
ADA_INTERVAL = 4  # steps between changes of the probability


class Augment(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> the same, each operation applied to each image with probability p.

    Samples that are no images stay as they are. p is 0 for "none", 1 for "diffaug", and begins as 0 for "ada", which keeps the
    mean sign of the real images' logits at `target`. Over so many `images` it can go from 0 to 1.
    """

    def __init__(self, kind: str, target: float = 0.6, images: float = 500_000):
        super().__init__()
        self.kind, self.target, self.images = kind, target, images
        self.register_buffer("p", torch.tensor(float(kind == "diffaug")))
        self.register_buffer("seen", torch.zeros(2))  # since p last changed: sum of signs, number of real images

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none" or x.ndim != 4:
            return x
        for operation in (brightness, saturation, contrast, translate, cut_out):
            x = operation(x, torch.rand(len(x), device=x.device) < self.p)
        return x

    @torch.no_grad()
    def observe(self, logits: list[Tensor]) -> None:
        """Take note of the real images' logits, (B, patches) of each scale."""
        signs, count = torch.stack([rows.sign().mean() for rows in logits]).mean(), len(logits[0])
        self.seen += torch.stack([signs * count, torch.full_like(signs, count)])

    @torch.no_grad()
    def adapt(self) -> None:
        """Move ADA's p by the number of images seen: up where the mean sign was above the target, else down; within [0, 1]."""
        if self.kind == "ada":
            signs, count = self.seen
            self.p.add_(torch.sign(signs / count.clamp(min=1) - self.target) * count / self.images).clamp_(0, 1)
        self.seen.zero_()


def draw(chosen: Tensor, x: Tensor, largest: float) -> Tensor:
    """One number per image, (B, 1, 1, 1): uniform from -largest to largest where it is chosen, (B,) boolean, else 0."""
    drawn = largest * (2 * torch.rand(len(x), device=x.device) - 1)
    return (drawn * chosen)[:, None, None, None].to(x.dtype)


def brightness(x: Tensor, chosen: Tensor) -> Tensor:
    """Add from -0.5 to 0.5 to the chosen images."""
    return x + draw(chosen, x, 0.5)


def saturation(x: Tensor, chosen: Tensor) -> Tensor:
    """Multiply the distances of the channels from their mean by 0 to 2."""
    return x + (x - x.mean(dim=1, keepdim=True)) * draw(chosen, x, 1.0)


def contrast(x: Tensor, chosen: Tensor) -> Tensor:
    """Multiply the distances from the image's mean by 0.5 to 1.5."""
    return x + (x - x.mean(dim=(1, 2, 3), keepdim=True)) * draw(chosen, x, 0.5)


def translate(x: Tensor, chosen: Tensor) -> Tensor:
    """Move by up to SHIFT of height and of width, in whole pixels; 0, a middle grey, moves in."""
    batch, _, height, width = x.shape
    high, wide = round(height * SHIFT), round(width * SHIFT)
    padded = F.pad(x, (wide, wide, high, high))
    top = torch.where(chosen, torch.randint(0, 2 * high + 1, (batch,), device=x.device), high)
    left = torch.where(chosen, torch.randint(0, 2 * wide + 1, (batch,), device=x.device), wide)
    rows = top[:, None, None] + torch.arange(height, device=x.device)[:, None]
    columns = left[:, None, None] + torch.arange(width, device=x.device)
    images = torch.arange(batch, device=x.device)[:, None, None]
    return padded.movedim(1, -1)[images, rows, columns].movedim(-1, 1)


def cut_out(x: Tensor, chosen: Tensor) -> Tensor:
    """Set a square with sides of CUTOUT of the image's to 0; its centre is anywhere, so that a part may lie outside."""
    inside = chosen[:, None, None]
    for axis, size in ((2, x.shape[2]), (1, x.shape[3])):
        side = round(size * CUTOUT)
        first = torch.randint(0, size + 1 - side % 2, (len(x),), device=x.device) - side // 2
        position = torch.arange(size, device=x.device) - first[:, None]
        inside = inside & ((position >= 0) & (position < side)).unsqueeze(axis)
    return x * ~inside[:, None]
