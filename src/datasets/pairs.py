"""Pairs of a noise and the image that a trained model makes of it: what rectified flow is repeated on.

    python -m src.datasets.pairs --teacher results/RUN --count 50000 --steps 40 --out data/pairs/RUN
    torchrun --nproc_per_node=4 -m src.datasets.pairs ...          the same pairs, made by four processes

A folder of pairs holds pairs.json, which says who made them and how, and files pairs_00000.npz ... of SHARD pairs each: images
in float16, the seeds of their noises (draw_noise makes the noise of its seed again) and the distances from noise to image. Pair
i follows from --seed and i alone, so a folder is the beginning of an endless list: a larger --count adds to it, a smaller one
takes the first of it. The same command again goes on where a killed one was; it loses the file it was making at most.
"""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from custom_model import create_custom_model
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import autocast, precision_flag, precision_name, resolve_precision
from src.common.files import load_json, write_whole
from src.common.images import image_seeds
from src.methods._base import Method, draw_noise
from src.training.checkpoint import load_teacher
from src.training.distributed import Team, join

SHARD = 1024  # pairs a file: 25 MB of 64x64 images
ABOUT = "pairs.json"
IDENTITY = (
    "teacher_sha256",
    "teacher_options",
    "steps",
    "seed",
    "image_shape",
    "precision",
)  # what a folder's pairs have in common


# ------------------------------------------------------------------------------------------------------ what is stored


def load_pairs(folder: str | Path, drop_longest: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The images, float16 (N, 3, H, W), about in [-1, 1], and the seeds of their noises, int64 (N,).

    drop_longest: the share of all pairs that is left out, those of the largest L2 distance from noise to image.

    Raises UserError where there are no pairs, or fewer than were asked for, or a file is damaged.
    """
    folder = Path(folder)
    if not 0 <= drop_longest < 1:
        raise UserError(f"--drop_longest {drop_longest:g}: expected a share from 0 to below 1")
    about = read_about(folder)
    count = about["count"]
    images = np.empty((count, *about["image_shape"]), np.float16)
    seeds, distances = np.empty(count, np.int64), np.empty(count, np.float32)
    done = 0
    for path, wanted in shards(folder, count):
        if path.is_file():
            shard = read_shard(path, about)
            rows = slice(wanted.start, wanted.start + min(len(wanted), len(shard["seeds"])))
            here = slice(0, rows.stop - rows.start)
            images[rows], seeds[rows], distances[rows] = (shard[name][here] for name in ("images", "seeds", "distances"))
            done += here.stop
    if done < count:
        raise UserError(
            f"{folder} holds {done} of its {count} pairs: make the others with the command that began them, or give it a "
            "smaller --count"
        )
    if drop_longest == 0:
        return images, seeds
    kept = np.sort(np.argsort(distances, kind="stable")[: max(count - round(drop_longest * count), 1)])
    return images[kept], seeds[kept]


def describe_pairs(folder: str | Path, drop_longest: float = 0.0) -> str:
    """One line that is the same for the same pairs: their number, shape, teacher, steps, seed, precision, what is left out."""
    about = read_about(Path(folder))
    shape, teacher = "x".join(map(str, about["image_shape"])), about["teacher_sha256"][:12]
    dropped = f", the longest {drop_longest:g} left out" if drop_longest else ""
    made = f"{about['steps']} steps, seed {about['seed']}, {about['precision']}"
    return f"{about['count']} pairs {shape} of teacher {teacher}, {made}{dropped}"


def read_about(folder: Path) -> dict[str, Any]:
    """What pairs.json says. Raises UserError where there is none or it is of something else."""
    if not (folder / ABOUT).is_file():
        raise UserError(f"no pairs at {folder}: make them with python -m src.datasets.pairs")
    about = load_json(folder / ABOUT)
    if not isinstance(about, dict) or not {"count", *IDENTITY} <= about.keys():
        raise UserError(f"{folder / ABOUT} is not of pairs: it lacks one of count, {', '.join(IDENTITY)}")
    return about


def shards(folder: Path, count: int) -> list[tuple[Path, range]]:
    """The files of the first `count` pairs, and which pairs each of them holds."""
    starts = range(0, count, SHARD)
    return [(folder / f"pairs_{start // SHARD:05d}.npz", range(start, min(start + SHARD, count))) for start in starts]


def read_shard(path: Path, about: dict[str, Any], names: Sequence[str] = ("images", "seeds", "distances")) -> dict[str, Any]:
    """These arrays of a file. Raises UserError where it is damaged or of other pairs."""
    try:
        with np.load(path) as file:
            shard = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: damaged ({str(error) or type(error).__name__}); delete it, and the same command makes it again"
        ) from error
    if "images" in shard and list(shard["images"].shape[1:]) != list(about["image_shape"]):
        raise UserError(f"{path} holds images of shape {shard['images'].shape[1:]}, {ABOUT} says {about['image_shape']}")
    return shard


# --------------------------------------------------------------------------------------------------------- making them


@torch.no_grad()
def make_pairs(model: Method, shape: Sequence[int], steps: int, seeds: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
    """The model's images of these noises, by `steps` steps of its own sampler, as a file holds them.

    Raises UserError where they are not finite.
    """
    size = (len(seeds), *shape)
    with autocast(model.device, dtype):
        images = model.sample(size, num_inference_timesteps=steps, seeds=seeds).float()
    distances = (images - draw_noise(size, images.device, seeds)).flatten(1).norm(dim=1)
    arrays = {"images": images.half().cpu().numpy(), "seeds": np.array(seeds, np.int64), "distances": distances.cpu().numpy()}
    if not np.isfinite(arrays["images"]).all():
        raise UserError(f"the teacher's images are not finite in {steps} steps and {precision_name(dtype)}")
    return arrays


def fill_shard(
    path: Path, missing: range, model: Method, about: dict[str, Any], batch_size: int, dtype: torch.dtype, progress: tqdm
) -> None:
    """Write the file with these pairs behind those that it holds already."""
    parts = [read_shard(path, about)] if missing.start % SHARD else []
    for start in range(missing.start, missing.stop, batch_size):
        count = min(batch_size, missing.stop - start)
        seeds = image_seeds(about["seed"], start, count)
        parts.append(make_pairs(model, about["image_shape"], about["steps"], seeds, dtype))
        progress.update(count)
    with write_whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def begin_folder(folder: Path, about: dict[str, Any]) -> None:
    """Write pairs.json. Raises UserError where the folder holds pairs made in another way."""
    if (folder / ABOUT).is_file():
        there = read_about(folder)
        others = [f"{name} {there[name]} there, {about[name]} here" for name in IDENTITY if there[name] != about[name]]
        if others:
            raise UserError(f"{folder} holds other pairs: {'; '.join(others)}; choose another --out")
    for left_over in folder.glob(".*.partial"):  # of a killed process
        left_over.unlink()
    with write_whole(folder / ABOUT) as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n")


def missing_pairs(folder: Path, about: dict[str, Any]) -> list[tuple[Path, range]]:
    """The files that lack pairs, and which they lack. A damaged file is named and deleted: it lacks all."""
    missing = []
    for path, wanted in shards(folder, about["count"]):
        held = 0
        if path.is_file():
            try:
                held = len(read_shard(path, about, ["seeds"])["seeds"])
            except UserError as error:
                print(f"warning: {error}")
                path.unlink()
        if held < len(wanted):
            missing.append((path, wanted[held:]))
    return missing


def image_shape(source: Path, image_size: int | None) -> list[int]:
    """[3, H, W] of the teacher's images: --image_size, else what its run says. UserError where neither does."""
    if image_size:
        return [3, image_size, image_size]
    folder = source if source.is_dir() else source.parent
    told = folder / "training_config.json"
    shape = load_json(told).get("image_shape") if told.is_file() else None
    if shape is None:
        raise UserError(f"{source}: no training_config.json beside it says how large its images are: give --image_size")
    return list(shape)


def file_sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, metavar="RUN", help="the run, or checkpoint, that makes the images")
    parser.add_argument("--count", type=number(int, 1), required=True, help="how many pairs the folder shall hold")
    parser.add_argument("--steps", type=number(int, 1), required=True, help="steps of the teacher's sampler")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to")
    parser.add_argument(
        "--batch_size", type=number(int, 1), default=64, help="images at a time; changes them by rounding alone"
    )
    parser.add_argument("--image_size", type=number(int, 1), help="height and width, where the teacher's run does not say it")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="auto is that of the pairs in the folder, in a new one bf16 where the processor has it",
    )
    parser.add_argument("--seed", type=number(int, 0), default=0, help="fixes every pair's noise")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with join(args.device) as (team, device):
        run(args, team, device)


