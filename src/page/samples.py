"""What the page computes of a model: samples, lines between two seeds, ways from noise, nearest training images."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from src.challenges.shared.images import as_rgb
from src.common.classes import labels_in_turn
from src.common.cli import UserError
from src.common.devices import autocast, seed_everything, synchronize
from src.common.guidance import Guidance
from src.common.noise import SeedBetween, image_seeds
from src.common.sampling import fitting_batch_size, generate, sample_batch
from src.evaluation.neighbours import nearest
from src.evaluation.trajectory import denoised_states, sampled_states, scaled_state
from src.page.sources import Loaded

MANY = 50  # network calls that no few-step method needs: what the others are compared with
Tell = Callable[[float], None]  # is told the share that is done
alone = threading.Lock()  # two visitors share a model, and with it the count of its calls and the global generators


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Args:
        seed: of the noise: sample i starts from the same at every NFE.
        count: how many samples.
        classes: the labels that samples are made for in turn, of a model with classes; None: all, and 0 stands for no class.
        scale: of guidance; 0 is none.
    """

    seed: int
    count: int
    classes: tuple[int, ...] | None = None
    scale: float = 0.0


@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples (N, *shape) of a model, float32 on the CPU, and what each of them took: seconds, and calls of the network."""

    samples: torch.Tensor
    seconds: float
    calls: float


@dataclass(frozen=True, eq=False)
class Way:
    """Samples on their way from noise: states and denoised predictions (moments, N, *shape), float32 on the CPU."""

    states: torch.Tensor
    denoised: torch.Tensor


def draw(loaded: Loaded, nfe: int, asked: Asked, tell: Tell) -> Sampled:
    """The samples that sampling.py makes of this seed, with nfe network calls each. Raises UserError for what check refuses."""
    steps, more = check(loaded, nfe, asked)
    challenge, device = loaded.challenge, loaded.model.device
    batch_size = fitting_batch_size(challenge.batch_size, device, challenge.cpu_batch_size)
    with counted(loaded, asked.count * nfe, tell) as count:
        batches = generate(
            loaded.model,
            loaded.shape,
            steps,
            asked.count,
            batch_size,
            asked.seed,
            loaded.dtype,
            classes=asked.classes,
            **more,
        )
        samples = torch.cat(list(batches))
    return count.sampled(samples)


def between(loaded: Loaded, nfe: int, asked: Asked, other_seed: int, columns: int, tell: Tell) -> Sampled:
    """Lines from the samples of a seed to those of another: (count * columns, *shape), one line after the other.

    What is interpolated is the noise, at equal angles; the class is that of the line's first sample.
    """
    steps, more = check(loaded, nfe, asked)
    if not getattr(loaded.model, "takes_seeds", False):
        raise UserError(f"{type(loaded.model).__name__} takes no seeds, so its noise cannot be chosen: it has no line to show")
    ends = zip(*(image_seeds(seed, 0, asked.count) for seed in (asked.seed, other_seed)), strict=True)
    lines, shape = [], (columns, *loaded.shape)
    with counted(loaded, asked.count * columns * nfe, tell) as count, autocast(loaded.model.device, loaded.dtype):
        for number, (first, second) in enumerate(ends):
            seeds = [SeedBetween(first, second, share) for share in np.linspace(0, 1, columns).tolist()]
            of_class = labels_in_turn(loaded.model, number, 1, asked.classes)
            told = {name: label.expand(columns) for name, label in of_class.items()}
            lines.append(sample_batch(loaded.model, shape, steps, seeds, **told, **more))
        samples = torch.cat(lines)
    return count.sampled(samples)


def way(loaded: Loaded, nfe: int, asked: Asked, tell: Tell) -> Way:
    """Every moment of sampling in nfe network calls, the noise and the samples included; denoised it takes as many calls again.

    States are scaled to be shown: of images as src.evaluation.trajectory does, of points to the size of the samples.
    """
    with counted(loaded, 2 * asked.count * nfe, tell):
        states, steps, told = _states(loaded, nfe, asked)
        with autocast(loaded.model.device, loaded.dtype):
            denoised = denoised_states(loaded.model, states, steps, range(len(states)), **told)
    return Way(_shown(loaded, states), torch.stack(denoised).float().cpu())


def paths(loaded: Loaded, nfe: int, asked: Asked, tell: Tell) -> torch.Tensor:
    """The states of way alone: (moments, N, *shape)."""
    with counted(loaded, asked.count * nfe, tell):
        states, _, _ = _states(loaded, nfe, asked)
    return _shown(loaded, states)


def _states(loaded: Loaded, nfe: int, asked: Asked) -> tuple[list[torch.Tensor], int, dict[str, Any]]:
    """The states of sampling, in how many steps, and what the sampler was told of classes and guidance."""
    steps, more = check(loaded, nfe, asked)
    told = {**labels_in_turn(loaded.model, 0, asked.count, asked.classes), **more}
    seeds = image_seeds(asked.seed, 0, asked.count)
    seed_everything(seeds[0])  # as generate does, for models that take no seeds
    with autocast(loaded.model.device, loaded.dtype):
        return sampled_states(loaded.model, (asked.count, *loaded.shape), steps, seeds, **told), steps, told


def _shown(loaded: Loaded, states: Sequence[torch.Tensor]) -> torch.Tensor:
    most = 1.0 if loaded.makes_images else states[-1].square().mean().sqrt().item()
    return torch.stack([scaled_state(state, most) for state in states]).float().cpu()


# ------------------------------------------------------------------------------------------------------- what is asked


def class_names(loaded: Loaded, asked: Asked) -> list[str]:
    """The name of each sample's class; empty for a model without classes."""
    labels = labels_in_turn(loaded.model, 0, asked.count, asked.classes).get("labels", torch.empty(0))
    return [loaded.classes[label - 1] if label else "no class" for label in labels.tolist()]


