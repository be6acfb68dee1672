"""Lineage: how much of an image comes from its network calls.

A sampler is linear: what it gives the network, and the image that it ends with, are sums of noise, of earlier inputs and of the
network's answers, with coefficients that are the same for all images of a batch. The grader sees every input, every answer and
every image, so it can find these coefficients and take that part away. What is left of an honest image is nothing, or noise of
the sampler's own. A picture that was stored, drawn by code or taken from another row of the batch stays as it is.

Allowed beside the sum: clamping to [-1, 1], of the image or of the denoised image inside a step; coefficients of each channel
and image (a data set's mean and deviation, dynamic thresholding); filtering by a few neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

EXPLAINED = 0.999  # of an image's energy: from here on no further explanation is looked for
SATURATED = 0.999  # pixels beyond it may have been clamped
SAMPLE = 1 << 14  # values of a channel that coefficients are found from; the share is that of all values
TOLERANCE = 1e-12  # of a column's energy, below which it is a sum of the others
SCALES, ANGLES, REFINEMENTS = 20, 24, 80  # the grid on which a clamped denoised image is looked for, and the steps from there
LOW = 0.25  # of the highest frequency: below it lies almost all energy of a picture
PIXELS = 64 * 64  # of the images that the next two bounds are for; of smaller ones noise varies more, by the root of the ratio
FLATNESS = 0.25  # how far from 1 the mean power below LOW over that above it may be; of noise it deviates by 0.06
CORRELATION = 0.1  # between two channels; of noise it deviates by 0.016
KURTOSIS = (-1.7, 1.0)  # excess; uniform noise has -1.2, normal noise 0 with a deviation of (24 / pixels)^(1/2)


@dataclass(frozen=True)
class Call:
    """One network call on a whole batch: its input and the answer, both (B, C, H, W)."""

    x: torch.Tensor
    answer: torch.Tensor


def shares(calls: Sequence[Call], images: torch.Tensor) -> torch.Tensor:
    """The share (B,) of each image (B, C, H, W) in [-1, 1] that comes from the network and from noise, in 0..1.

    It is the least of the shares of the image itself and of what was given to the network in each call, since a picture that is
    handed to the network at a low noise level comes back as it is.
    """
    known: list[torch.Tensor] = []
    found = [torch.ones(len(images))]
    for call in calls:
        found.append(explained(call.x.double(), known, bounded=False))
        known += [call.x.double(), call.answer.double()]
    found.append(explained(images.double(), known, bounded=True))
    return torch.stack(found).amin(dim=0)


def explained(target: torch.Tensor, known: Sequence[torch.Tensor], bounded: bool) -> torch.Tensor:
    """The share (B,) of target (B, C, H, W) that is a sum of the known tensors of that shape, or noise.

    known: input, answer, input, answer ... of the calls before it. bounded: whether target may have been clamped to [-1, 1].
    """
    share = _share(target, _sum(target, known), bounded)
    if not known:
        return share
    attempts = [
        lambda: _sum(target, known, inside=bounded),
        lambda: _sum_of_each(target, known, inside=bounded),
        lambda: _sum(target, [*known, *_smoothed(known)], inside=bounded),
        lambda: _sum(target, [*known, _clamped(target, known)]),
    ]
    for attempt in attempts:
        if (share >= EXPLAINED).all():
            break
        share = torch.maximum(share, _share(target, attempt(), bounded))
    return share


def is_noise(values: torch.Tensor) -> torch.Tensor:
    """Whether each of the values (B, C, H, W) looks like independent draws: flat in frequency, without correlation of channels,
    and of no heavy tails. (B,), bool. A constant of each channel counts as nothing."""
    values = values - values.mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(values).abs().square().sum(dim=1)
    low = _low(values)
    low_without_mean = low.clone()
    low_without_mean[0, 0] = False
    flatness = power[:, low_without_mean].mean(dim=1) / power[:, ~low].mean(dim=1).clamp(min=1e-300)
    flat = values.flatten(2)
    spread = flat.square().mean(dim=2).clamp(min=1e-300)
    kurtosis = (flat**4).mean(dim=2) / spread**2 - 3
    unit = flat / (spread.sqrt()[:, :, None] * flat.shape[2] ** 0.5)
    correlation = (unit @ unit.transpose(1, 2) - torch.eye(flat.shape[1], dtype=values.dtype)).abs().amax(dim=(1, 2))
    pixels = flat.shape[2]
    wider = max(1.0, (PIXELS / pixels) ** 0.5)
    sound = ((flatness - 1).abs() < FLATNESS * wider) & (correlation < CORRELATION * wider)
    highest = max(KURTOSIS[1], 5 * (24 / pixels) ** 0.5)
    return sound & (kurtosis > KURTOSIS[0]).all(dim=1) & (kurtosis < highest).all(dim=1)


# ------------------------------------------------------------------------------------------------------------ parts


def _share(target: torch.Tensor, fitted: torch.Tensor, bounded: bool) -> torch.Tensor:
    """The share (B,) of target's energy that fitted leaves nothing of; all of it where what is left is noise.

    It is the lesser of two: of all frequencies, and of the low ones, where noise cannot cover a picture.
    """
    noise = is_noise(target - fitted)
    if bounded:
        target, fitted = target.clamp(-1, 1), fitted.clamp(-1, 1)
    left, energy = (torch.fft.fft2(values).abs().square().sum(dim=1) for values in (target - fitted, target))
    energy[:, 0, 0] = 0  # a constant of each channel counts as nothing
    low = _low(target)
    shares = []
    for band in (torch.ones_like(low), low):
        rest, whole = left[:, band].sum(dim=1), energy[:, band].sum(dim=1)
        shares.append(1 - rest / torch.maximum(rest, whole).clamp(min=1e-300))
    return torch.where(noise, torch.ones_like(shares[0]), torch.minimum(*shares))


def _low(values: torch.Tensor) -> torch.Tensor:
    """Which of the frequencies of values (..., H, W) are below LOW: (H, W), bool."""
    height, width = (torch.fft.fftfreq(size, dtype=values.dtype) * 2 for size in values.shape[-2:])
    return (height[:, None].square() + width.square()).sqrt() < LOW


def _sum(target: torch.Tensor, known: Sequence[torch.Tensor], inside: bool = False) -> torch.Tensor:
    """The sum of the known tensors and a constant that is nearest to target, one sum per channel for the whole batch.

    inside: by the pixels of target that are not clamped.
    """
    channels = target.shape[1]
    wanted = target.transpose(0, 1).reshape(channels, -1)
    columns = [tensor.transpose(0, 1).reshape(channels, -1) for tensor in known]
    columns = torch.stack([torch.ones_like(wanted), *columns], dim=2)  # (C, B H W, columns)
    fitted = torch.stack([_fit(columns[c], wanted[c], inside) for c in range(channels)])
    batch = target.shape[0]
    return fitted.reshape(channels, batch, *target.shape[2:]).transpose(0, 1)


def _sum_of_each(target: torch.Tensor, known: Sequence[torch.Tensor], inside: bool = False) -> torch.Tensor:
    """The same with a sum of its own for each channel of each image."""
    fitted = [_sum(one, [tensor[i : i + 1] for tensor in known], inside) for i, one in enumerate(target.split(1))]
    return torch.cat(fitted)


def _fit(columns: torch.Tensor, wanted: torch.Tensor, inside: bool) -> torch.Tensor:
    """The sum of columns (N, K) that is nearest to wanted (N,), found from SAMPLE of the values."""
    usable = wanted.abs() < SATURATED if inside else torch.ones_like(wanted, dtype=torch.bool)
    if usable.sum() < 8 * columns.shape[1]:
        usable = torch.ones_like(usable)
    chosen = usable.nonzero()[:, 0]
    chosen = chosen[:: max(1, len(chosen) // SAMPLE)]
    return columns @ _solve(columns[chosen], wanted[chosen])


def _solve(columns: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Coefficients (K,) of the least squares, columns that are sums of others left out of them."""
    scale = columns.square().mean(dim=0).sqrt().clamp(min=1e-300)
    unit = columns / scale
    values, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    inverse = torch.where(values > TOLERANCE * values[-1], 1 / values.clamp(min=1e-300), 0.0)
    return vectors @ (inverse * (vectors.T @ (unit.T @ wanted / len(unit)))) / scale


