"""A figure of samples on their way from noise: `python -m src.evaluation.trajectory results/RUN --out figure.png`.

A row per sample, a column per moment. `--what denoised` shows the data that the model expects at each of them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from custom_model import create_custom_model
from src.challenges import find_challenge
from src.challenges.shared.images import ImageChallenge
from src.common.checkpoints import load_model, read_model_config
from src.common.classes import read_classes
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import add_precision_flag, autocast, resolve_device, resolve_precision
from src.common.figures import Figure
from src.common.files import check_output, write_whole
from src.common.noise import image_seeds
from src.evaluation.trajectory import WHATS, trajectory
from src.runs.folder import saved_checkpoint


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m src.evaluation.trajectory", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder, or a checkpoint")
    parser.add_argument("--out", default="./trajectory.png", help="where the figure is written")
    parser.add_argument("--steps", type=number(int, 1), default=50, help="network calls per image")
    parser.add_argument("--samples", type=number(int, 1), default=8, help="rows")
    parser.add_argument("--times", type=number(int, 2), default=8, help="columns")
    parser.add_argument("--what", choices=WHATS, default="state", help="what is shown")
    classes_help = "of a model with classes, the rows in turn: all, none (no class), or classes by name or by label 1, 2 ..."
    parser.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help=classes_help)
    parser.add_argument("--seed", type=number(int, 0), default=42, help="fixes every image's noise")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    add_precision_flag(parser)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    checkpoint = saved_checkpoint(args.run)
    challenge = find_challenge(None, checkpoint)
    if not isinstance(challenge, ImageChallenge):
        raise UserError(f"{args.run} is of challenge {challenge.name}: its samples are no images")
    check_output(args.out)
    device = resolve_device(args.device)
    model = load_model(checkpoint, create_custom_model, device).eval()
    classes = read_classes(args.classes, (read_model_config(checkpoint) or {}).get("classes", []))
    shape, seeds = (args.samples, *challenge.known_shape), image_seeds(args.seed, 0, args.samples)
    with autocast(device, resolve_precision(args.precision, device)):
        columns = trajectory(model, shape, args.steps, seeds, args.times, args.what, classes)

    figure = Figure(figsize=(args.times, args.samples + 0.3))
    axes = figure.subplots(args.samples, args.times, squeeze=False)
    for column, images in enumerate(columns):
        for row, pixels in enumerate(challenge.to_array(images)):
            axes[row, column].imshow(pixels.transpose(1, 2, 0))
            axes[row, column].axis("off")
        axes[0, column].set_title(f"{100 * column / (args.times - 1):.0f} % of the steps", fontsize=7)
    figure.subplots_adjust(0, 0, 1, 1 - 0.3 / (args.samples + 0.3), 0.03, 0.03)
    with write_whole(args.out) as partial:
        figure.savefig(partial, format="png", dpi=120)
    print(f"figure: {args.out}")


if __name__ == "__main__":
    run_script(main)
