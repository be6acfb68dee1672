"""What is told of a submission without running it, and of its images: whether both are what the rules ask for."""

import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from src.common.flops import flops_counted
from src.common.networks import takes_condition
from src.submission.broker import Cost, Shift
from src.submission.failures import Failed

SAME = 3.0  # two images whose pixels differ by less than this on average (of 255) are one
MOVED = 2  # pixels, by which a copy may be moved
CANDIDATES, ALIKE = 4, 25.0  # small copies that are looked at, and how far from one they may be
DUPLICATE_SHARE = 0.05
NEAR_SHARE = 0.1
SHIFT = 0.15  # of the deviation of the network's answers
LEAST_SHARE = 0.95  # of an image, that comes from the network: honest samplers have 0.997 and more, 20 % of a picture 0.9
LEAST_CHANGE = 1.0  # of 255, by which an image changes at least when the network's answers are shifted
ALLOWED_STRANGE, ALLOWED_STILL = 0.02, 0.1  # of the images, that may have less of the one or the other


def measure_cost(network: nn.Module, image_shape: tuple[int, int, int]) -> Cost:
    """What one call of the network takes for one image, measured on the CPU on one thread."""
    device = next(network.parameters()).device
    network = network.to("cpu")
    x, t = torch.zeros(1, *image_shape), torch.zeros(1)
    condition = torch.zeros(1) if takes_condition(network) else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with flops_counted() as counter:  # its time is not taken: the first call is slower
                network(x, t, condition)
            start = time.process_time()
            network(x, t, condition)
            seconds = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
        network.to(device)
    return Cost(counter.get_total_flops(), seconds)


# ----------------------------------------------------------------------------------------------------------- the images


def smooth_fields(count: int, seed: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """One random field for each of count images, smooth in space, of deviation 1: (count, 3, H, W)."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fields = F.interpolate(coarse, image_shape[1:], mode="bilinear")
    return fields / fields.std(dim=(1, 2, 3), keepdim=True)


def shift_by(fields: torch.Tensor) -> Shift:
    """What shifts each image's answers by its field (B, 3, H, W), SHIFT of the answers' deviation in size.

    An image made of such answers has another shading, and is otherwise as good as before.
    """

    def shift(answer: torch.Tensor) -> torch.Tensor:
        return answer + (SHIFT * answer.float().std() * fields[: len(answer)]).to(answer.dtype)

    return shift


class Doubt(NamedTuple):
    """What is strange of some images: unless they score like noise they are not taken for the network's. code: for remarks."""

    code: str
    text: str


def doubt_lineage(shares: np.ndarray) -> list[Doubt]:
    """A doubt where too many images have a share (N,) that does not come from the network; else none."""
    few = int((shares < LEAST_SHARE).sum())
    if few <= ALLOWED_STRANGE * len(shares):
        return []
    text = (
        f"{few} of {len(shares)} images are not made of noise and the network's answers (on average {shares.mean():.1%} are); "
        "sample() may add, scale and clamp them, and nothing else"
    )
    return [Doubt("other_content", text)]


def doubt_change(images: np.ndarray, shifted: np.ndarray) -> list[Doubt]:
    """A doubt where images (N, 3, H, W) hardly change when the network's answers are shifted; else none."""
    changes = np.abs(images.astype(np.int16) - shifted).reshape(len(images), -1).mean(axis=1)
    same = int((changes < LEAST_CHANGE).sum())
    if same <= ALLOWED_STILL * len(images):
        return []
    text = (
        f"{same} of {len(images)} images hardly depend on the network (other answers change a pixel by {changes.mean():.2f} of "
        "255): it answers almost nothing, or the last step of sample() multiplies the answer by almost nothing"
    )
    return [Doubt("weak_network", text)]


def check_distinct(images: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are equal to an earlier one; Failed above DUPLICATE_SHARE."""
    distinct = len({image.tobytes() for image in images})
    share = 1 - distinct / len(images)
    if share > DUPLICATE_SHARE:
        raise Failed("stored_images", f"{len(images) - distinct} of {len(images)} images are equal to another")
    return share


def check_not_reference(images: np.ndarray, reference: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are a reference image (M, 3, H, W); Failed above NEAR_SHARE.

    One that is mirrored, moved by up to MOVED pixels, brighter or tinted, or has a little noise is the same image. Compared is
    the nearest by their small copies.
    """
    targets = np.concatenate([reference, reference[..., ::-1]])
    small, wanted = _small(images), _small(targets)
    squares = (wanted**2).sum(axis=1)
    near = 0
    for image, copy in zip(images, small, strict=True):
        nearest = np.argsort(squares - 2 * (wanted @ copy))[:CANDIDATES]
        alike = [index for index in nearest if np.abs(wanted[index] - copy).mean() < ALIKE]
        near += any(_distance(image, targets[index]) < SAME for index in alike)
    share = near / len(images)
    if share > NEAR_SHARE:
        raise Failed("stored_images", f"{near} of {len(images)} images are validation images")
    return share


def _small(images: np.ndarray) -> np.ndarray:
    """Images (N, 3, H, W) reduced to 8x8 without their mean colours: (N, 192), float32."""
    reduced = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)).float(), 8)
    return (reduced - reduced.mean(dim=(2, 3), keepdim=True)).flatten(1).numpy()


def _distance(image: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two images (3, H, W) where they overlap, without their mean colours, at the best offset."""
    height, width = image.shape[1:]
    found = []
    for down in range(-MOVED, MOVED + 1):
        for right in range(-MOVED, MOVED + 1):
            rows, columns = height - abs(down), width - abs(right)
            a = image[:, max(down, 0) :, max(right, 0) :][:, :rows, :columns].astype(np.float32)
            b = other[:, max(-down, 0) :, max(-right, 0) :][:, :rows, :columns].astype(np.float32)
            difference = a - b
            found.append(np.abs(difference - difference.mean(axis=(1, 2), keepdims=True)).mean())
    return float(min(found))
