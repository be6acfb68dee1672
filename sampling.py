"""Sample a checkpoint: `python sampling.py --ckpt_path ./results/RUN/last.ckpt --save_dir ./samples`.

The images go to SAVE_DIR/nfe=1/0000.png ..., one folder for each number of network calls (NFE), and what made them to
SAVE_DIR/sampling.json; of a model with classes, each image's label to SAVE_DIR/labels.csv, and a sheet by class to
SAVE_DIR/classes_nfe=1.png. Several GPUs share the work with `torchrun --nproc_per_node=4 sampling.py ...`, and the images are
the same.
"""

import argparse
import contextlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from custom_model import create_custom_model
from src.challenges import Challenge, add_challenge_flag, find_challenge
from src.common.checkpoints import load_model, read_model_config
from src.common.classes import draw_by_class, labels_in_turn, labels_table, read_classes, write_labels
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import add_precision_flag, precision_name, resolve_precision
from src.common.files import load_torch, write_whole
from src.common.guidance import Guidance
from src.common.processes import Processes, join_processes
from src.common.progress import Progress
from src.common.sampling import fitting_batch_size, generate, scale_warning
from src.runs.folder import (
    BEST,
    Run,
    checkpoint_of,
    identity_of,
    nfe_folders,
    nfe_name,
    note_sampling,
    saved_checkpoint,
    scale_name,
)

WHOLE = [0.0, math.inf]  # the guidance interval that leaves nothing out


def parse() -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of: the one that is named, that of the model, or the course's."""
    first = Parser(add_help=False)
    first.add_argument("--ckpt_path", type=checkpoint_of)
    first.add_argument("--config_path")
    add_challenge_flag(first, default=None)
    named, _ = first.parse_known_args()
    checkpoint = named.ckpt_path or default_checkpoint(named.challenge)
    challenge = find_challenge(named.challenge, checkpoint, named.config_path)
    shape = Run.of(checkpoint).sample_shape if named.challenge else None
    if challenge.shape and shape not in (None, challenge.shape):
        raise UserError(
            f"{checkpoint} was trained on samples of shape {shape}; those of --challenge {challenge.name} are "
            f"{challenge.shape}: leave the flag out"
        )

    parser = Parser(description=__doc__)
    ckpt_help = "the model's weights, or a run's folder"
    parser.add_argument("--ckpt_path", type=checkpoint_of, default=checkpoint, help=ckpt_help)
    parser.add_argument("--config_path", help="the model's options; by default model_config.json beside the weights")
    parser.add_argument("--save_dir", default="./samples", help="a folder nfe=K is written in here for each K")
    batch_help = f"images at a time (CPU: at most {challenge.cpu_batch_size}); changes no image"
    parser.add_argument("--batch_size", type=number(int, 1), default=challenge.batch_size, help=batch_help)
    parser.add_argument("--num_samples", type=number(int, 1), default=challenge.num_samples, help="images for each NFE")
    calls = f"network calls per image (default: {' '.join(map(str, challenge.nfe))}, of these the few of a model made for few)"
    parser.add_argument("--nfe_list", type=number(int, 1), nargs="+", metavar="NFE", help=calls)
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--seed", type=number(int, 0), default=42, help="fixes every image's noise")
    add_precision_flag(parser)
    options_help = "options of the model instead of those in its configuration, such as eta=1: DDPM's ancestral sampling"
    parser.add_argument("--options", nargs="+", default=[], metavar="NAME=VALUE", help=options_help)
    group = parser.add_argument_group("of a model with classes")
    classes_help = "what is sampled, in turn: all, none (no class), or classes by name or by label 1, 2 ..."
    group.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help=classes_help)
    scales = " and ".join(f"{scale:g}" for scale in challenge.guidance_scales)
    guidance_help = "0: the class alone, in one call a step. Above 0: none + W (class - none) of predictions, in two calls, "
    guidance_help += "both counted: near 0 almost no class, 1 the class as it is, more goes beyond it. Of several each has a "
    guidance_help += f"folder (default: {scales})"
    group.add_argument("--guidance_scale", type=number(float, 0), nargs="+", metavar="W", help=guidance_help)
    interval = {"nargs": 2, "default": WHOLE, "metavar": ("LOW", "HIGH")}
    interval_help = "noise levels sigma between which guidance acts; outside them a step makes one call"
    group.add_argument("--guidance_interval", type=number(float, 0), **interval, help=interval_help)
    weak_help = "guide away from this weaker model, a smaller or earlier checkpoint, instead of the model without a class"
    group.add_argument("--autoguidance", type=checkpoint_of, metavar="CKPT", help=weak_help)
    add_challenge_flag(parser, default=challenge.name)
    return parser.parse_args(), challenge