def _smoothed(known: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Means over 3x3 and 5x5 pixels of the known tensors: sums of them stand for a sampler that filters its images."""
    return [F.avg_pool2d(tensor, size, 1, size // 2, count_include_pad=False) for size in (3, 5) for tensor in known]


def _clamped(target: torch.Tensor, known: Sequence[torch.Tensor]) -> torch.Tensor:
    """The clamped sum of the last call's input and answer that explains the most of target beside the known tensors.

    This is the denoised image of a sampler that clips it: clamp(a x + b answer) for some a and b, found on a grid and then
    refined.
    """
    x, answer = known[-2], known[-1]
    step = max(1, 4 * target.numel() // SAMPLE)
    wanted = target.reshape(-1)[::step]
    columns = torch.stack([torch.ones_like(wanted), *(tensor.reshape(-1)[::step] for tensor in known)], dim=1)
    first, second = columns[:, -2] / x.std(), columns[:, -1] / answer.std().clamp(min=1e-300)

    def left(angle: float, scale: float) -> float:
        inner = (scale * (torch.tensor(angle).cos() * first + torch.tensor(angle).sin() * second)).clamp(-1, 1)
        both = torch.cat([columns, inner[:, None]], dim=1)
        return (wanted - both @ _solve(both, wanted)).square().mean().item()

    angles = [torch.pi * i / ANGLES for i in range(ANGLES)]
    scales = [0.2 * (1000 ** (i / SCALES)) for i in range(SCALES + 1)]
    angle, scale = min(((angle, scale) for angle in angles for scale in scales), key=lambda pair: left(*pair))
    turn, factor, best = torch.pi / ANGLES, 1000 ** (1 / SCALES), left(angle, scale)
    for _ in range(REFINEMENTS):
        moves = [(angle + turn, scale), (angle - turn, scale), (angle, scale * factor), (angle, scale / factor)]
        found = min(moves, key=lambda pair: left(*pair))
        if left(*found) < best:
            (angle, scale), best = found, left(*found)
        else:
            turn, factor = turn / 2, factor**0.5
    cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    return (scale * (cos * x / x.std() + sin * answer / answer.std().clamp(min=1e-300))).clamp(-1, 1)
