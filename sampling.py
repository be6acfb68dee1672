"""Sample a checkpoint: `python sampling.py --ckpt_path ./results/RUN/last.ckpt --save_dir ./samples`.

The images go to SAVE_DIR/nfe=1/0000.png ..., one folder for each number of network calls (NFE), and what made them to
SAVE_DIR/sampling.json. Several GPUs share the work with `torchrun --nproc_per_node=4 sampling.py ...`, and the images are the
same.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from custom_model import create_custom_model
from src.challenges import Challenge, add_challenge_flag, find_challenge
from src.common.checkpoints import load_model
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import add_precision_flag, precision_name, resolve_precision
from src.common.files import load_torch, write_whole
from src.common.processes import Processes, join_processes
from src.common.sampling import fitting_batch_size, generate
from src.runs import Run, nfe_name, note_sampling


def parse() -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of: the one asked for, that of the model, or the course's."""
    first = Parser(add_help=False)
    first.add_argument("--ckpt_path")
    first.add_argument("--config_path")
    add_challenge_flag(first, default=None)
    asked, _ = first.parse_known_args()
    checkpoint = asked.ckpt_path or default_checkpoint(asked.challenge)
    challenge = find_challenge(asked.challenge, checkpoint, asked.config_path)
    theirs = Run.of(checkpoint).sample_shape if asked.challenge else None
    if theirs not in (None, challenge.shape):
        raise UserError(
            f"{checkpoint} was trained on samples of shape {theirs}; those of --challenge {challenge.name} are "
            f"{challenge.shape}: leave the flag out"
        )

    parser = Parser(description=__doc__)
    parser.add_argument("--ckpt_path", default=checkpoint, help="the model's weights")
    parser.add_argument("--config_path", help="the model's options; by default model_config.json beside the weights")
    parser.add_argument("--save_dir", default="./samples", help="a folder nfe=K is written in here for each K")
    batch_help = f"images at a time (CPU: at most {challenge.cpu_batch_size}); changes no image"
    parser.add_argument("--batch_size", type=number(int, 1), default=challenge.batch_size, help=batch_help)
    parser.add_argument("--num_samples", type=number(int, 1), default=challenge.num_samples, help="images for each NFE")
    parser.add_argument(
        "--nfe_list", type=number(int, 1), nargs="+", default=list(challenge.nfe), help="network calls per image"
    )
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--seed", type=number(int, 0), default=42, help="fixes every image's noise")
    add_precision_flag(parser)
    options_help = "options of the model in the place of those in its configuration, such as eta=1: DDPM's ancestral sampling"
    parser.add_argument("--options", nargs="+", default=[], metavar="NAME=VALUE", help=options_help)
    add_challenge_flag(parser, default=challenge.name)
    return parser.parse_args(), challenge


def default_checkpoint(challenge: str | None) -> str:
    """What is sampled where no checkpoint is named: that of ./checkpoints/CHALLENGE, if there is one, or ./checkpoints."""
    own = Path("checkpoints") / (challenge or "") / "best_model.pt"
    return f"./{own}" if own.is_file() else "./checkpoints/best_model.pt"


def write_samples(
    model: torch.nn.Module,
    challenge: Challenge,
    folder: Path,
    nfe: int,
    num_samples: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
    processes: Processes,
) -> None:
    """Write what generate yields into folder, in the challenge's way, replacing it whole; the processes share the images."""
    mine = processes.share(num_samples)
    with write_whole(folder, folder=True) if processes.is_first else contextlib.nullcontext() as partial:
        if processes.is_first:
            partial.mkdir()
        partial = processes.first_says(partial)
        count, first = mine.stop - mine.start, mine.start
        with tqdm(total=count, desc=f"NFE={nfe}", unit="image", disable=not processes.is_first) as progress:
            for samples in generate(model, challenge.shape, nfe, count, batch_size, seed, dtype, mine.start):
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
    """Where a checkpoint lies, and how many steps and images it was trained, where it says so and is of a run."""
    step, run = load_torch(path).get("step"), Run.of(path)
    batch = run.training.get("batch_size") if run.exists else None
    seen = {"images_seen": step * batch} if isinstance(step, int) and isinstance(batch, int) else {}
    return {"checkpoint": str(Path(path).resolve()), "step": step, **seen}


def main() -> None:
    args, challenge = parse()
    with join_processes(args.device) as (processes, device):
        run(args, challenge, processes, device)


def run(args: argparse.Namespace, challenge: Challenge, processes: Processes, device: torch.device) -> None:
    options = read_options(args.options)
    model = load_model(args.ckpt_path, create_custom_model, device, args.config_path, options)
    model.eval().to(memory_format=torch.channels_last)
    dtype = resolve_precision(args.precision, device)
    processes.say(f"{args.ckpt_path}: {type(model).__name__} on {device}, {precision_name(dtype)}")
    batch_size = fitting_batch_size(args.batch_size, device, challenge.cpu_batch_size)
    about = describe_checkpoint(args.ckpt_path)
    for nfe in args.nfe_list:
        folder = Path(args.save_dir) / nfe_name(nfe)
        write_samples(model, challenge, folder, nfe, args.num_samples, batch_size, args.seed, dtype, processes)
        if processes.is_first:
            kept = {"num_samples": args.num_samples, "seed": args.seed, "precision": precision_name(dtype), "options": options}
            note_sampling(folder, {**about, "nfe": nfe, **kept})
    processes.say(f"samples: {args.save_dir}")


if __name__ == "__main__":
    run_script(main)
