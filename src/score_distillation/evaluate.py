"""Distil an image of every prompt or class and score them: eval.json beside them, and a sheet of all losses so far.

    python -m src.score_distillation.evaluate --prior results/RUN --loss_type vsd --particles 3
    python -m src.score_distillation.evaluate --loss_type sds --guidance_scale 25

Texts are those of --prompts, scored by CLIP; classes all of --prior's, read by a classifier that learns from the data. What is
there already, of the same settings, is not made again.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from src.challenges.shared.images import as_rgb
from src.common.cli import Parser, UserError, run_script
from src.common.devices import resolve_device
from src.common.distilled import EVAL, describe_marks
from src.common.files import load_json, save_json
from src.evaluation.classifier import Classifier, ClassifierConfig, accuracy, cached_classifier, predict
from src.evaluation.clip import Clip, clip_scores
from src.score_distillation.command import LOSSES, add_flags, distil, image_challenge, open_prior
from src.score_distillation.outputs import draw_sheet, image_names, read_images
from src.score_distillation.prior import Prior

PROMPTS, CLIP, COMPARISON = Path("data/prompts.json"), "ViT-L-14:openai", "comparison.png"
Scorer = Callable[[np.ndarray, str], np.ndarray]  # images, uint8 (N, 3, H, W), what was asked for -> (N,), more is better


def add_evaluation_flags(parser: Parser) -> None:
    """Add the flags of a run, of what is asked for, and of what scores it."""
    add_flags(parser)
    group = parser.add_argument_group("what is asked for and what scores it")
    group.add_argument("--prompts", type=Path, default=PROMPTS, help='of texts: a file {name: {"prompt": text}}')
    group.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help="of --prior: all, or some by name")
    group.add_argument("--clip", default=CLIP, metavar="MODEL:WEIGHTS", help="of open_clip; ViT-B-32:openai is the smaller one")
    group.add_argument("--data_root", help="the data that the classifier learns from; by default the challenge's own")


def open_scorer(args: argparse.Namespace, prior: Prior) -> Scorer:
    """What scores: a classifier of the data where a checkpoint is distilled, else CLIP.

    Raises UserError where open_clip is not installed, or has no such model; where the data have no labels, or other classes.
    """
    device = resolve_device(args.device)
    if args.prior is None:
        clip = Clip(args.clip, device)
        return lambda images, text: clip_scores(clip.features(images), clip.text(text)) / 100  # Hessel et al., arXiv:2104.08718
    challenge, classes = image_challenge(args), prior.classes
    root = args.data_root or challenge.default_root
    if list(challenge.class_names(root)) != classes:
        raise UserError(f"the data at {root} are of other classes than the checkpoint, which knows {', '.join(classes)}")
    (images, labels), (others, other_labels) = (challenge.load(split, root) for split in ("train", "val"))
    if labels is None or other_labels is None:
        raise UserError(f"the images at {root} have no labels, which the classifier learns from (--data_root)")
    config, title = ClassifierConfig(flip=challenge.training.get("flip", True)), f"classifier of {len(classes)} classes"
    classifier = cached_classifier(as_rgb(images), labels, len(classes), config, device, title)
    right = accuracy(classifier, as_rgb(others), other_labels)
    print(f"the classifier reads {right:.2%} of {len(others):,} real images right that it has not learned from")
    return classes_read(classifier, classes)


def classes_read(classifier: Classifier, classes: Sequence[str]) -> Scorer:
    """1 where the classifier reads the class that was asked for, else 0."""
    return lambda images, name: (predict(classifier, images) == 1 + classes.index(name)).astype(np.float64)


def read_prompts(file: Path) -> list[str]:
    """The texts of a JSON file {name: {"prompt": text}}, in order. Raises UserError where it is absent or something else."""
    content = load_json(file)
    entries = list(content.values()) if isinstance(content, dict) else []
    prompts = [entry.get("prompt") if isinstance(entry, dict) else None for entry in entries]
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise UserError(f'{file}: expected {{name: {{"prompt": text}}, ...}}')
    return prompts


def all_wanted(args: argparse.Namespace, prior: Prior) -> list[str]:
    """The prompts or classes that are asked for. Raises UserError for a class that is none."""
    if args.prior is None:
        return read_prompts(args.prompts)
    if args.classes == ["all"]:
        return list(prior.classes)
    for name in args.classes:
        prior.encode_condition(name, "")
    return list(dict.fromkeys(args.classes))


def evaluate(args: argparse.Namespace, prior: Prior, scorer: Scorer) -> float:
    """Make and score all images; the mean score. eval.json is as the course has it: {file: score, ..., "score": mean}."""
    scores: dict[str, float] = {}
    for wanted in all_wanted(args, prior):
        files = distil(prior, wanted, args)
        scores |= {
            file.name: round(float(score), 6) for file, score in zip(files, scorer(read_images(files), wanted), strict=True)
        }
    mean = float(np.mean(list(scores.values())))
    save_json({**scores, "score": mean}, args.save_dir / args.loss_type / EVAL)
    return mean


def main() -> None:
    parser = Parser(prog="python -m src.score_distillation.evaluate", description=__doc__.splitlines()[0])
    add_evaluation_flags(parser)
    args = parser.parse_args()
    if args.prior is not None and args.prompts != PROMPTS:
        raise UserError("--prior is asked for classes, not for texts: give --classes, and no --prompts")
    prior = open_prior(args)
    score = evaluate(args, prior, open_scorer(args, prior))
    marks = f" ({describe_marks(score)})" if args.prior is None else ""
    print(f"{args.loss_type}: score {score:.4f}{marks}: {args.save_dir / args.loss_type / EVAL}")
    names = [image_names(wanted, args.particles)[0] for wanted in all_wanted(args, prior)]
    rows = {loss: [args.save_dir / loss / name for name in names] for loss in LOSSES}  # of the losses evaluated so far
    evaluated = [loss for loss, files in rows.items() if all(file.is_file() for file in (*files, files[0].parent / EVAL))]
    draw_sheet({loss: rows[loss] for loss in evaluated}, args.save_dir / COMPARISON)
    print(f"sheet: {args.save_dir / COMPARISON}")


if __name__ == "__main__":
    run_script(main)
