"""What a run's images score, whether they are copies, and whether the scores of several runs agree."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from src.challenges import Challenge
from src.evaluation.features import cached_features, extract_features
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from src.evaluation.kid import kid
from src.submission import bounds
from src.submission.failures import Failed


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference images, uint8 (M, 3, H, W), their features, and the feature network."""

    images: np.ndarray
    features: np.ndarray
    feature_network: Inception
    batch_size: int

    def score(self, images: np.ndarray) -> dict[str, float]:
        """The scores of a run's images, uint8 (N, 3, H, W): FID in clean-fid's mode, and KID on the same features."""
        features = extract_features(images, self.feature_network, "clean", self.batch_size)
        return {"fid": frechet_distance(features, self.features), "kid": kid(features, self.features)}


@lru_cache(maxsize=1)
def load_reference(
    challenge: Challenge, folder: str, inception_file: str | None, device: torch.device, batch_size: int
) -> Reference:
    """Read the reference once per process. Raises UserError where images or weights are absent."""
    images, network = challenge.read(Path(folder)), challenge.load_feature_network(device, inception_file)
    return Reference(images, cached_features(images, network, "clean", batch_size), network, batch_size)


def seed_statistics(scores: list[dict[str, float]]) -> dict[str, Any]:
    """FID and KID of the secret seeds: their means, their standard deviations (of N - 1; None for one seed), and each FID."""
    found: dict[str, Any] = {}
    for name in ("fid", "kid"):
        values = [score[name] for score in scores]
        found |= {name: float(np.mean(values)), f"{name}_spread": float(np.std(values, ddof=1)) if len(values) > 1 else None}
    return {**found, "fid_seeds": [score["fid"] for score in scores]}


def check_public(nfe: int, secret: list[dict[str, float]], public: list[dict[str, float]]) -> None:
    """Raise Failed where the public seed's FID is far below that of every secret seed."""
    best = min(score["fid"] for score in secret)
    for fid in (score["fid"] for score in public):
        if fid < bounds.PUBLIC_SHARE * best:
            raise Failed("seed_tuned", f"NFE {nfe}: FID {fid:.1f} for the public seed, at best {best:.1f} for secret ones")


def check_distinct(images: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are equal to an earlier one; Failed above DUPLICATE_SHARE."""
    equal = len(images) - len({image.tobytes() for image in images})
    if equal / len(images) > bounds.DUPLICATE_SHARE:
        raise Failed("stored_images", f"{equal} of {len(images)} images are equal to another")
    return equal / len(images)


def check_not_reference(images: np.ndarray, reference: np.ndarray) -> float:
    """The share of images (N, 3, H, W) that are a reference image (M, 3, H, W); Failed above NEAR_SHARE.

    One that is mirrored, moved by up to MOVED_PIXELS, brighter or tinted, or has a little noise is the same image. Compared are
    the nearest by their small copies.
    """
    targets = np.concatenate([reference, reference[..., ::-1]])
    small = _small(targets)
    squares, near = (small**2).sum(axis=1), 0
    for image, copy in zip(images, _small(images), strict=True):
        nearest = np.argsort(squares - 2 * (small @ copy))[: bounds.NEAREST]
        alike = [index for index in nearest if np.abs(small[index] - copy).mean() < bounds.ALIKE_LEVELS]
        near += any(_distance(image, targets[index]) < bounds.SAME_LEVELS for index in alike)
    if near / len(images) > bounds.NEAR_SHARE:
        raise Failed("stored_images", f"{near} of {len(images)} images are validation images")
    return near / len(images)


def _small(images: np.ndarray) -> np.ndarray:
    """Images (N, 3, H, W) reduced to 8x8 without their mean colours: (N, 192), float32."""
    reduced = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)).float(), 8)
    return (reduced - reduced.mean(dim=(2, 3), keepdim=True)).flatten(1).numpy()


def _distance(image: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of two images (3, H, W) where they overlap, without their mean colours, at the best offset."""
    height, width = image.shape[1:]
    offsets, found = range(-bounds.MOVED_PIXELS, bounds.MOVED_PIXELS + 1), []
    for down in offsets:
        for right in offsets:
            rows, columns = height - abs(down), width - abs(right)
            a = image[:, max(down, 0) :, max(right, 0) :][:, :rows, :columns].astype(np.float32)
            b = other[:, max(-down, 0) :, max(-right, 0) :][:, :rows, :columns].astype(np.float32)
            difference = a - b
            found.append(np.abs(difference - difference.mean(axis=(1, 2), keepdims=True)).mean())
    return float(min(found))
