"""Every method on real faces at 32x32 with a small network, the same number of images each: FID at NFE 1, 2 and 4.

python -m recipes.mini --data_root FACES.zip

What is finished stays in results/mini/NAME, and the same command goes on where it stopped, in the middle of a method too. The
table and the sheet, of all methods measured so far, go to docs/.
"""

import argparse
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from src.challenges import get_challenge
from src.common.checkpoints import load_model
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import (
    autocast,
    precision_flag,
    precision_name,
    resolve_device,
    resolve_precision,
    seed_everything,
)
from src.common.files import PROJECT_ROOT, load_json, save_json, write_whole
from src.common.images import contact_sheet
from src.common.noise import image_seeds
from src.datasets.pairs import load_pairs
from src.methods import method_names
from src.runs import LAST, Run
from src.training.checkpoint import init_network, load_teacher
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.training.resume import read_resume
from src.training.saving import Previews

CHALLENGE = get_challenge("simpsons32")
STUDENT = 0.75  # of the images, for a student: 15 minutes where its teacher has 20, if its iterations cost no more than double
PAIRS, PAIR_STEPS = 6144, 16
ADVERSARIAL = {"ada_images": 50000, "feature_sigma": 0.05, "d_lr_scale": 4.0}
SHEET_COLUMNS = 12


@dataclass
class Entry:
    """One training: a row of the table, or a stage of one.

    Args:
        method: what is trained; by default the entry's name.
        options: of the method.
        training: fields of TrainingConfig that differ from the challenge's defaults.
        share: of --images, the images that it sees.
        after: the entry from whose network it starts.
        teacher: the entry that it learns from.
        pairs: the entry that makes the pairs that it learns from; it starts from that one's weights too.
        row: whether it is measured and shown.
    """

    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    after: str | None = None
    teacher: str | None = None
    pairs: str | None = None
    row: bool = True


ENTRIES = {
    "rectified_flow": Entry(options={"time_distribution": "logit_normal"}),
    "consistency_from_edm": Entry("edm", share=0.5, row=False),
    "consistency": Entry(share=0.5, after="consistency_from_edm"),
    "shortcut": Entry(
        options={
            "prediction": "data",
            "time_distribution": "logit_normal",
            "finest_steps": 8,
            "bootstrap_share": 0.4,
            "target_decay": 0.99,
        }
    ),
    "meanflow": Entry(options={"prediction": "data", "time_distribution": "uniform"}),
    "flow_map": Entry(
        options={"prediction": "data", "time_distribution": "logit_normal", "logit_mean": -0.5, "logit_std": 1.5}
    ),
    "edm": Entry(options={"solver": "euler"}),
    "reflow": Entry(share=STUDENT, pairs="rectified_flow"),
    "progressive": Entry(share=STUDENT, teacher="ddpm"),
    "cmt": Entry(share=0.55, teacher="edm"),
    "cmt+consistency": Entry("consistency", {"stages": 1, "q": 256.0}, {"lr": 1e-4}, share=STUDENT - 0.55, after="cmt"),
    "cmt+consistency+gdd": Entry(
        "gdd",
        options={**ADVERSARIAL, "tell_level": True},
        training={"lr": 5e-5},
        share=STUDENT / 4,
        after="cmt+consistency",
        teacher="edm",
    ),
    "ctm": Entry(options={"N": 8, "mu": 0.9}, training={"lr_warmup": 40}, share=STUDENT / 4, teacher="edm"),
    "ld3": Entry(share=0.02, teacher="edm"),
    "gdd": Entry(options=ADVERSARIAL, training={"lr": 2e-4}, share=STUDENT, teacher="edm"),
    "add": Entry(options={**ADVERSARIAL, "tell_level": True}, training={"lr": 2e-4}, share=STUDENT / 2, teacher="edm"),
}
ENTRIES |= {name: Entry() for name in method_names() if name not in ENTRIES and name != "custom"}


def needed(name: str) -> list[str]:
    """The entries that have to be trained before this one, each after what it needs itself."""
    entry = ENTRIES[name]
    before = [other for other in (entry.after, entry.teacher, entry.pairs) if other]
    return list(dict.fromkeys([entry for other in before for entry in (*needed(other), other)]))


def images_seen(name: str, images: int) -> int:
    """The images that the entry's network has seen, those of the networks it started from included."""
    entry = ENTRIES[name]
    return int(entry.share * images) + (images_seen(entry.after, images) if entry.after else 0)


def taught_by(name: str) -> str:
    """The entry that this one, or what it started from, learned from; "-" if there is none."""
    entry = ENTRIES[name]
    return entry.teacher or entry.pairs or (taught_by(entry.after) if entry.after else "-")


