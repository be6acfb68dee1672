"""Evaluate a loss at several values of one of its options: a table, a plot and a sheet.

    python -m src.score_distillation.ablate --prior results/RUN --loss_type sds --option guidance_scale --values 1 7.5 25 100
    python -m src.score_distillation.ablate --prior results/RUN --loss_type sdi --option inversion_n_steps --values 2 5 10 20

The images of each value lie in `save_dir/ablation/OPTION=VALUE/LOSS`, the results beside them.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from src.common.cli import Parser, UserError, run_script
from src.common.figures import Figure
from src.common.files import save_json, write_whole
from src.common.options import default_of
from src.score_distillation.command import LOSSES, open_prior, options_of
from src.score_distillation.evaluate import add_evaluation_flags, all_wanted, evaluate, open_scorer
from src.score_distillation.outputs import draw_sheet, image_names


def variants(args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """Value -> the flags of its evaluation. Raises UserError for an option that the loss has not, or a value out of range."""
    config = LOSSES[args.loss_type].Config
    kinds = {item.name: type(default_of(item)) for item in fields(config)}
    if args.option not in kinds:
        raise UserError(f"--option {args.option}: {args.loss_type} has none of that name; expected one of {', '.join(kinds)}")
    found = {}
    for value in args.values:
        typed = kinds[args.option](value)
        if typed != value:
            raise UserError(f"--values {value:g}: expected whole numbers for {args.option}")
        folder = args.save_dir / "ablation" / f"{args.option}={value:g}"
        found[f"{value:g}"] = argparse.Namespace(**{**vars(args), args.option: typed, "save_dir": folder})
        options_of(config, found[f"{value:g}"])
    return found


def draw_plot(scores: dict[str, float], option: str, loss_type: str, file: Path) -> None:
    """The score at each value, on an axis where equal factors are equally far apart."""
    values = list(map(float, scores))
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    axes.plot(values, list(scores.values()), "o-")
    if min(values) > 0:
        axes.set_xscale("log")
        axes.set_xticks(values, list(scores))
        axes.minorticks_off()
    axes.set(xlabel=option, ylabel="score", title=loss_type)
    figure.tight_layout()
    with write_whole(file) as partial:
        figure.savefig(partial, format="png", dpi=120)


def main() -> None:
    parser = Parser(prog="python -m src.score_distillation.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("--option", default="guidance_scale", help="of --loss_type, the one that is varied")
    parser.add_argument("--values", type=float, nargs="+", default=[1.0, 7.5, 25.0, 100.0], help="at which it is evaluated")
    add_evaluation_flags(parser)
    args = parser.parse_args()
    runs = variants(args)
    prior = open_prior(args)
    scorer = open_scorer(args, prior)
    scores = {value: evaluate(each, prior, scorer) for value, each in runs.items()}
    names = [image_names(wanted, args.particles)[0] for wanted in all_wanted(args, prior)]
    stem = f"{args.save_dir / 'ablation' / args.loss_type}_{args.option}"
    rows = {value: [each.save_dir / args.loss_type / name for name in names] for value, each in runs.items()}
    draw_sheet(rows, Path(f"{stem}_sheet.png"))
    draw_plot(scores, args.option, args.loss_type, Path(f"{stem}.png"))
    save_json(scores, Path(f"{stem}.json"))
    print(f"| {args.option} | score |\n|---|---|")
    print("\n".join(f"| {value} | {score:.4f} |" for value, score in scores.items()))
    print(f"plot: {stem}.png, sheet: {stem}_sheet.png")


if __name__ == "__main__":
    run_script(main)
