"""FID of a model while it trains, against images that were set aside for that."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from src.common.images import image_seeds, to_uint8
from src.evaluation.features import cached_features, extract_features
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception


class DevelopmentFID:
    """Call it with a model: FID (clean) of as many samples as there are development images, for each NFE.

    Args:
        images: the development split, uint8 (N, 3, H, W), N at least 2.
        inception: the feature network, on the model's device.
        batch_size: samples at a time.
        seed: fixes every sample's noise, so that models are compared on the same.
        share: the samples that this process makes, of N.
        gather: an array of this process -> the arrays of all, in order.
    """

    def __init__(
        self,
        images: np.ndarray,
        inception: Inception,
        nfe_list: Sequence[int] = (1, 2, 4),
        batch_size: int = 32,
        seed: int = 0,
        share: slice | None = None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ):
        self.images, self.inception, self.nfe_list = images, inception, list(nfe_list)
        self.batch_size, self.seed, self.gather = batch_size, seed, gather
        self.share = share or slice(0, len(images))
        self.reference = None

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        """{"fid_nfe1": ...} of the model as it is, by its sample(shape, num_inference_timesteps, seeds)."""
        if self.reference is None:
            self.reference = cached_features(self.images, self.inception)
        scores = {}
        for nfe in self.nfe_list:
            features = [np.zeros((0, self.reference.shape[1]), dtype=np.float32)]
            for first in range(self.share.start, self.share.stop, self.batch_size):
                count = min(self.batch_size, self.share.stop - first)
                shape = (count, *self.images.shape[1:])
                samples = model.sample(shape, num_inference_timesteps=nfe, seeds=image_seeds(self.seed, first, count))
                features.append(extract_features(to_uint8(samples).cpu().numpy(), self.inception))
            features = np.concatenate(self.gather(np.concatenate(features)))
            scores[f"fid_nfe{nfe}"] = frechet_distance(features, self.reference)
        return scores