def train_one(name: str, out: Path, images: np.ndarray, count: int, device: torch.device) -> None:
    """Train an entry on its share of `count` images, or go on with what stands in its folder; nothing if that is done."""
    entry, folder = ENTRIES[name], out / name
    if (folder / "done").is_file():
        return
    training = {**CHALLENGE.training, **entry.training}
    steps = int(entry.share * count) // training["batch_size"]
    config = TrainingConfig(**{**training, "num_iterations": steps})
    method = entry.method or name
    network = {item.name: item.default for item in CHALLENGE.network_fields()}
    model_config = {"method": method, "challenge": CHALLENGE.name, **network, **entry.options}
    seed_everything(config.seed)
    model = create_custom_model(device, **model_config)
    model_config["use_additional_condition"] = model.network.use_additional_condition
    resume = Run(folder).can_resume
    if resume and (found := config.changes_from(read_resume(folder)["settings"])):
        raise UserError(f"{folder} was made with other settings: {'; '.join(found)}; remove it, or give another --out")
    start, seeds = entry.after, None
    if entry.pairs:
        start = entry.pairs
        images, seeds = make_pairs(out / entry.pairs, out / f"{entry.pairs}_pairs", device)
    if entry.teacher:
        teacher = load_teacher(out / entry.teacher, images.shape[1:], create_custom_model, device)
        model.set_teacher(teacher)
        if not start:
            model.start_from(teacher)
    if start and not resume:
        init_network(model.network, out / start)
    dtype = resolve_precision(precision_of(folder) if resume else "auto", device)
    words = f"{steps} steps of {config.batch_size}, {precision_name(dtype)}"
    print(f"== {name}: {words}{' (continued)' if resume else ''}", flush=True)
    previews = Previews(CHALLENGE.nfe, CHALLENGE.to_array, CHALLENGE.picture, CHALLENGE.preview_samples)
    more = {"noise_seeds": seeds, "previews": previews}
    trainer = Trainer(model, images, config, model_config, folder, device, dtype, **more)
    if not trainer.run(resume):
        raise KeyboardInterrupt
    (folder / "done").touch()


def precision_of(folder: Path) -> str:
    """The --precision that the training in this folder was begun in."""
    return precision_flag(Run(folder).training["precision"])


