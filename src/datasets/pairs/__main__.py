"""Pairs of a noise and the image that a trained model makes of it: what rectified flow is repeated on.

    python -m src.datasets.pairs --teacher results/RUN --count 50000 --steps 40 --out data/pairs/RUN
    torchrun --nproc_per_node=4 -m src.datasets.pairs ...          the same pairs, made by four processes

Pair i follows from --seed and i alone, so a folder is the beginning of an endless list: a larger --count adds to it, a smaller
one takes the first of it. The same command again goes on where a killed one was; it loses the file it was making at most.
"""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from src.common.checkpoints import MODEL_CONFIG
from src.common.classes import labels_in_turn
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import add_precision_flag, autocast, precision_flag, precision_name, resolve_precision
from src.common.files import file_sha256, load_json, remove_leftovers, save_json, write_whole
from src.common.locks import owned
from src.common.noise import draw_noise, image_seeds
from src.common.processes import Processes, join_processes
from src.common.progress import Progress
from src.datasets.pairs import IDENTITY, METADATA, SHARD, describe_pairs, read_metadata, read_shard, shards
from src.methods import Method
from src.runs.folder import TRAINING_CONFIG, Run, checkpoint_of
from src.training.checkpoint import load_teacher


@torch.no_grad()
def make_pairs(
    model: Method, shape: Sequence[int], steps: int, seeds: Sequence[int], dtype: torch.dtype, first: int = 0
) -> dict[str, Any]:
    """The model's images of these noises, by `steps` steps of its own sampler, as a file holds them.

    first: the number of the first pair, on which its class depends, where the model has classes.

    Raises UserError where they are not finite.
    """
    size = (len(seeds), *shape)
    with autocast(model.device, dtype):
        label_kwargs = labels_in_turn(model, first, len(seeds))
        images = model.sample(size, num_inference_timesteps=steps, seeds=seeds, **label_kwargs).float()
    distances = (images - draw_noise(size, images.device, seeds)).flatten(1).norm(dim=1)
    arrays = {"images": images.half().cpu().numpy(), "seeds": np.array(seeds, np.int64), "distances": distances.cpu().numpy()}
    if not np.isfinite(arrays["images"]).all():
        raise UserError(f"the teacher's images are not finite in {steps} steps and {precision_name(dtype)}")
    return arrays


def fill_shard(
    path: Path, missing: range, model: Method, metadata: dict[str, Any], batch_size: int, dtype: torch.dtype, progress: Progress
) -> None:
    """Write the file with these pairs behind those that it holds already."""
    parts = [read_shard(path, metadata)] if missing.start % SHARD else []
    for start in range(missing.start, missing.stop, batch_size):
        count = min(batch_size, missing.stop - start)
        seeds = image_seeds(metadata["seed"], start, count)
        parts.append(make_pairs(model, metadata["image_shape"], metadata["steps"], seeds, dtype, start))
        progress.update(count)
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def begin_folder(folder: Path, metadata: dict[str, Any]) -> None:
    """Write pairs.json. Raises UserError where the folder holds pairs made in another way."""
    if (folder / METADATA).is_file():
        there = read_metadata(folder)
        others = [f"{name} {there[name]} there, {metadata[name]} here" for name in IDENTITY if there[name] != metadata[name]]
        if others:
            raise UserError(f"{folder} holds other pairs: {'; '.join(others)}; choose another --out")
    remove_leftovers(folder)
    save_json(metadata, folder / METADATA)


def missing_pairs(folder: Path, metadata: dict[str, Any]) -> list[tuple[Path, range]]:
    """The files that lack pairs, and the numbers of these. A damaged file is named and deleted: it lacks all."""
    missing = []
    for path, numbers in shards(folder, metadata["count"]):
        held = 0
        if path.is_file():
            try:
                held = len(read_shard(path, metadata, ["seeds"])["seeds"])
            except UserError as error:
                print(f"warning: {error}")
                path.unlink()
        if held < len(numbers):
            missing.append((path, numbers[held:]))
    return missing


def sample_shape(source: Path, image_size: int | None) -> list[int]:
    """The shape of the teacher's samples: of images of --image_size, else what its run says. UserError where neither does."""
    if image_size:
        return [3, image_size, image_size]
    shape = Run.of(source).sample_shape
    if shape is None:
        raise UserError(f"{source}: no {TRAINING_CONFIG} beside it says how large its images are: give --image_size")
    return list(shape)


def parse() -> argparse.Namespace:
    parser = Parser(prog="python -m src.datasets.pairs", description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, metavar="RUN", help="the run, or checkpoint, that makes the images")
    parser.add_argument("--count", type=number(int, 1), required=True, help="how many pairs the folder shall hold")
    parser.add_argument("--steps", type=number(int, 1), required=True, help="steps of the teacher's sampler")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to")
    batch_help = "images at a time; changes them by rounding alone"
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help=batch_help)
    parser.add_argument("--image_size", type=number(int, 1), help="height and width, where the teacher's run does not say it")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    add_precision_flag(parser, "auto is that of the pairs in the folder, in a new one bf16 where the processor has it")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="fixes every pair's noise")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with join_processes(args.device) as (processes, device):
        run(args, processes, device)


def run(args: argparse.Namespace, processes: Processes, device: torch.device) -> None:
    source, folder = Path(args.teacher), Path(args.out)
    checkpoint = checkpoint_of(source)
    if not checkpoint.is_file():
        raise UserError(f"--teacher {source}: no checkpoint at {checkpoint}")
    shape = sample_shape(source, args.image_size)
    model = load_teacher(source, shape, create_custom_model, device).eval().to(memory_format=torch.channels_last)
    precision = args.precision
    if precision == "auto" and (folder / METADATA).is_file():
        precision = precision_flag(read_metadata(folder)["precision"])
    metadata = {
        "teacher": str(source),
        "teacher_sha256": file_sha256(checkpoint) if processes.is_first else None,
        "teacher_options": load_json(checkpoint.parent / MODEL_CONFIG),
        "steps": args.steps,
        "seed": args.seed,
        "image_shape": shape,
        "precision": precision_name(resolve_precision(precision, device)),
        "count": args.count,
    }
    metadata = processes.first_says(metadata)
    dtype = resolve_precision(precision_flag(metadata["precision"]), device)
    with owned(folder) if processes.is_first else contextlib.nullcontext():
        if processes.is_first:
            begin_folder(folder, metadata)
        missing = processes.first_says(missing_pairs(folder, metadata) if processes.is_first else None)
        there = args.count - sum(len(numbers) for _, numbers in missing)
        place = f"{type(model).__name__} on {device}, {metadata['precision']}"
        processes.say(f"{folder}: {there} of {args.count} pairs are there; {place}")
        mine = missing[processes.share(len(missing))]
        total = sum(len(numbers) for _, numbers in mine)
        with Progress(total, "pairs" if processes.is_first else None, "pair") as progress:
            for path, numbers in mine:
                fill_shard(path, numbers, model, metadata, args.batch_size, dtype, progress)
        processes.wait()
    processes.say(f"{folder}: {describe_pairs(folder)}")


if __name__ == "__main__":
    run_script(main)
