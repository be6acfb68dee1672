"""All numbers of one set of generated images against a reference, from features that are at hand."""

from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from src.evaluation.confidence import with_interval
from src.evaluation.fid import fid_infinity, frechet_distance, subset_distances
from src.evaluation.kid import sampled_kids, subset_kids
from src.evaluation.prdc import DENSITY_NEIGHBOURS, NEIGHBOURS, subset_prdc

MIN_IMAGES = 2 * (DENSITY_NEIGHBOURS + 1)  # half of them still have their five neighbours
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000


def frechet(generated: np.ndarray, reference: np.ndarray, halves: np.ndarray) -> dict[str, Any]:
    """The Fréchet distance of features (N, D) and (M, D) with its uncertainty. halves: rows (S, N // 2) of generated."""
    values = np.concatenate([[frechet_distance(generated, reference)], subset_distances(generated, reference, list(halves))])
    return with_interval(values, len(generated))


def feature_metrics(
    generated: np.ndarray, reference: np.ndarray, halves: np.ndarray, classifier: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """Every metric of Inception features (N, 2048) against (M, 2048); N and M at least 12. Deterministic.

    halves: rows (S, N // 2) of generated that the uncertainties are taken from, S = 0 for none. classifier: Inception's last
    layer (classes, 2048); without it the Inception Score is left out.
    """
    count = len(generated)
    subsets = [np.arange(count), *halves]
    sampled = sampled_kids(generated, reference, KID_SUBSETS, KID_SUBSET_SIZE, seed)
    size = min(count, len(reference), KID_SUBSET_SIZE)
    result = {
        "fid": frechet(generated, reference, halves),
        "fid_infinity": {"value": fid_infinity(generated, reference, seed=seed)},
        "kid": with_interval(subset_kids(generated, reference, subsets), count),
        "kid_subsets": {
            "mean": float(sampled.mean()),
            "deviation": float(sampled.std()),
            "subsets": len(sampled),
            "size": size,
        },
    }
    for name, values in subset_prdc(generated, reference, subsets).items():
        bounds = (0, np.inf if name == "density" else 1)
        k = DENSITY_NEIGHBOURS if name in ("density", "coverage") else NEIGHBOURS
        result[name] = {**with_interval(values, count, bounds), "k": k}
    if classifier is not None:
        mean, deviation = inception_score(generated, classifier, seed=seed)
        result["inception_score"] = {"value": mean, "deviation": deviation, "splits": 10}
    return result


def inception_score(features: np.ndarray, classifier: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(class | image) || p(class))), each from 1 to the classes.

    The Inception Score (Salimans et al., arXiv:1606.03498) of features (N, D) and the last layer's weights (classes, D),
    without its bias, as in the authors' code. Images are shuffled by the seed before they are split. A split of fewer images
    than there are classes scores lower: compare equal N only. Raises ValueError for fewer images than splits or another D.
    """
    if features.ndim != 2 or classifier.ndim != 2 or features.shape[1] != classifier.shape[1]:
        raise ValueError(f"expected features (N, D) and weights (classes, D), got {features.shape} and {classifier.shape}")
    if len(features) < splits:
        raise ValueError(f"{splits} splits need at least as many images, got {len(features)}")
    order = np.random.default_rng(seed).permutation(len(features))
    log_p = log_softmax(features.astype(np.float64) @ classifier.T.astype(np.float64), axis=1)
    scores = []
    for part in np.array_split(log_p[order], splits):
        log_mean = logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp((np.exp(part) * (part - log_mean)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
