"""Distil an image from a frozen model: a text prompt from Stable Diffusion, or a class from a checkpoint of this kit.

    python -m src.score_distillation --prior results/RUN --class 7 --loss_type vsd
    python -m src.score_distillation --prompt "a watercolour of a lighthouse" --loss_type sds --guidance_scale 25

The same command goes on where it was interrupted. docs/score_distillation.md has more.
"""

import argparse
from collections.abc import Sequence

from src.common.cli import Parser, UserError, run_script
from src.score_distillation.command import add_flags, distil, open_prior


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m src.score_distillation", description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", help="what the image is to show, in words")
    parser.add_argument("--class", dest="wanted_class", metavar="CLASS", help="what it is to show, of the classes of --prior")
    add_flags(parser)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    if args.prior is not None:
        if args.prompt is not None or not args.wanted_class:
            raise UserError("--prior is asked for a class, not for a text: give --class, and no --prompt")
    elif args.wanted_class is not None:
        raise UserError("--class needs --prior, a checkpoint that knows classes")
    elif not (args.prompt or "").strip():
        raise UserError('--prompt is empty: say what the image is to show, as --prompt "a red bicycle"; or give --prior')
    for file in distil(open_prior(args), args.prompt or args.wanted_class, args):
        print(f"image: {file}")


if __name__ == "__main__":
    run_script(main)
