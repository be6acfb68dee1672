"""The one way in which a model is asked for images: the course's call, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from src.common.classes import labels_in_turn
from src.common.cli import UserError
from src.common.devices import autocast, seed_everything
from src.common.noise import Seed, image_seeds

CPU_BATCH_SIZE = 8  # images of the full network; larger batches spend a CPU's time on clearing fresh memory


def fitting_batch_size(batch_size: int, device: torch.device, most: int = CPU_BATCH_SIZE) -> int:
    """The number of images that is really taken at a time: on the CPU `most` of them at most."""
    return min(batch_size, most) if device.type == "cpu" else batch_size


@torch.no_grad()
def sample_batch(
    model: torch.nn.Module, shape: tuple[int, ...], nfe: int, seeds: Sequence[Seed], **sample_kwargs: Any
) -> torch.Tensor:
    """Images of this shape (B, C, H, W) in [-1, 1], with nfe network calls, from the noise of the seeds, one per image.

    The call is `model.sample(shape, num_inference_timesteps=nfe, verbose=False)` and nothing else. A model with the attribute
    `takes_seeds` gets `seeds` besides, so that an image does not depend on the batch that it is in. All others draw from the
    global generators, which are seeded by the batch's first seed: images depend on nothing that was sampled before. Labels and
    guidance are passed on.

    Raises UserError where the model gives anything but finite images of this shape.
    """
    seed_everything(int(seeds[0]))
    seed_kwargs = {"seeds": list(seeds)} if getattr(model, "takes_seeds", False) else {}
    images = model.sample(shape, num_inference_timesteps=nfe, verbose=False, **seed_kwargs, **sample_kwargs)
    if not isinstance(images, torch.Tensor):
        raise UserError(f"the model's sample() gave {type(images).__name__} at NFE {nfe}, expected a tensor {shape}")
    if tuple(images.shape) != shape:
        raise UserError(f"the model's sample() gave images {tuple(images.shape)} at NFE {nfe}, expected {shape}")
    if not torch.isfinite(images).all():
        raise UserError(f"the model's sample() gave values that are not finite at NFE {nfe}")
    return images


def generate(
    model: torch.nn.Module,
    shape: tuple[int, ...],
    nfe: int,
    num_samples: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
    first_sample: int = 0,
    classes: Sequence[int] | None = None,
    **sample_kwargs: Any,
) -> Iterator[torch.Tensor]:
    """Yield batches (B, *shape): samples first_sample .. first_sample + num_samples - 1, of nfe calls each.

    Sample i of a model that takes seeds starts from noise of (seed, i), the same for every NFE and batch size. A batch of any
    other model follows from (seed, its first sample).

    Args:
        classes: the labels that samples are made for in turn, of a model with classes: all of them by default, and 0 stands for
            no class. See labels_in_turn.
        sample_kwargs: further arguments of sample, such as guidance.

    Raises UserError if the model gives another shape or values that are not finite.
    """
    end = first_sample + num_samples
    for first in range(first_sample, end, batch_size):
        count = min(batch_size, end - first)
        with autocast(model.device, dtype):
            label_kwargs = labels_in_turn(model, first, count, classes)
            samples = sample_batch(
                model, (count, *shape), nfe, image_seeds(seed, first, count), **label_kwargs, **sample_kwargs
            )
        yield samples


def scale_warning(scale: float, base: str, at_zero: str) -> str:
    """A line about a --guidance_scale between 0 and 1, which steers towards base; empty for others.

    base, at_zero: what is steered from, and what scale 0 means, in words.
    """
    if not 0 < scale < 1:
        return ""
    text = f"{base} (near 0) and no guidance (1): only above 1 it guides; 0 is {at_zero}"
    return f"warning: --guidance_scale {scale:g} is between {text}"