def check(loaded: Loaded, nfe: int, asked: Asked) -> tuple[int, dict[str, Guidance]]:
    """The number of steps that make nfe network calls, and the guidance as an argument of sample, where there is some.

    Raises UserError where the model has no such class, cannot be guided, or cannot make so many calls.
    """
    known = len(loaded.classes)
    if wrong := [label for label in asked.classes or () if not 0 <= label <= known]:
        there = f"classes 1 to {known}, and 0 for none" if known else "no classes"
        raise UserError(f"there is no class {wrong[0]}: the model has {there}")
    if asked.scale and not loaded.takes_guidance:
        raise UserError("this model cannot be guided: it has no classes, or its method is not linear in the denoised data")
    if asked.scale and nfe % 2:
        raise UserError(f"NFE {nfe}: a guided step makes two calls, so choose an even number, or the guidance scale 0")
    steps = nfe // 2 if asked.scale else nfe
    if hasattr(loaded.model, "time_grid"):  # of this kit's methods
        try:
            loaded.model.time_grid(steps)
        except ValueError as error:
            raise UserError(f"NFE {nfe}: {type(loaded.model).__name__} {error}") from error
    return steps, {"guidance": Guidance(asked.scale)} if asked.scale else {}


@dataclass
class Count:
    """What was counted: samples that passed the network, each as often as it did, and seconds."""

    passed: int = 0
    seconds: float = 0.0

    def sampled(self, samples: torch.Tensor) -> Sampled:
        """These samples (N, *shape), with an N-th of what was counted."""
        return Sampled(samples.float().cpu(), self.seconds / len(samples), self.passed / len(samples))


@contextlib.contextmanager
def counted(loaded: Loaded, expected: int, tell: Tell) -> Iterator[Count]:
    """Count what passes the model's network inside the block, and tell the share of `expected`. Other visitors wait for it."""
    count, device = Count(), loaded.model.device

    def note(network: torch.nn.Module, given: Any, output: torch.Tensor) -> None:
        count.passed += len(output)
        tell(min(count.passed / expected, 1.0))

    with alone:
        hook, start = loaded.model.network.register_forward_hook(note), time.perf_counter()
        try:
            yield count
            synchronize(device)
        finally:
            hook.remove()
            count.seconds = time.perf_counter() - start


# --------------------------------------------------------------------------------------------------- training images


def training_images(loaded: Loaded) -> np.ndarray:
    """The images that the model learned from, uint8 (M, C, H, W). Raises UserError where they are not found."""
    return loaded.challenge.load("train", loaded.data_root)[0]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest training images of N samples: their rows (N,), themselves as uint8 (N, 3, H, W), and how far they are (N,).

    A distance is the root mean square of the differences of pixels, which are of 255.
    """

    rows: np.ndarray
    images: np.ndarray
    distances: np.ndarray


def nearest_training(shown: np.ndarray, training: np.ndarray) -> Nearest:
    """The nearest of the training images, uint8 (M, C, H, W), to each sample as it is shown, uint8 (N, 3, H, W)."""
    queries, base = (images.reshape(len(images), -1) for images in (shown[:, : training.shape[1]], training))
    rows, distances = nearest(queries, base)
    return Nearest(rows, as_rgb(training[rows]), distances / base.shape[1] ** 0.5)
