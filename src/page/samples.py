"""What the page computes of a model: samples, lines between two seeds, ways from noise, nearest training images."""

import time
from collections.abc import Callable
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
from src.page.sources import Loaded, alone

MANY = 50  # network calls that no few-step method needs: what the others are compared with
Tell = Callable[[float], None]  # takes the share that is done


@dataclass(frozen=True)
class Request:
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

    @classmethod
    def of(cls, batches: list[torch.Tensor], seconds: float, passed: int) -> "Sampled":
        """These samples, with an N-th of the seconds, and of the samples that passed the network."""
        samples = torch.cat(batches).float().cpu()
        return cls(samples, seconds / len(samples), passed / len(samples))


def draw(loaded: Loaded, nfe: int, request: Request, tell: Tell) -> Sampled:
    """The samples that sampling.py makes of this seed, with nfe network calls each. Raises UserError for what check refuses."""
    steps, guidance = check(loaded, nfe, request)
    challenge, model = loaded.challenge, loaded.model
    batch_size = fitting_batch_size(challenge.batch_size, model.device, challenge.cpu_batch_size)
    sizes = (loaded.shape, steps, request.count, batch_size, request.seed, loaded.dtype)
    work = lambda: list(generate(model, *sizes, classes=request.classes, **guidance))  # noqa: E731
    return Sampled.of(*counted(loaded, request.count * nfe, tell, work))


def between(loaded: Loaded, nfe: int, request: Request, other_seed: int, columns: int, tell: Tell) -> Sampled:
    """Lines from the samples of a seed to those of another: (count * columns, *shape), one line after the other.

    What is interpolated is the noise, at equal angles; the class is that of the line's first sample.
    """
    steps, guidance = check(loaded, nfe, request)
    if not getattr(loaded.model, "takes_seeds", False):
        raise UserError(f"{type(loaded.model).__name__} takes no seeds, so its noise cannot be chosen: it has no line to show")

    def line(number: int) -> torch.Tensor:
        (first,), (second,) = (image_seeds(seed, number, 1) for seed in (request.seed, other_seed))
        seeds = [SeedBetween(first, second, share) for share in np.linspace(0, 1, columns).tolist()]
        labels = labels_in_turn(loaded.model, number, 1, request.classes)
        label_kwargs = {name: label.expand(columns) for name, label in labels.items()}
        return sample_batch(loaded.model, (columns, *loaded.shape), steps, seeds, **label_kwargs, **guidance)

    work = lambda: list(map(line, range(request.count)))  # noqa: E731
    return Sampled.of(*counted(loaded, request.count * columns * nfe, tell, work))


def way(loaded: Loaded, nfe: int, request: Request, tell: Tell, denoised: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Every moment of sampling in nfe network calls, the noise and the samples included: states and denoised predictions.

    Both are (moments, N, *shape), float32 on the CPU; to denoise takes as many calls again. States are scaled to be shown: of
    images as src.evaluation.trajectory does, of points to the size of the samples.
    """
    steps, guidance = check(loaded, nfe, request)
    sampler_kwargs = {**labels_in_turn(loaded.model, 0, request.count, request.classes), **guidance}
    seeds, shape = image_seeds(request.seed, 0, request.count), (request.count, *loaded.shape)

    def work() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        seed_everything(seeds[0])  # as generate does, for models that take no seeds
        states = sampled_states(loaded.model, shape, steps, seeds, **sampler_kwargs)
        if not denoised:
            return states, []
        return states, denoised_states(loaded.model, states, steps, range(len(states)), **sampler_kwargs)

    (states, predictions), _, _ = counted(loaded, (1 + denoised) * request.count * nfe, tell, work)
    most = 1.0 if loaded.makes_images else states[-1].square().mean().sqrt().item()
    shown = [scaled_state(state, most) for state in states]
    return tuple(torch.stack(images).float().cpu() if images else torch.empty(0) for images in (shown, predictions))


def paths(loaded: Loaded, nfe: int, request: Request, tell: Tell) -> torch.Tensor:
    """The states of way alone: (moments, N, *shape)."""
    return way(loaded, nfe, request, tell, denoised=False)[0]


def class_names(loaded: Loaded, request: Request) -> list[str]:
    """The name of each sample's class; empty for a model without classes."""
    labels = labels_in_turn(loaded.model, 0, request.count, request.classes).get("labels", torch.empty(0))
    return [loaded.classes[label - 1] if label else "no class" for label in labels.tolist()]


def check(loaded: Loaded, nfe: int, request: Request) -> tuple[int, dict[str, Guidance]]:
    """The number of steps that make nfe network calls, and the guidance as an argument of sample, where there is some.

    Raises UserError where the model cannot make so many calls.
    """
    if request.scale and nfe % 2:
        raise UserError(f"NFE {nfe}: a guided step makes two calls, so choose an even number, or the guidance scale 0")
    steps = nfe // 2 if request.scale else nfe
    if hasattr(loaded.model, "time_grid"):  # of this kit's methods
        try:
            loaded.model.time_grid(steps)
        except ValueError as error:
            raise UserError(f"NFE {nfe}: {type(loaded.model).__name__} {error}") from error
    return steps, {"guidance": Guidance(request.scale)} if request.scale else {}


def counted(loaded: Loaded, expected: int, tell: Tell, work: Callable[[], Any]) -> tuple[Any, float, int]:
    """What work makes, its seconds, and how many samples passed the network, each as often as it did.

    The share of `expected` is told. Other visitors wait for it.
    """
    passed = 0

    def note(network: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        nonlocal passed
        passed += len(output)
        tell(min(passed / expected, 1.0))

    with alone:
        hook, start = loaded.model.network.register_forward_hook(note), time.perf_counter()
        try:
            with autocast(loaded.model.device, loaded.dtype):
                made = work()
            synchronize(loaded.model.device)
        finally:
            hook.remove()
        return made, time.perf_counter() - start, passed


def nearest_training(shown: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest of the training images, uint8 (M, C, H, W), to each sample as it is shown, uint8 (N, 3, H, W).

    Gives their rows (N,), themselves as uint8 (N, 3, H, W), and how far they are (N,): the root mean square of the differences
    of pixels, which are of 255.
    """
    queries, base = (images.reshape(len(images), -1) for images in (shown[:, : training.shape[1]], training))
    rows, distances = nearest(queries, base)
    return rows, as_rgb(training[rows]), distances / base.shape[1] ** 0.5
