"""The score of a model while it trains, against samples that were set aside for that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from src.common.classes import labels_in_turn
from src.common.noise import image_seeds
from src.common.processes import Processes


@dataclass
class DevelopmentScore:
    """Call it with a model: the score of as many samples as there are development samples, for each NFE."""

    images: np.ndarray  # the development split, (N, *shape), N at least 2
    nfe_list: Sequence[int]
    to_array: Callable[[torch.Tensor], np.ndarray]  # samples (B, *shape) of a model -> as they are stored, like images
    measure: Callable[[np.ndarray, np.ndarray], float]  # (samples, images) -> their score, such as FID; less is better
    name: str = "fid"  # of the score in the log, before _nfeK
    batch_size: int = 32
    seed: int = 0  # fixes every sample's noise, so that models are compared on the same
    processes: Processes | None = None  # make the samples together; each of them measures all

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        """{"fid_nfe1": ...} of the model as it is, by its sample(shape, num_inference_timesteps, seeds)."""
        processes = self.processes or Processes()
        mine, scores = processes.share(len(self.images)), {}
        for nfe in self.nfe_list:
            parts = [self.to_array(torch.zeros(0, *self.images.shape[1:]))]  # a process may have no samples to make
            for first in range(mine.start, mine.stop, self.batch_size):
                count = min(self.batch_size, mine.stop - first)
                sample_kwargs = {"seeds": image_seeds(self.seed, first, count), **labels_in_turn(model, first, count)}
                samples = model.sample((count, *self.images.shape[1:]), num_inference_timesteps=nfe, **sample_kwargs)
                parts.append(self.to_array(samples))
            samples = np.concatenate(processes.gather(np.concatenate(parts)))
            scores[f"{self.name}_nfe{nfe}"] = self.measure(samples, self.images)
        return scores