def make_pairs(teacher: Path, folder: Path, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's pairs, by the script that makes them: images float16 and the seeds of their noises."""
    flags = ["--count", PAIRS, "--steps", PAIR_STEPS, "--out", folder.resolve(), "--device", device]
    command = [sys.executable, "-m", "src.datasets.pairs", "--teacher", teacher.resolve(), *flags]
    subprocess.run(list(map(str, command)), check=True, cwd=PROJECT_ROOT)
    return load_pairs(folder)


def train_seconds(name: str, out: Path) -> float:
    """How long the entry trained, with the entries it started from, without its teacher."""
    entry = ENTRIES[name]
    return (Run(out / name).seconds() or 0.0) + (train_seconds(entry.after, out) if entry.after else 0.0)


def measure_entry(folder: Path, reference: np.ndarray, device: torch.device) -> dict[str, Any]:
    """FID of the folder's checkpoint in the precision of its training, and the images of its row of the sheet."""
    model = load_model(folder / LAST, create_custom_model, device).eval()
    dtype = resolve_precision(precision_of(folder), device)
    evaluate = CHALLENGE.evaluation(reference, device, batch_size=250)
    with torch.no_grad(), autocast(device, dtype):
        shape, seeds = (SHEET_COLUMNS, *CHALLENGE.shape), image_seeds(42, 0, SHEET_COLUMNS)
        rows = [CHALLENGE.to_array(model.sample(shape, num_inference_timesteps=nfe, seeds=seeds)) for nfe in CHALLENGE.nfe]
        figures = evaluate(model)
    with write_whole(folder / "sheet.npy") as partial, open(partial, "wb") as file:
        np.save(file, np.stack(rows))
    result = {"precision": precision_name(dtype), **figures}
    save_json(result, folder / "result.json")
    return result


def run_entry(name: str, args: argparse.Namespace, images: np.ndarray, reference: np.ndarray, device: torch.device) -> None:
    """Train and measure one row, and first what it needs, unless that is done."""
    out = Path(args.out)
    told = out / "images.json"
    if told.is_file() and load_json(told) != args.images:
        raise UserError(f"{out} holds trainings of {load_json(told)} images, not {args.images}: give another --out")
    save_json(args.images, told)
    for entry in (*needed(name), name):
        train_one(entry, out, images, args.images, device)
    if not (out / name / "result.json").is_file():
        result = measure_entry(out / name, reference, device)
        print(", ".join(f"{key} {value:.1f}" for key, value in result.items() if key.startswith("fid_")), flush=True)


def write_report(args: argparse.Namespace, num_reference: int) -> None:
    """docs/mini.md and docs/images/mini.png: the methods measured so far."""
    out = Path(args.out)
    rows = [name for name, entry in ENTRIES.items() if entry.row]
    results = {name: load_json(out / name / "result.json") for name in rows if (out / name / "result.json").is_file()}
    if not results:
        return
    precision = " and ".join(sorted({result["precision"] for result in results.values()}))
    threads = torch.get_num_threads()
    about = (
        f"{date.today()}, torch {torch.__version__}, {platform.machine()}, {threads} thread{'s' * (threads > 1)}, {precision}"
    )
    options, (_, height, width) = CHALLENGE.network_defaults, CHALLENGE.shape
    network = f"{options['ch']} channels x {list(options['ch_mult'])}, one block per level"
    lines = [
        "# Every method in small, on real faces",
        "",
        f"`{args.command}`, {about}, one seed. Simpsons faces at {width}x{height}, a U-Net of {network}, batch "
        f"{CHALLENGE.training['batch_size']}, {args.images:,} images. What a "
        "student's teacher saw is not counted with the student's. Minutes are those of the clock while it trained, whatever "
        "else the machine did.",
        "",
        f"| FID clean-fid, {num_reference} vs {num_reference}, {width}x{height} | "
        + " | ".join(f"NFE {nfe}" for nfe in CHALLENGE.nfe)
        + " | images | minutes | teacher | settings |",
        "|---" * (len(CHALLENGE.nfe) + 5) + "|",
    ]
    for name, result in sorted(results.items(), key=lambda item: item[1]["fid_nfe1"]):
        entry = ENTRIES[name]
        options = {**entry.options, **entry.training}
        words = [f"--{option}" if value is True else f"--{option} {value}" for option, value in options.items()]
        if entry.after:
            before = ENTRIES[entry.after]
            begun = entry.after if before.row else before.method
            words.append(f"begun as {begun} ({images_seen(entry.after, args.images):,} images)")
        cells = [f"{result[f'fid_nfe{nfe}']:.1f}" for nfe in CHALLENGE.nfe]
        cells += [
            f"{images_seen(name, args.images):,}",
            f"{train_seconds(name, out) / 60:.1f}",
            taught_by(name),
            " ".join(words),
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    missing = [name for name in rows if name not in results]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "![samples: three rows per method, NFE 1, 2, 4; one seed per column](images/mini.png)", ""]
    strips, labels = [], []
    for name in results:
        strips += list(np.load(out / name / "sheet.npy"))
        labels += [f"{name} {nfe}" for nfe in CHALLENGE.nfe]
    docs = Path(args.docs)
    with write_whole(docs / "images" / "mini.png") as partial:
        contact_sheet(strips, labels, scale=1 if len(strips) > 40 else 2).save(partial, format="png")
    with write_whole(docs / "mini.md") as partial:
        partial.write_text("\n".join(lines))
    print("\n".join(lines[4:]))


def parse() -> argparse.Namespace:
    choices = [name for name, entry in ENTRIES.items() if entry.row]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default=CHALLENGE.default_root, help="folder or zip file of the faces")
    parser.add_argument("--methods", nargs="+", choices=choices, default=choices, help="rows of the table, in this order")
    parser.add_argument("--images", type=number(int, 64), default=162688, help="images that each method sees in training")
    parser.add_argument("--num_reference", type=number(int, 2), default=1000, help="validation images and samples of each FID")
    parser.add_argument("--out", default="./results/mini", help="a folder for each method is made in here")
    parser.add_argument("--docs", default="./docs", help="where the table and the sheet go")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    shown = f" --images {args.images}" if args.images != parser.get_default("images") else ""
    args.command = f"python -m recipes.mini --data_root FACES.zip{shown}"
    return args


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    images, _ = CHALLENGE.load("train", args.data_root)
    reference = CHALLENGE.load("val", args.data_root)[0][: args.num_reference]
    for method in args.methods:
        start = time.perf_counter()
        run_entry(method, args, images, reference, device)
        print(f"{method}: {(time.perf_counter() - start) / 60:.1f} minutes")
        write_report(args, args.num_reference)


if __name__ == "__main__":
    run_script(main)
