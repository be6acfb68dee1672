"""Every method on handwritten digits at full size, the same number of images each: FID at NFE 1, 2, 4 and 50, and a sheet.

python -m recipes.digits

    --methods meanflow                  one row
    --options meanflow time_scale=20    a row of its own, of this method with these options

What is finished stays in results/digits/NAME, and the same command goes on where it stopped, in the middle of a method too. The
table, results/digits/digits.md, has all methods measured so far; the rest stands as docs/digits.md has it, where that was
measured with as many samples. Nothing is written into docs/ without --docs docs. Once all rows are measured, the three best
are trained with two more seeds.
"""

import argparse
import math
import platform
import statistics
import time
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from recipes.shared import compare as compare
from recipes.shared.bench import Bench, Entry, with_all_methods, with_options
from src.challenges import get_challenge
from src.common.checkpoints import load_model
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import precision_name, resolve_device
from src.common.files import load_json, save_json, write_whole
from src.common.images import contact_sheet
from src.common.sampling import fitting_batch_size, generate
from src.methods import METHODS
from src.runs.folder import LAST

CHALLENGE = get_challenge("mnist")
*FEW, MANY = CHALLENGE.nfe
PAIR_STEPS = 16
BEST = 3  # rows that are trained with more seeds
SHEET_COLUMNS, SAMPLE_SEED = 20, 42
BEGIN, END = "<!-- recipes.digits: begin -->", "<!-- recipes.digits: end -->"  # of what is written anew in docs/digits.md

DATA = {"prediction": "data", "time_distribution": "logit_normal"}
FLOW = {"preconditioning": "flow"}  # of students, so that they start as the rectified flow that teaches them
ADVERSARIAL = {"ada_images": 200000, "feature_sigma": 0.05, "d_lr_scale": 4.0}
DENOISING = {"later_calls": "denoise", "mid_sigma": 0.35, "mid_span": 2.3, "mid_share": 0.25}  # of gdd
ENTRIES = with_all_methods(
    {
        "rectified_flow": Entry(options={"time_distribution": "logit_normal"}),
        "ddpm": Entry(),
        "edm": Entry(options={"solver": "euler"}),
        "shortcut": Entry(options={**DATA, "finest_steps": 8, "bootstrap_share": 0.4, "target_decay": 0.99}),
        "meanflow": Entry(options={"prediction": "data"}),
        "flow_map": Entry(options={**DATA, "logit_mean": -0.5, "logit_std": 1.5}),
        "consistency_from_edm": Entry("edm", share=0.5, row=False),
        "consistency": Entry(share=0.5, after="consistency_from_edm"),
        "reflow": Entry(pairs="rectified_flow"),
        "progressive": Entry(teacher="ddpm"),
        "cmt": Entry(options=FLOW, teacher="rectified_flow", share=0.7),
        "cmt+consistency": Entry("consistency", {**FLOW, "stages": 1, "q": 256.0}, {"lr": 1e-4}, share=0.3, after="cmt"),
        "ctm": Entry(options={**FLOW, "N": 8, "mu": 0.9}, teacher="rectified_flow", share=0.3),
        "ld3": Entry(options=FLOW, teacher="rectified_flow", share=0.02),
        "gdd": Entry(options={**FLOW, **ADVERSARIAL, **DENOISING}, training={"lr": 2e-4}, teacher="rectified_flow"),
        "cmt+gdd": Entry(
            "gdd", {**FLOW, **ADVERSARIAL, **DENOISING}, {"lr": 2e-4}, share=0.3, after="cmt", teacher="rectified_flow"
        ),
        "add": Entry(options={**FLOW, **ADVERSARIAL, "tell_level": True}, training={"lr": 2e-4}, teacher="rectified_flow"),
    }
)


def nfes(name: str, entry: Entry) -> list[int]:
    """The numbers of calls at which a row is measured."""
    return FEW if METHODS.get(entry.method or name).few_calls else [*FEW, MANY]


def measure_row(bench: Bench, name: str, reference: Any, judge: Any, count: int) -> dict[str, Any]:
    """FID of `count` samples at each NFE, in the precision of the training; NFEs that are measured already stay as they are."""
    file = bench.out / name / "result.json"
    result = load_json(file) if file.is_file() else {}
    if result.get("num_samples", count) != count:
        raise UserError(f"{file} has FIDs of {result['num_samples']} samples, not {count}: give another --out")
    dtype = bench.precision(name)
    result |= {"precision": precision_name(dtype), "num_samples": count}
    model = None
    for nfe in nfes(name, bench.entries[name]):
        if f"fid_nfe{nfe}" in result:
            continue
        model = model or load_model(bench.out / name / LAST, create_custom_model, bench.device).eval()
        batch = fitting_batch_size(CHALLENGE.batch_size, bench.device, CHALLENGE.cpu_batch_size)
        parts = generate(model, CHALLENGE.shape, nfe, count, batch, SAMPLE_SEED, dtype)
        samples = np.concatenate([CHALLENGE.to_array(part) for part in parts])
        score = CHALLENGE.measure(samples, reference, judge, batch_size=64, verbose=True)[CHALLENGE.metric]
        with write_whole(bench.out / name / f"sheet_nfe{nfe}.npy") as partial, open(partial, "wb") as stream:
            np.save(stream, samples[:SHEET_COLUMNS])
        result[f"fid_nfe{nfe}"] = score
        save_json(result, file)
        print(f"{name}, seed {bench.seed}, NFE {nfe}: FID {score:.2f}", flush=True)
    return result


def results_of(bench: Bench) -> dict[str, dict[str, Any]]:
    """Row -> its result, of the rows that are measured at all their NFEs."""
    found = {}
    for name in bench.rows:
        file = bench.out / name / "result.json"
        result = load_json(file) if file.is_file() else {}
        if all(f"fid_nfe{nfe}" in result for nfe in nfes(name, bench.entries[name])):
            found[name] = result
    return found


