"""Every method on real faces at 32x32 with a small network, the same number of images each: FID at NFE 1, 2 and 4.

python -m recipes.mini --data_root FACES.zip

    --methods meanflow                  one row
    --options meanflow time_scale=20    a row of its own, of this method with these options

What is finished stays in results/mini/NAME, and the same command goes on where it stopped, in the middle of a method too. The
table, results/mini/mini.md, has all methods measured so far; the rest stands as docs/mini.md has it. Nothing is written into
docs/ without --docs docs.
"""

import argparse
import platform
import time
from datetime import date
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from recipes.shared import compare as compare
from recipes.shared.bench import Bench, Entry, with_all_methods, with_options
from src.challenges import get_challenge
from src.common.checkpoints import load_model
from src.common.cli import Parser, number, run_script
from src.common.devices import autocast, precision_name, resolve_device
from src.common.files import load_json, save_json, write_whole
from src.common.images import contact_sheet
from src.common.noise import image_seeds
from src.runs.folder import LAST

CHALLENGE = get_challenge("simpsons32")
STUDENT = 0.75  # of the images, for a student: 15 minutes where its teacher has 20, if its iterations cost no more than double
PAIRS, PAIR_STEPS = 6144, 16
ADVERSARIAL = {"ada_images": 50000, "feature_sigma": 0.05, "d_lr_scale": 4.0}
SHEET_COLUMNS = 12


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
ENTRIES = with_all_methods(ENTRIES)


def bench_of(args: argparse.Namespace, device: torch.device) -> Bench:
    """The bench of all rows; those of --options are added to args.methods."""
    entries, names = with_options(ENTRIES, args.options, CHALLENGE, args.out)
    args.methods = [*args.methods, *names]
    return Bench(CHALLENGE, entries, args.out, args.images, device, pairs=PAIRS, pair_steps=PAIR_STEPS)


def measure_entry(bench: Bench, name: str, reference: np.ndarray) -> dict[str, Any]:
    """FID of the entry's checkpoint in the precision of its training, and the images of its row of the sheet."""
    folder = bench.out / name
    model = load_model(folder / LAST, create_custom_model, bench.device).eval()
    dtype = bench.precision(name)
    evaluate = CHALLENGE.evaluation(reference, bench.device, batch_size=250)
    with torch.no_grad(), autocast(bench.device, dtype):
        shape, seeds = (SHEET_COLUMNS, *CHALLENGE.shape), image_seeds(42, 0, SHEET_COLUMNS)
        rows = [CHALLENGE.to_array(model.sample(shape, num_inference_timesteps=nfe, seeds=seeds)) for nfe in CHALLENGE.nfe]
        figures = evaluate(model)
    with write_whole(folder / "sheet.npy") as partial, open(partial, "wb") as file:
        np.save(file, np.stack(rows))
    result = {"precision": precision_name(dtype), **figures}
    save_json(result, folder / "result.json")
    return result


def run_entry(bench: Bench, name: str, images: np.ndarray, reference: np.ndarray) -> None:
    """Train and measure one row, and first what it needs, unless that is done."""
    bench.train(name, images)
    if not (bench.out / name / "result.json").is_file():
        result = measure_entry(bench, name, reference)
        print(", ".join(f"{key} {value:.1f}" for key, value in result.items() if key.startswith("fid_")), flush=True)


def write_report(bench: Bench, args: argparse.Namespace) -> None:
    """mini.md and images/mini.png: the methods measured so far, and in the table those of docs/mini.md beside them."""
    out, rows, num_reference = bench.out, bench.rows, args.num_reference
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
    head = f"| FID clean-fid, {num_reference} vs {num_reference}, {width}x{height} | "
    kept = compare.earlier_rows(compare.DOCS / "mini.md", head, results)
    lines = [
        "# Every method in small, on real faces",
        "",
        f"`{args.command}`, {about}, one seed. Simpsons faces at {width}x{height}, a U-Net of {network}, batch "
        f"{CHALLENGE.training['batch_size']}, {args.images:,} images. What a "
        "student's teacher saw is not counted with the student's. Minutes are those of the clock while it trained, whatever "
        "else the machine did.",
        "",
        head + " | ".join(f"NFE {nfe}" for nfe in CHALLENGE.nfe) + " | images | minutes | teacher | settings |",
        "|---" * (len(CHALLENGE.nfe) + 5) + "|",
    ]
    table = {name: line for name, (line, _) in kept.items()}
    for name, result in results.items():
        cells = [f"{result[f'fid_nfe{nfe}']:.1f}" for nfe in CHALLENGE.nfe]
        cells += [
            f"{bench.images_seen(name):,}",
            f"{bench.train_seconds(name) / 60:.1f}",
            bench.taught_by(name),
            bench.settings(name),
        ]
        table[name] = f"| `{name}` | {' | '.join(cells)} |"
    lines += sorted(table.values(), key=compare.first_number)
    lines += compare.tell_sources({name: source for name, (_, source) in kept.items()})
    missing = [name for name in rows if name not in table]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "![samples: three rows per method, NFE 1, 2, 4; one seed per column](images/mini.png)", ""]
    strips, labels = [], []
    for name in results:
        strips += list(np.load(out / name / "sheet.npy"))
        labels += [f"{name} {nfe}" for nfe in CHALLENGE.nfe]
    with write_whole(args.docs / "images" / "mini.png") as partial:
        contact_sheet(strips, labels, scale=1 if len(strips) > 40 else 2).save(partial, format="png")
    with write_whole(args.docs / "mini.md") as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join([*lines[4:], f"table: {args.docs / 'mini.md'}"]))


def parse() -> argparse.Namespace:
    choices = [name for name, entry in ENTRIES.items() if entry.row]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default=CHALLENGE.default_root, help="folder or zip file of the faces")
    compare.add_flags(parser, choices, "rows of the table, in this order", "mini")
    parser.add_argument("--images", type=number(int, 64), default=162688, help="images that each method sees in training")
    parser.add_argument("--num_reference", type=number(int, 2), default=1000, help="validation images and samples of each FID")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = compare.parse(parser, choices)
    shown = f" --images {args.images}" if args.images != parser.get_default("images") else ""
    args.command = f"python -m recipes.mini --data_root FACES.zip{shown}"
    return args


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    images, _ = CHALLENGE.load("train", args.data_root)
    reference = CHALLENGE.load("val", args.data_root)[0][: args.num_reference]
    bench = bench_of(args, device)
    for method in args.methods:
        start = time.perf_counter()
        run_entry(bench, method, images, reference)
        print(f"{method}: {(time.perf_counter() - start) / 60:.1f} minutes")
        write_report(bench, args)


if __name__ == "__main__":
    run_script(main)
