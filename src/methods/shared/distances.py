"""How far two batches of samples are apart, one number per sample."""

import importlib

import torch
from torch import nn

DISTANCES = ("huber", "l2", "lpips")
LPIPS_SIZE = 64  # least height and width that its features are made for here
HUBER_C = 0.00054  # iCT's constant (arXiv:2310.14189, sec. 3.3) for a mean over values, in place of a sum


def distance(name: str, ours: torch.Tensor, theirs: torch.Tensor, perceptual: nn.Module | None = None) -> torch.Tensor:
    """The distance (B,) of ours and theirs, both (B, ...).

    "l2" is the mean squared difference of an image's values; "huber", the pseudo-Huber distance, is about the root of that;
    "lpips" is what `perceptual`, from load_lpips, says of images (B, 3, H, W) in [-1, 1].

    Raises ValueError where images are too small for LPIPS.
    """
    if name == "lpips":
        if ours.ndim != 4 or min(ours.shape[-2:]) < LPIPS_SIZE:
            raise ValueError(
                f"distance lpips needs images of {LPIPS_SIZE}x{LPIPS_SIZE} or more, got {tuple(ours.shape[1:])}: take huber or "
                "l2"
            )
        return perceptual(ours.float(), theirs.float()).flatten()
    squares = (ours - theirs).square().flatten(1).mean(dim=1)
    return squares if name == "l2" else pseudo_huber(squares, HUBER_C)


def pseudo_huber(squares: torch.Tensor, c: float) -> torch.Tensor:
    """sqrt(squares + c^2) - c of squared errors: their square where they are far below c, their size far above it.

    c is at least 1e-6, since the root has no slope at 0.
    """
    c = max(c, 1e-6)
    return (squares + c**2).sqrt() - c


def load_lpips(device: torch.device) -> nn.Module:
    """LPIPS on VGG features (Zhang et al., arXiv:1801.03924), frozen.

    Raises ValueError where its package is absent, or the weights of VGG can be neither found nor downloaded.
    """
    try:
        package = importlib.import_module("lpips")
    except ModuleNotFoundError as error:
        raise ValueError("distance lpips needs the package lpips: pip install lpips") from error
    try:
        perceptual = package.LPIPS(net="vgg", verbose=False)
    except OSError as error:  # of urllib's own kind where there is no network
        raise ValueError(f"distance lpips needs VGG's weights, which torchvision could not download: {error}") from error
    return perceptual.eval().requires_grad_(False).to(device)