def best_rows(results: dict[str, dict[str, Any]]) -> list[str]:
    """The best rows by the geometric mean of their FIDs in few calls."""
    return sorted(results, key=lambda name: sum(math.log(max(results[name][f"fid_nfe{nfe}"], 1e-9)) for nfe in FEW))[:BEST]


def seeded(bench: Bench, index: int) -> Bench:
    """The bench of another seed, with the same teachers; index 0 is the bench itself."""
    return bench if index == 0 else replace(bench, out=bench.out / f"seed_{index}", seed=bench.seed + index, shared=bench.out)


# ----------------------------------------------------------------------------------------------------------- the report


def table(bench: Bench, args: argparse.Namespace) -> list[str]:
    """What digits.md says of the methods measured so far, and of those that docs/digits.md has beside them: lines."""
    results = results_of(bench)
    count = f"{args.num_samples:,} samples against the training images."
    kept = compare.earlier_rows(compare.DOCS / "digits.md", count, results)
    more = [results_of(seeded(bench, index)) for index in range(1, args.seeds)]
    precision = " and ".join(sorted({result["precision"] for result in results.values()}))
    threads = torch.get_num_threads()
    machine = f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}, {precision}"
    lines = [
        f"`{args.command}`, {date.today()}, torch {torch.__version__}, {machine}. {args.images:,} images each, batch "
        f"{CHALLENGE.training['batch_size']}; what a student's teacher saw is not counted with the student's. "
        f"{count} Where there is ±, it is the standard deviation over seeds "
        "of the student alone: its teacher is the same. Minutes are those of the clock while it trained, whatever else the "
        "machine did.",
        "",
        f"| FID | {' | '.join(f'NFE {nfe}' for nfe in (*FEW, MANY))} | seeds | images | minutes | teacher | settings |",
        "|---" * 10 + "|",
    ]
    rows = {name: line for name, (line, _) in kept.items()}
    for name in results:
        runs = [results[name], *(other[name] for other in more if name in other)]
        cells = []
        for nfe in (*FEW, MANY):
            values = [run[f"fid_nfe{nfe}"] for run in runs if f"fid_nfe{nfe}" in run]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}" if values else "-")
        cells += [
            str(len(runs)),
            f"{bench.images_seen(name):,}",
            f"{bench.train_seconds(name) / 60:.1f}",
            bench.taught_by(name),
        ]
        rows[name] = f"| `{name}` | {' | '.join(cells)} | {bench.settings(name)} |"
    lines += sorted(rows.values(), key=compare.first_number)
    lines += compare.tell_sources({name: source for name, (_, source) in kept.items()})
    if missing := [name for name in bench.rows if name not in rows]:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    return [*lines, "", "![samples: three rows per method, NFE 1, 2, 4; one seed per column](images/digits.png)"]


def write_report(bench: Bench, args: argparse.Namespace) -> None:
    """The table in digits.md, in the place of the one before, and images/digits.png, of the methods measured so far."""
    if not (results := results_of(bench)):
        return
    strips, labels = [], []
    for name in results:
        for nfe in FEW:
            strips.append(np.load(bench.out / name / f"sheet_nfe{nfe}.npy"))
            labels.append(f"{name} {nfe}")
    with write_whole(args.docs / "images" / "digits.png") as partial:
        contact_sheet(strips, labels, scale=1).save(partial, format="png")
    lines = table(bench, args)
    file = args.docs / "digits.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# Handwritten digits\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise UserError(f"{file}: expected the lines {BEGIN} and {END}, between which the table is written")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    with write_whole(file) as partial:
        partial.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
    print("\n".join([*lines[2:], f"table: {file}"]))


def parse() -> argparse.Namespace:
    choices = [name for name, entry in ENTRIES.items() if entry.row]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default=CHALLENGE.default_root, help="folder of the digits, where there is one")
    compare.add_flags(parser, choices, "rows of the table, in this order", "digits")
    parser.add_argument("--images", type=number(int, 64), default=300000, help="images that each method sees in training")
    parser.add_argument("--num_samples", type=number(int, 2), default=CHALLENGE.num_samples, help="samples of each FID")
    parser.add_argument("--pairs", type=number(int, 1), default=20480, help="pairs of noise and image that reflow learns from")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help=f"seeds of the {BEST} best, once all rows are measured")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    args = compare.parse(parser, choices)
    told = [
        f"--{name} {getattr(args, name)}"
        for name in ("images", "num_samples", "pairs")
        if getattr(args, name) != parser.get_default(name)
    ]
    args.command = " ".join(["python -m recipes.digits", *told])
    return args


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    images = CHALLENGE.load("train", args.data_root)[0]
    judge = CHALLENGE.load_feature_network(device, args.inception)
    entries, names = with_options(ENTRIES, args.options, CHALLENGE, args.out)
    bench = Bench(CHALLENGE, entries, args.out, args.images, device, pairs=args.pairs, pair_steps=PAIR_STEPS)
    for name in [*args.methods, *names]:
        start = time.perf_counter()
        bench.train(name, images)
        measure_row(bench, name, images, judge, args.num_samples)
        print(f"{name}: {(time.perf_counter() - start) / 60:.1f} minutes")
        write_report(bench, args)
    results = results_of(bench)
    if len(results) < len(bench.rows):
        return
    for index in range(1, args.seeds):
        for name in best_rows(results):
            other = seeded(bench, index)
            other.train(name, images)
            measure_row(other, name, images, judge, args.num_samples)
            write_report(bench, args)


if __name__ == "__main__":
    run_script(main)
