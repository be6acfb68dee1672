"""How right FID-infinity and FID's standard error are, on draws from Gaussians like the validation images' features.

    python -m benchmarks.intervals --data_root FACES.zip

The reference is the validation features themselves, so that the distance of a Gaussian with their mean and covariance is 0 and
all that FID shows of its draws is bias. The second Gaussian has 1.1 times the deviations and a mean moved by 0.05 in each
feature.
"""

from datetime import date

import numpy as np

from src.challenges import get_challenge
from src.common.cli import Parser, number, run_script
from src.common.devices import resolve_device
from src.evaluation.confidence import random_halves, standard_error
from src.evaluation.features import cached_features
from src.evaluation.fid import fid_infinity, subset_distances
from src.evaluation.weights import load_inception


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default=get_challenge().default_root, help="the data set")
    parser.add_argument("--sets", type=number(int, 3), default=16, help="sets of draws that FID's deviation is taken over")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    inception = load_inception(device=resolve_device(args.device))
    images, _ = get_challenge().load("val", args.data_root)
    reference = cached_features(images, inception, description="validation").astype(np.float64)
    rng, count = np.random.default_rng(0), len(reference)
    mean = reference.mean(axis=0)
    root = (reference - mean) / np.sqrt(count - 1)
    print(f"{date.today()}, {count} validation images")

    for draws in (count, count, 4 * count):
        rows = rng.normal(size=(draws, count)) @ root + mean
        fid = subset_distances(rows, reference, [np.arange(draws)])[0]
        print(f"{draws} draws, truth 0: FID {fid:.2f}, FID-infinity {fid_infinity(rows, reference):.2f}")

    sets = [1.1 * rng.normal(size=(count, count)) @ root + mean + 0.05 for _ in range(args.sets)]
    scores = np.array([subset_distances(rows, reference, [np.arange(count)])[0] for rows in sets])
    print(f"FID of {args.sets} sets of {count} draws: mean {scores.mean():.2f}, deviation {scores.std(ddof=1):.2f}")
    for rows, score in zip(sets[:3], scores, strict=False):
        error = standard_error(subset_distances(rows, reference, list(random_halves(count))), count)
        again = [rng.integers(0, count, count) for _ in range(5)]
        bootstrap = subset_distances(rows, reference, again).mean()
        print(f"a set: FID {score:.2f}, standard error by halves {error:.2f}; mean FID of five bootstrap draws {bootstrap:.2f}")


if __name__ == "__main__":
    run_script(main)
