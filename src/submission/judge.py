"""What a run's images score, and whether the scores of several runs agree. Nothing of a submission is imported here."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.challenges import Challenge
from src.evaluation.features import cached_features, extract_features
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from src.evaluation.kid import kid
from src.submission.failures import Failed

PUBLIC_SHARE = 0.8  # of the best secret seed's FID; a public seed below it is tuned


@dataclass(frozen=True, eq=False)
class Judge:
    """The reference images, uint8 (M, 3, H, W), their features, and the network that makes features."""

    reference: np.ndarray
    features: np.ndarray
    inception: Inception
    batch_size: int

    def score(self, images: np.ndarray) -> dict[str, float]:
        """The scores of a run's images, uint8 (N, 3, H, W): FID in clean-fid's mode, and KID on the same features."""
        features = extract_features(images, self.inception, "clean", self.batch_size)
        return {"fid": frechet_distance(features, self.features), "kid": kid(features, self.features)}


@lru_cache(maxsize=1)
def load_judge(
    challenge: Challenge, reference_dir: str, inception_file: str | None, device: torch.device, batch_size: int
) -> Judge:
    """Read the reference once per process. Raises UserError where images or weights are absent."""
    reference = challenge.read(Path(reference_dir))
    inception = challenge.load_feature_network(device, inception_file)
    return Judge(reference, cached_features(reference, inception, "clean", batch_size), inception, batch_size)


def seed_statistics(scores: list[dict[str, float]]) -> dict[str, Any]:
    """FID and KID of the secret seeds: their means, their standard deviations (of N - 1; None for one seed), and each FID."""
    values = {name: [score[name] for score in scores] for name in ("fid", "kid")}
    spread = {name: float(np.std(each, ddof=1)) if len(each) > 1 else None for name, each in values.items()}
    return {
        "fid": float(np.mean(values["fid"])),
        "fid_spread": spread["fid"],
        "fid_seeds": values["fid"],
        "kid": float(np.mean(values["kid"])),
        "kid_spread": spread["kid"],
    }


def check_public(nfe: int, secret: list[dict[str, float]], public: list[dict[str, float]]) -> None:
    """Raise Failed where the public seed's FID is far below that of every secret seed."""
    best = min(score["fid"] for score in secret)
    for score in public:
        if score["fid"] < PUBLIC_SHARE * best:
            raise Failed(
                "seed_tuned", f"NFE {nfe}: FID {score['fid']:.1f} for the public seed, at best {best:.1f} for secret ones"
            )
