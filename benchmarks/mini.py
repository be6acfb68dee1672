"""Every method on real faces at 32x32 with a small network, the same number of images each: FID at NFE 1, 2 and 4.

python -m benchmarks.mini --data_root FACES.zip

What is finished stays in results/mini/METHOD, and the same command goes on where it stopped, in the middle of a method too. The
table and the sheet, of all methods measured so far, go to docs/.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from dataset import DEFAULT_ROOT, split_ids
from src.datasets.images import load_images
from src.evaluation.development import DevelopmentFID
from src.evaluation.weights import load_inception
from src.methods import method_names
from src.training.checkpoint import has_resume, init_network, read_resume
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.utils import (
    Parser,
    UserError,
    autocast,
    contact_sheet,
    image_seeds,
    load_json,
    load_model,
    number,
    precision_name,
    resolve_device,
    resolve_precision,
    run_script,
    seed_everything,
    to_uint8,
    write_whole,
)

SIZE = 32
NETWORK = {"ch": 32, "ch_mult": [1, 2, 2], "attn": [1], "num_res_blocks": 1, "dropout": 0.0}
TRAINING = {"batch_size": 64, "lr": 5e-4, "lr_warmup": 200, "lr_decay": 0.3, "ema_half_lives": [0.03], "log_interval": 50}
NFES = (1, 2, 4)
SHEET_COLUMNS = 12


@dataclass
class Entry:
    """How a method takes part: its options, and the method its network learns with first, for a share of the images."""

    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    first: str | None = None
    first_share: float = 0.5


ENTRIES = {
    "rectified_flow": Entry({"time_distribution": "logit_normal"}),
    "consistency": Entry(first="edm"),
}


def train_one(method: str, folder: Path, images: np.ndarray, count: int, device: torch.device, source: Path | None) -> None:
    """Train on `count` images in all, or go on with what stands in folder."""
    entry = ENTRIES.get(method, Entry())
    training = {**TRAINING, **entry.training}
    steps = count // training["batch_size"]
    config = TrainingConfig(num_iterations=steps, save_interval=max(steps // 4, 1), **training)
    model_config = {"method": method, **NETWORK, **entry.options}
    seed_everything(config.seed)
    model = create_custom_model(device, **model_config)
    model_config["use_additional_condition"] = model.network.use_additional_condition
    resume = has_resume(folder)
    if resume and (found := config.differences(read_resume(folder)["settings"])):
        raise UserError(f"{folder} was made with other settings: {'; '.join(found)}; remove it, or give another --out")
    if source and not resume:
        init_network(model.network, source)
    print(f"== {method}: {steps} steps of {config.batch_size}{' (continued)' if resume else ''}")
    trainer = Trainer(model, images, config, model_config, folder, device, resolve_precision("auto", device))
    if not trainer.run(resume):
        raise KeyboardInterrupt


def measure(folder: Path, reference: np.ndarray, count: int, device: torch.device) -> dict[str, Any]:
    """FID of the folder's checkpoint, and the images of its row of the sheet."""
    model = load_model(folder / "last.ckpt", create_custom_model, device).eval()
    dtype = resolve_precision("auto", device)
    evaluate = DevelopmentFID(reference, load_inception(device=device), NFES, batch_size=8 if device.type == "cpu" else 250)
    with torch.no_grad(), autocast(device, dtype):
        shape, seeds = (SHEET_COLUMNS, 3, SIZE, SIZE), image_seeds(42, 0, SHEET_COLUMNS)
        rows = [to_uint8(model.sample(shape, num_inference_timesteps=nfe, seeds=seeds)).cpu().numpy() for nfe in NFES]
        figures = evaluate(model)
    with write_whole(folder / "sheet.npy") as partial, open(partial, "wb") as file:
        np.save(file, np.stack(rows))
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    result = {"images": count, "seconds": last["seconds"], "precision": precision_name(dtype), **figures}
    with write_whole(folder / "result.json") as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


