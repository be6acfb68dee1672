"""A picture of every method in the plane: where its sampler takes noise in few network calls. docs/methods.md shows them.

    python -m recipes.method_pictures                       all of them, some ten minutes on one core
    python -m recipes.method_pictures --methods meanflow    one of them
    python -m recipes.method_pictures --methods meanflow --pictures docs/images/methods     into the documents

Each method is trained as recipes/toy2d.py trains it, with the settings and teachers there, as one network on one set of
points. OUT keeps the networks and the ways of the noises: what is there is drawn, not trained again, unless the method's file,
the challenge or the training have changed since.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes import toy2d
from src.challenges import get_challenge
from src.challenges.toy2d.points import POINT_SETS
from src.common.cli import Parser, number, run_script
from src.common.figures import Figure, as_picture, matplotlib
from src.common.files import PROJECT_ROOT, write_whole
from src.common.noise import image_seeds
from src.methods import Method, method_names
from src.methods.shared.karras_path import KarrasPathScheduler

NFE = get_challenge().nfe
SEED, COUNT = 0, 160  # of the noises, the same in all pictures
COLOURS = 128  # of a picture, which keeps its file small


def ways_of(experiment: toy2d.Experiment, out: Path) -> dict[int, np.ndarray]:
    """NFE -> the way of each noise, as way gives it: those that OUT keeps, or of a network that is trained now."""
    file = experiment.file(out, "ways").with_suffix(".npz")
    if not (file.is_file() and experiment.file(out, "trained").is_dir()):
        if experiment.teacher:
            ways_of(experiment.teacher, out)
        print(f"{experiment.method}: {experiment.steps} iterations", flush=True)
        trainer = toy2d.train(experiment, slice(0, 1), out)
        model = trainer.model.eval()
        with trainer.state.ema.applied():
            ways = {str(nfe): way(model, nfe) for nfe in NFE}
        with write_whole(file) as partial, open(partial, "wb") as opened:
            np.savez(opened, **ways)
    with np.load(file) as kept:
        return {nfe: kept[str(nfe)] for nfe in NFE}


@torch.no_grad()
def way(model: Method, nfe: int, count: int = COUNT) -> np.ndarray:
    """The states of a sampler of nfe calls from `count` noises to the samples: float32 (nfe + 1, count, 2).

    A state x = data + sigma noise is given as x / sqrt(1 + sigma^2), at the scale of the variance-preserving path, so that
    noise has a standard deviation of 1 and the samples stay as they are.
    """
    states = model.sample((count, 2), nfe, return_traj=True, seeds=image_seeds(SEED, 0, count))
    if isinstance(model.scheduler, KarrasPathScheduler):
        sigmas = model.time_grid(nfe)
        states = [x / (1 + sigma**2).sqrt() for x, sigma in zip(states, sigmas, strict=True)]
    return torch.stack(states).numpy()


def draw(points: np.ndarray, ways: Mapping[int, np.ndarray]) -> Image.Image:
    """A panel for each number of calls: data grey, noises dark, lines and samples in the colour of the noise's direction.

    points: (N, 2), of the data. ways: NFE -> states (NFE + 1, M, 2) from the noises to the samples.
    """
    figure = Figure(figsize=(3 * len(ways), 3.4), dpi=100, layout="constrained")
    edge = 1.2 * np.abs(points).max()
    for axis, (nfe, states) in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways.items(), strict=True):
        noises, samples = states[0], states[-1]
        hue = np.arctan2(noises[:, 1], noises[:, 0]) / (2 * np.pi) % 1
        colours = matplotlib.colors.hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.8), np.full_like(hue, 0.85)], axis=1))
        axis.scatter(*points.T, s=3, c="0.85", linewidths=0)
        lines = list(states.transpose(1, 0, 2))
        axis.add_collection(matplotlib.collections.LineCollection(lines, colors=colours, linewidths=0.6, alpha=0.4))
        axis.scatter(*noises.T, s=3, c="0.25", linewidths=0, zorder=3)
        axis.scatter(*samples.T, s=12, c=colours, linewidths=0, zorder=4)
        axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[], title=f"NFE {nfe}")
        for side in axis.spines.values():
            side.set_color("0.8")
    return as_picture(figure).quantize(COLOURS, Image.Quantize.FASTOCTREE)


def main() -> None:
    every, sets = [name for name in method_names() if name != "custom"], list(POINT_SETS)
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=every, default=every, help="what is drawn")
    parser.add_argument("--set", choices=sets, default="eight_gaussians", help="of which points")
    iterations = toy2d.CHALLENGE.training["num_iterations"]
    parser.add_argument("--iterations", type=number(int, 1), default=iterations, help="training steps; some methods take fewer")
    parser.add_argument(
        "--out", type=Path, default=PROJECT_ROOT / "results" / "method_pictures", help="where networks and ways are kept"
    )
    parser.add_argument("--pictures", type=Path, help="the folder of METHOD.png; OUT/pictures if not given")
    args = parser.parse_args()
    args.pictures = args.pictures or args.out / "pictures"

    torch.set_num_threads(1)  # so small networks gain nothing from more
    points = toy2d.CHALLENGE.load("val", args.set)[0]
    for method in args.methods:
        ways = ways_of(toy2d.Experiment(method, (args.set,), 1, args.iterations), args.out)
        path = args.pictures / f"{method}.png"
        with write_whole(path) as partial:
            draw(points, ways).save(partial, format="png", optimize=True)
        print(path, flush=True)


if __name__ == "__main__":
    run_script(main)