def run(args: argparse.Namespace, team: Team, device: torch.device) -> None:
    source, folder = Path(args.teacher), Path(args.out)
    checkpoint = source / "last.ckpt" if source.is_dir() else source
    if not checkpoint.is_file():
        raise UserError(f"--teacher {source}: no checkpoint at {checkpoint}")
    shape = image_shape(source, args.image_size)
    model = load_teacher(source, shape, create_custom_model, device).eval().to(memory_format=torch.channels_last)
    precision = args.precision
    if precision == "auto" and (folder / ABOUT).is_file():
        precision = precision_flag(read_about(folder)["precision"])
    about = {
        "teacher": str(source),
        "teacher_sha256": file_sha256(checkpoint) if team.is_first else None,
        "teacher_options": load_json(checkpoint.parent / "model_config.json"),
        "steps": args.steps,
        "seed": args.seed,
        "image_shape": shape,
        "precision": precision_name(resolve_precision(precision, device)),
        "count": args.count,
    }
    about = team.first_says(about)
    dtype = resolve_precision(precision_flag(about["precision"]), device)
    if team.is_first:
        begin_folder(folder, about)
    missing = team.first_says(missing_pairs(folder, about) if team.is_first else None)
    there = args.count - sum(len(pairs) for _, pairs in missing)
    team.say(f"{folder}: {there} of {args.count} pairs are there; {type(model).__name__} on {device}, {about['precision']}")
    mine = missing[team.share(len(missing))]
    total = sum(len(pairs) for _, pairs in mine)
    with tqdm(total=total, desc="pairs", unit="pair", disable=not team.is_first) as progress:
        for path, pairs in mine:
            fill_shard(path, pairs, model, about, args.batch_size, dtype, progress)
    team.wait()
    team.say(f"{folder}: {describe_pairs(folder)}")


if __name__ == "__main__":
    run_script(main)