def run_method(method: str, args: argparse.Namespace, images: np.ndarray, reference: np.ndarray, device: torch.device) -> None:
    """Train and measure one method, its first stage too, unless that is done."""
    folder, entry = Path(args.out) / method, ENTRIES.get(method, Entry())
    if (folder / "result.json").is_file():
        done = load_json(folder / "result.json")
        if done["images"] != args.images:
            raise UserError(f"{folder} has seen {done['images']} images, not {args.images}: remove it, or give another --out")
        return
    count, source = args.images, None
    if entry.first:
        source = Path(args.out) / f"{method}_from_{entry.first}"
        first_count = int(entry.first_share * args.images)
        if not (source / "done").is_file():
            train_one(entry.first, source, images, first_count, device, None)
            (source / "done").touch()
        count -= first_count
    train_one(method, folder, images, count, device, source)
    result = measure(folder, reference, args.images, device)
    if source:
        result["seconds"] += json.loads((source / "log.jsonl").read_text().splitlines()[-1])["seconds"]
        with write_whole(folder / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")
    print(", ".join(f"{key} {value:.1f}" for key, value in result.items() if key.startswith("fid_")))


def write_report(args: argparse.Namespace, num_reference: int) -> None:
    """docs/mini.md and docs/images/mini.png: the methods measured so far."""
    results = {
        method: load_json(Path(args.out) / method / "result.json")
        for method in method_names()
        if (Path(args.out) / method / "result.json").is_file()
    }
    if not results:
        return
    images = next(iter(results.values()))["images"]
    precision = next(iter(results.values()))["precision"]
    about = f"{date.today()}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {precision}"
    network = f"{NETWORK['ch']} channels x {NETWORK['ch_mult']}, one block a level"
    lines = [
        "# Every method in small, on real faces",
        "",
        f"`{args.command}`, {about}, one seed. Simpsons faces at {SIZE}x{SIZE}, a U-Net of {network}, batch "
        f"{TRAINING['batch_size']}, {images:,} images each.",
        "",
        f"| FID clean-fid, {num_reference} vs {num_reference}, 32x32 | NFE 1 | NFE 2 | NFE 4 | minutes | settings |",
        "|---|---|---|---|---|---|",
    ]
    for method, result in sorted(results.items(), key=lambda item: item[1]["fid_nfe1"]):
        entry = ENTRIES.get(method, Entry())
        words = " ".join(f"--{name} {value}" for name, value in {**entry.options, **entry.training}.items())
        if entry.first:
            words = f"{words} {entry.first_share:.0%} of the images as {entry.first}".strip()
        cells = [f"{result[f'fid_nfe{nfe}']:.1f}" for nfe in NFES]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {result['seconds'] / 60:.1f} | {words} |")
    missing = [name for name in method_names() if name not in results and name != "custom"]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "![samples: three rows a method, NFE 1, 2, 4; the same seeds a column](images/mini.png)", ""]
    rows, labels = [], []
    for method in results:
        sheet = np.load(Path(args.out) / method / "sheet.npy")
        rows += list(sheet)
        labels += [f"{method} {nfe}" for nfe in NFES]
    docs = Path(args.docs)
    with write_whole(docs / "images" / "mini.png") as partial:
        contact_sheet(rows, labels, scale=1 if len(rows) > 40 else 2).save(partial, format="png")
    with write_whole(docs / "mini.md") as partial:
        partial.write_text("\n".join(lines))
    print("\n".join(lines[4:]))


def parse() -> argparse.Namespace:
    choices = [name for name in method_names() if name != "custom"]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default=DEFAULT_ROOT, help="folder or zip file of the faces")
    parser.add_argument("--methods", nargs="+", choices=choices, default=choices, help="in this order")
    parser.add_argument("--images", type=number(int, 64), default=162688, help="images that each method sees in training")
    parser.add_argument("--num_reference", type=number(int, 2), default=1000, help="validation images and samples of each FID")
    parser.add_argument("--out", default="./results/mini", help="a folder for each method is made in here")
    parser.add_argument("--docs", default="./docs", help="where the table and the sheet go")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    shown = f" --images {args.images}" if args.images != parser.get_default("images") else ""
    args.command = f"python -m benchmarks.mini --data_root FACES.zip{shown}"
    return args


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    images = load_images(args.data_root, split_ids("train"), SIZE)
    reference = load_images(args.data_root, split_ids("val")[: args.num_reference], SIZE)
    for method in args.methods:
        start = time.perf_counter()
        run_method(method, args, images, reference, device)
        print(f"{method}: {(time.perf_counter() - start) / 60:.1f} minutes")
        write_report(args, args.num_reference)


if __name__ == "__main__":
    run_script(main)
