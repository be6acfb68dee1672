"""The one way in which a model is asked for images: the course's call."""

from collections.abc import Sequence

import torch

from src.common.cli import UserError
from src.common.devices import seed_everything


@torch.no_grad()
def sample_batch(model: torch.nn.Module, shape: tuple[int, ...], nfe: int, seeds: Sequence[int]) -> torch.Tensor:
    """Images of this shape (B, C, H, W) in [-1, 1], with nfe network calls, from the noise of the seeds, one per image.

    The call is `model.sample(shape, num_inference_timesteps=nfe, verbose=False)` and nothing else. A model with the attribute
    `takes_seeds` gets `seeds` besides, so that an image does not depend on the batch that it is in. All others draw from the
    global generators, which are seeded by the batch's first seed: images depend on nothing that was sampled before.

    Raises UserError where the model gives anything but finite images of this shape.
    """
    seed_everything(seeds[0])
    more = {"seeds": list(seeds)} if getattr(model, "takes_seeds", False) else {}
    images = model.sample(shape, num_inference_timesteps=nfe, verbose=False, **more)
    if not isinstance(images, torch.Tensor):
        raise UserError(f"the model's sample() gave {type(images).__name__} at NFE {nfe}, expected a tensor {shape}")
    if tuple(images.shape) != shape:
        raise UserError(f"the model's sample() gave images {tuple(images.shape)} at NFE {nfe}, expected {shape}")
    if not torch.isfinite(images).all():
        raise UserError(f"the model's sample() gave values that are not finite at NFE {nfe}")
    return images