def default_checkpoint(challenge: str | None) -> str:
    """What is sampled where no checkpoint is named: that of ./checkpoints/CHALLENGE, if there is one, or ./checkpoints."""
    own = Path("checkpoints") / (challenge or "") / BEST
    return f"./{own}" if own.is_file() else f"./checkpoints/{BEST}"


def write_samples(
    batches: Iterable[torch.Tensor], challenge: Challenge, folder: Path, mine: slice, nfe: int, processes: Processes
) -> None:
    """Write batches of samples, numbered as this process's share of all, into a folder, which is replaced whole."""
    with write_whole(folder, folder=True) if processes.is_first else contextlib.nullcontext() as partial:
        if processes.is_first:
            partial.mkdir()
        partial, first = processes.first_says(partial), mine.start
        with Progress(mine.stop - first, f"NFE={nfe}" if processes.is_first else None, "image") as progress:
            for samples in batches:
                challenge.write(samples, partial, first)
                first += len(samples)
                progress.update(len(samples))
        processes.wait()


def read_options(words: list[str]) -> dict[str, Any]:
    """Options from words NAME=VALUE, values as JSON has them, or else text. Raises UserError for other words."""
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name.isidentifier() and equals):
            raise UserError(f"--options {word}: expected NAME=VALUE, such as eta=1")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's place and identity, the average that it is, and how long it was trained, where it says so."""
    checkpoint, run = load_torch(path), Run.of(path)
    step, batch = checkpoint.get("step"), run.training.get("batch_size") if run.exists else None
    seen = {"images_seen": step * batch} if isinstance(step, int) and isinstance(batch, int) else {}
    average = {"average": checkpoint["average"]} if "average" in checkpoint else {}
    return {"checkpoint": str(path), **identity_of(path), "step": step, **seen, **average}


def read_guidance(
    args: argparse.Namespace, challenge: Challenge, model: torch.nn.Module, device: torch.device
) -> dict[float, Guidance | None]:
    """The guidance of each scale; None for scale 0. Raises UserError where the model has no use for it."""
    usual = challenge.guidance_scales if getattr(model, "num_classes", 0) else (0.0,)
    scales = list(dict.fromkeys(args.guidance_scale or usual))
    if not any(scales):
        if args.autoguidance or args.guidance_interval != WHOLE:
            raise UserError("--autoguidance and --guidance_interval need a --guidance_scale above 0")
        return {0.0: None}
    method, weak = type(model).__name__, None
    if not getattr(model, "takes_guidance", False):
        reason = "what its network predicts is not linear in the denoised data"
        raise UserError(f"--guidance_scale: {method} cannot be guided: {reason}")
    if args.autoguidance:
        weak = load_model(args.autoguidance, create_custom_model, device).eval().to(memory_format=torch.channels_last)
        if type(weak) is not type(model) or weak.num_classes != model.num_classes:
            raise UserError(f"--autoguidance {args.autoguidance}: expected a model of the same method ({method}) and classes")
    elif not model.num_classes:
        raise UserError(f"--guidance_scale {max(scales):g}: the model was trained without classes")
    if odd := next((nfe for nfe in args.nfe_list if nfe % 2), None):
        raise UserError(f"--nfe_list {odd}: a guided step makes two calls: give even numbers")
    try:
        return {scale: Guidance(scale, *args.guidance_interval, weak) if scale else None for scale in scales}
    except ValueError as error:
        raise UserError(str(error)) from error


