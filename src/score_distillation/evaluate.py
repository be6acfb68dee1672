"""Distil an image of every prompt or class and score them: eval.json beside them, and a sheet of all losses so far.

    python -m src.score_distillation.evaluate --prior results/RUN --loss_type vsd --particles 3
    python -m src.score_distillation.evaluate --loss_type sds --guidance_scale 25

Texts are those of --prompts, scored by CLIP; classes all of --prior's, read by a classifier that learns from the data. What is
there already, of the same settings, is not made again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from src.common.cli import Parser, UserError, run_script
from src.common.devices import resolve_device
from src.score_distillation.command import add_flags, distil, image_challenge, open_prior
from src.score_distillation.losses import LOSSES
from src.score_distillation.outputs import COMPARISON, EVAL, draw_sheet, image_names, read_images
from src.score_distillation.prior import Prior
from src.score_distillation.scores import CLIP, ClassifierJudge, ClipJudge, Judge, describe_marks, read_prompts, save_scores

PROMPTS = Path("data/prompts.json")


def add_judge_flags(parser: Parser) -> None:
    """Add what is asked for, and who scores it."""
    group = parser.add_argument_group("what is asked for and who scores it")
    group.add_argument("--prompts", type=Path, default=PROMPTS, help='of texts: a file {name: {"prompt": text}}')
    group.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help="of --prior: all, or some by name")
    group.add_argument("--clip", default=CLIP, metavar="MODEL:WEIGHTS", help="of open_clip; ViT-B-32:openai is the smaller one")
    group.add_argument("--data_root", help="the data that the classifier learns from; by default the challenge's own")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m src.score_distillation.evaluate", description=__doc__.splitlines()[0])
    add_flags(parser)
    add_judge_flags(parser)
    return parser.parse_args(argv)


def open_judge(args: argparse.Namespace, prior: Prior) -> Judge:
    """Who scores: a classifier of the data where a checkpoint is distilled, else CLIP."""
    device = resolve_device(args.device)
    if args.prior is None:
        return ClipJudge(args.clip, device)
    challenge = image_challenge(args)
    return ClassifierJudge.of_data(challenge, args.data_root or challenge.default_root, prior.classes, device)


def all_wanted(args: argparse.Namespace, prior: Prior) -> list[str]:
    """The prompts or classes that are asked for. Raises UserError for a class that is none."""
    if args.prior is None:
        return read_prompts(args.prompts)
    if args.classes == ["all"]:
        return list(prior.classes)
    for name in args.classes:
        prior.encode_condition(name, "")
    return list(dict.fromkeys(args.classes))


def evaluate(args: argparse.Namespace, prior: Prior, judge: Judge) -> float:
    """Make and score all images; the mean score, which eval.json has too."""
    scores: dict[str, float] = {}
    for wanted in all_wanted(args, prior):
        files = distil(prior, wanted, args)
        found = judge(read_images(files), wanted)
        scores |= {file.name: round(float(score), 6) for file, score in zip(files, found, strict=True)}
    return save_scores(scores, args.save_dir / args.loss_type)


def compare(args: argparse.Namespace, prior: Prior) -> Path:
    """Draw the first image of everything wanted, a row for each loss that has been evaluated."""
    names = [image_names(wanted, args.particles)[0] for wanted in all_wanted(args, prior)]
    rows = {loss: [args.save_dir / loss / name for name in names] for loss in LOSSES}
    there = {loss: files for loss, files in rows.items() if (args.save_dir / loss / EVAL).is_file()}
    whole = {loss: files for loss, files in there.items() if all(file.is_file() for file in files)}
    draw_sheet(whole, args.save_dir / COMPARISON)
    return args.save_dir / COMPARISON


def main() -> None:
    args = parse()
    if args.prior is not None and args.prompts != PROMPTS:
        raise UserError("--prior is asked for classes, not for texts: give --classes, and no --prompts")
    prior = open_prior(args)
    judge = open_judge(args, prior)
    score = evaluate(args, prior, judge)
    marks = describe_marks(score, judge.marks)
    print(f"{args.loss_type}: score {score:.4f}{f' ({marks})' if marks else ''}: {args.save_dir / args.loss_type / EVAL}")
    print(f"sheet: {compare(args, prior)}")


if __name__ == "__main__":
    run_script(main)
