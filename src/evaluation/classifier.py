"""A small classifier of a data set's own classes, which says what class a generated image shows.

It learns from the training images and their labels, in minutes on two CPU cores. Its accuracy on real images that it never saw
stands beside whatever it says of others.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from src.common.devices import kept_random_state
from src.common.files import cache_dir, load_torch, save_torch
from src.common.progress import Progress
from src.evaluation.features import read_cached

SMALLEST = 8  # pixels of the shorter side, at most, on the last level
LARGEST = 32  # pixels of the shorter side, at most, on the first level
PREDICTED = 256  # images per call of the network when it does not learn


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is built and trained; the learning rate follows one cycle (Smith and Topin, arXiv:1708.07120)."""

    width: int = 16  # channels of the first level; each level has twice those of the one before
    images: int = 150_000  # training images that are seen at most, counted each time that they are
    epochs: int = 60  # how often each of them is seen at most
    batch_size: int = 64
    lr: float = 4e-3  # the highest of AdamW
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    shift: float = 0.07  # how far images are shifted at random, a share of each side; what comes in repeats the border
    flip: bool = False  # mirror images at random
    development: float = 0.1  # share of each class that is set aside, for the choice of the weights
    checks: int = 12  # how often during the training these are looked at; the best weights are kept
    seed: int = 0  # fixes initial weights, the images set aside, order, shifts and mirroring


