"""The Inception Score (Salimans et al., arXiv:1606.03498)."""

import numpy as np
from scipy.special import log_softmax, logsumexp


def inception_score(features: np.ndarray, classifier: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(class | image) || p(class))), each from 1 to the classes.

    features: (N, D), of Inception; classifier: (classes, D), the last layer's weights. As in the authors' code, in which
    published scores are measured, logits are features @ classifier^T without the bias. Images are shuffled by the seed before
    they are split. A split of fewer images than there are classes scores lower: compare equal N only.

    Raises ValueError for fewer images than splits or another D.
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