def describe_guidance(guidance: Guidance | None, autoguidance: str | Path | None) -> dict[str, Any]:
    """What sampling.json says of guidance, where there is any."""
    if guidance is None:
        return {}
    interval = [guidance.low, None if guidance.high == math.inf else guidance.high]
    weak = autoguidance and "/".join(Path(autoguidance).resolve().parts[-2:])  # a whole path would be of this machine alone
    return {"guidance_scale": guidance.scale, "guidance_interval": interval, "autoguidance": weak}


def main() -> None:
    args, challenge = parse()
    with join_processes(args.device) as (processes, device):
        run(args, challenge, processes, device)


def run(args: argparse.Namespace, challenge: Challenge, processes: Processes, device: torch.device) -> None:
    options = read_options(args.options)
    saved_checkpoint(args.ckpt_path)
    model = load_model(args.ckpt_path, create_custom_model, device, args.config_path, options)
    model.eval().to(memory_format=torch.channels_last)
    dtype = resolve_precision(args.precision, device)
    args.nfe_list = args.nfe_list or list(challenge.calls_of(model))
    processes.say(f"{args.ckpt_path}: {type(model).__name__} on {device}, {precision_name(dtype)}")
    batch_size = fitting_batch_size(args.batch_size, device, challenge.cpu_batch_size)
    names = (read_model_config(args.ckpt_path, args.config_path) or {}).get("classes", [])
    classes, by_scale = read_classes(args.classes, names), read_guidance(args, challenge, model, device)
    metadata = {**describe_checkpoint(args.ckpt_path), "num_samples": args.num_samples, "seed": args.seed}
    metadata |= {"challenge": challenge.name, "precision": precision_name(dtype), "options": options}
    metadata |= {"classes": args.classes} if names else {}
    labels = labels_in_turn(model, 0, args.num_samples, classes)["labels"].tolist() if names else []
    files = [challenge.file_name(number) for number in range(len(labels))]
    mine = processes.share(args.num_samples)
    for scale, guidance in by_scale.items():
        base = "the weaker model" if args.autoguidance else "no class"
        if warning := scale_warning(scale, base, "the model alone, in one call a step"):
            processes.say(warning)
        place = Path(args.save_dir) / (scale_name(scale) if len(by_scale) > 1 else "")
        sample_kwargs = {"classes": classes, **({"guidance": guidance} if guidance else {})}
        others = [folder for nfe, folder in nfe_folders(place).items() if nfe not in args.nfe_list]
        if names and processes.is_first:
            write_labels(labels_table(files, labels, names), place, others)
        for nfe in args.nfe_list:
            folder, steps = place / nfe_name(nfe), nfe // 2 if guidance else nfe  # a guided step makes two calls
            shape, count = challenge.known_shape, mine.stop - mine.start
            batches = generate(model, shape, steps, count, batch_size, args.seed, dtype, mine.start, **sample_kwargs)
            write_samples(batches, challenge, folder, mine, nfe, processes)
            if processes.is_first:
                note_sampling(folder, {**metadata, "nfe": nfe, **describe_guidance(guidance, args.autoguidance)})
                if names:
                    draw_by_class(folder, files, labels, names, place / f"classes_{nfe_name(nfe)}.png")
        if others:
            processes.say(f"{place}: left as they were: {', '.join(folder.name for folder in others)} (--nfe_list)")
    processes.say(f"samples: {args.save_dir}")


if __name__ == "__main__":
    run_script(main)