class Classifier(nn.Module):
    """Two convolutions a level, levels of half the size each, the mean over all positions, and one linear layer.

    size: height and width of the images in pixels. width: as of ClassifierConfig.
    """

    def __init__(self, size: tuple[int, int], num_classes: int, width: int):
        super().__init__()
        side = min(size)
        stride = 1 if side <= LARGEST else 2
        levels = 1 + max(0, math.ceil(math.log2(side / stride / SMALLEST)))
        layers: list[nn.Module] = [*_convolution(3, width, stride)]
        for level in range(levels):
            channels = width * 2**level
            if level:
                layers += [nn.MaxPool2d(2), *_convolution(channels // 2, channels)]
            layers += _convolution(channels, channels)
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("deviation", torch.ones(3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) in 0..255, uint8 or float -> logits (B, num_classes); column 0 is label 1."""
        normal = ((pixels - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        return self.head(self.features(normal).mean(dim=(2, 3)))


def _convolution(before: int, after: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    config: ClassifierConfig | None = None,
    device: str | torch.device = "cpu",
    description: str | None = None,
) -> Classifier:
    """Train a classifier on images, uint8 (N, 3, H, W), and their labels 1..num_classes, int64 (N,); in evaluation mode.

    The weights are those of the check at which most of the images set aside were right (of equal ones, at which their cross
    entropy was least). The global generators stay as they are. Raises ValueError for other images or labels, or where no class
    has two images.
    """
    check_labelled(images, labels, num_classes)
    config, device = config or ClassifierConfig(), torch.device(device)
    rng = np.random.default_rng(config.seed)
    aside = rows_aside(labels, config.development, rng)
    if not aside.any():
        raise ValueError("no class has two images, one to learn from and one to set aside")
    learned, development = np.flatnonzero(~aside), np.flatnonzero(aside)
    batch_size = min(config.batch_size, len(learned))
    steps = max(1, min(config.images, config.epochs * len(learned)) // batch_size)
    interval = max(1, steps // config.checks)
    with kept_random_state(device):
        torch.manual_seed(config.seed)
        classifier = Classifier(images.shape[2:], num_classes, config.width)
    set_normalisation(classifier, images)
    classifier = classifier.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps + 1)  # it steps before the first
    best, kept = (-1.0, 0.0), {}
    batches = shuffled(learned, batch_size, rng)
    with Progress(steps * batch_size, description, "image") as progress:
        for step in range(1, steps + 1):
            rows = next(batches)
            batch = torch.from_numpy(augment(images[rows], config, rng)).to(device)
            target = torch.from_numpy(labels[rows] - 1).to(device)
            loss = F.cross_entropy(classifier(batch), target, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update(batch_size)
            if step % interval == 0 or step == steps:
                score = development_score(classifier, images, labels, development)
                progress.note(f"{score[0]:.2%} of {len(development):,} set aside right")
                if score > best:
                    best, kept = score, {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.load_state_dict(kept)
    return classifier.eval().requires_grad_(False)


def cached_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    config: ClassifierConfig | None = None,
    device: str | torch.device = "cpu",
    description: str | None = None,
) -> Classifier:
    """As train_classifier, but kept in the project's cache under the hash of images, labels, classes and config.

    A damaged file of the cache is said, and the classifier trained again. Raises UserError where the cache cannot be written.
    """
    check_labelled(images, labels, num_classes)
    config = config or ClassifierConfig()
    digest = hashlib.sha256(f"{json.dumps([asdict(config), num_classes, images.shape])}\n".encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels))
    file = cache_dir() / "classifiers" / f"{digest.hexdigest()}.pt"

    def read(file: Path) -> Classifier:
        classifier = Classifier(images.shape[2:], num_classes, config.width)
        classifier.load_state_dict(load_torch(file)["state_dict"])
        return classifier

    classifier = read_cached(file, read)
    if classifier is None:
        classifier = train_classifier(images, labels, num_classes, config, device, description)
        save_torch({"state_dict": classifier.state_dict()}, file)
    return classifier.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def predict(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The label 1, 2 ... that each of the images, uint8 (N, 3, H, W), most likely has: int64 (N,)."""
    return all_logits(classifier, images).argmax(dim=1).numpy() + 1


def accuracy(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images, uint8 (N, 3, H, W), N at least 1, that are predicted to have their labels, int64 (N,)."""
    return float((predict(classifier, images) == labels).mean())


def check_labelled(images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raise ValueError unless these are uint8 images (N, 3, H, W) with labels 1..num_classes, int64 (N,)."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images (N, 3, H, W), got {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise ValueError(f"expected labels int64 {images.shape[:1]}, got {labels.dtype} {labels.shape}")
    if not (len(labels) and labels.min() >= 1 and labels.max() <= num_classes):
        raise ValueError(f"expected labels 1 to {num_classes}, got {np.unique(labels).tolist()[:5]} ...")


def rows_aside(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which images are set aside: bool (N,), this share of each class, at least one of two or more."""
    aside = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        aside[rows[: max(int(share * len(rows)), len(rows) > 1)]] = True
    return aside


def shuffled(rows: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of these rows in a new order each epoch, without end; what is left of an epoch after whole ones is dropped."""
    while True:
        order = rng.permutation(rows)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def augment(images: np.ndarray, config: ClassifierConfig, rng: np.random.Generator) -> np.ndarray:
    """Images (B, 3, H, W), each shifted by whole pixels and, where config says so, mirrored, at random."""
    count, _, height, width = images.shape
    rows, columns = (np.tile(np.arange(length), (count, 1)) for length in (height, width))
    if config.flip:
        mirrored = rng.random(count) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    for places in (rows, columns):
        most = round(config.shift * places.shape[1])
        places += rng.integers(-most, most + 1, (count, 1))
        places.clip(0, places.shape[1] - 1, out=places)
    each, channels = np.arange(count)[:, None, None, None], np.arange(images.shape[1])[:, None, None]
    return images[each, channels, rows[:, None, :, None], columns[:, None, None, :]]


def set_normalisation(classifier: Classifier, images: np.ndarray) -> None:
    """Keep in the classifier the mean and the deviation of each channel of images, uint8 (N, 3, H, W)."""
    levels = np.arange(256)
    for channel in range(3):
        parts = (images[start : start + 1000, channel].ravel() for start in range(0, len(images), 1000))
        counts = sum(np.bincount(part, minlength=256) for part in parts)
        mean = np.average(levels, weights=counts)
        classifier.mean[channel] = mean
        classifier.deviation[channel] = max(np.sqrt(np.average((levels - mean) ** 2, weights=counts)), 1.0)


def development_score(classifier: Classifier, images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """The share of the images of these rows that are right, and minus their mean cross entropy: more is better."""
    logits, target = all_logits(classifier, images[rows]), torch.from_numpy(labels[rows] - 1)
    return (logits.argmax(dim=1) == target).double().mean().item(), -F.cross_entropy(logits, target).item()


@torch.no_grad()
def all_logits(classifier: Classifier, images: np.ndarray) -> torch.Tensor:
    """The logits of images, uint8 (N, 3, H, W), in evaluation mode, whatever mode the classifier is in: (N, classes), CPU."""
    learns, device = classifier.training, classifier.mean.device
    classifier.eval()
    parts = [torch.zeros(0, classifier.head.out_features)]
    for start in range(0, len(images), PREDICTED):
        pixels = np.array(images[start : start + PREDICTED])  # torch warns of read-only arrays
        parts.append(classifier(torch.from_numpy(pixels).to(device)).cpu())
    classifier.train(learns)
    return torch.cat(parts)
