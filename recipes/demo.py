"""The demo: what the kit's few-step models draw in 1, 2 and 4 calls, and how a small model learns to draw.

    python -m recipes.demo

Minutes on two CPU cores. Everything that it makes lies in results/demo.
"""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from custom_model import create_custom_model
from src.challenges import find_challenge, get_challenge
from src.challenges.shared.images import ImageChallenge
from src.common.checkpoints import load_model
from src.common.cli import Parser, number, run_script
from src.common.devices import resolve_device, resolve_precision
from src.common.files import PROJECT_ROOT, write_whole
from src.common.images import contact_sheet
from src.common.sampling import fitting_batch_size, generate
from src.runs.folder import BEST, CURVES, LAST, Run
from src.runs.scores import last_scores

FEW = get_challenge().nfe  # calls
SEED, COLUMNS = 42, 16
STEPS = 720  # of the small model, two minutes on two cores; a multiple of 2 ** (MOMENTS - 1)
MOMENTS = 4  # of its training that are shown, each after twice the steps of the one before
NO_CLASS = "_no_class"  # how samples are called that a model with classes makes without one
TEACHER = "_teacher"  # how the names of those models end that need many calls
TRAINING = ["--challenge", "mnist", "--preset", "small"]
NEXT = (
    "python train.py --challenge mnist --preset laptop    # an hour on two cores: digits in 50 calls, FID about 6",
    "python train.py --list_methods                       # every few-step method of the kit; --method NAME takes it",
    "python train.py --preset single-gpu --dry_run        # the challenge itself, on a GPU: plan, memory and time",
)


@dataclass
class Shown:
    """A model, the samples that it made and their FIDs.

    Args:
        name: what the table calls it.
        checkpoint: its weights.
        samples: calls -> uint8 images (N, 3, H, W).
        fid: calls -> FID of these samples.
        known: calls -> the FID that was measured of more samples when the model was made, where there is one.
    """

    name: str
    checkpoint: Path
    challenge: ImageChallenge
    samples: dict[int, np.ndarray] = field(default_factory=dict)
    fid: dict[int, float] = field(default_factory=dict)
    known: dict[int, float] = field(default_factory=dict)


def few_step_checkpoints() -> list[Path]:
    """The models of checkpoints/, without those that are there for students to learn from."""
    found = sorted((PROJECT_ROOT / "checkpoints").glob(f"*/{BEST}"))
    return [checkpoint for checkpoint in found if not checkpoint.parent.name.endswith(TEACHER)]


def draw_samples(name: str, checkpoint: Path, count: int, device: torch.device) -> list[Shown]:
    """Sample a checkpoint in few calls, each from the same noise; where it has classes, by class in turn and without one."""
    challenge = find_challenge(None, checkpoint)
    model = load_model(checkpoint, create_custom_model, device).eval()
    dtype, batch = resolve_precision("auto", device), fitting_batch_size(250, device, challenge.cpu_batch_size)
    shown = [Shown(name, checkpoint, challenge, known=last_scores(Run.of(checkpoint)))]
    ways: list[list[int] | None] = [None]
    if getattr(model, "num_classes", 0):
        shown.append(Shown(f"{name}{NO_CLASS}", checkpoint, challenge))
        ways.append([0])
    for each, classes in zip(shown, ways, strict=True):
        for nfe in FEW:
            parts = generate(model, challenge.known_shape, nfe, count, batch, SEED, dtype, classes=classes)
            each.samples[nfe] = np.concatenate([challenge.to_array(part) for part in parts])
    return shown


def save_picture(rows: Sequence[np.ndarray], labels: Sequence[str], path: Path, scale: int = 2) -> None:
    with write_whole(path) as partial:
        contact_sheet(rows, labels, scale).save(partial, format="png")
    print(f"   look at {path}", flush=True)


def measure(shown: Shown, device: torch.device) -> None:
    """FID of the samples at each number of calls."""
    challenge = shown.challenge
    reference = challenge.read_reference(challenge.default_root, challenge.reference_dir())
    judge = challenge.load_feature_network(device)
    for nfe, samples in shown.samples.items():
        scores = challenge.measure(samples, reference, judge, metrics=[challenge.metric], verbose=True)
        shown.fid[nfe] = scores[challenge.metric]


def train(out: Path, steps: int, more: Sequence[str]) -> Run:
    """Train the small model by the script that everybody trains with, with a preview at each moment that is shown."""
    interval = max(steps // 2 ** (MOMENTS - 1), 1)
    flags = [*TRAINING, "--num_iterations", steps, "--save_interval", interval, "--save_dir", out, "--run_name", "training"]
    words = ["train.py", *map(str, flags), *more]
    print(f"   python {shlex.join(words)}", flush=True)
    if code := subprocess.call([sys.executable, *words], cwd=PROJECT_ROOT):
        sys.exit(code)  # it has said why
    return Run(out / "training")


def row_of_sheet(sheet: Image.Image, row: int, rows: int, columns: int) -> np.ndarray:
    """The images of one of the rows of a contact sheet of square images, as it shows them: uint8 (columns, 3, S, S)."""
    size = sheet.height // rows
    left = sheet.width - columns * size
    strip = np.asarray(sheet.convert("RGB").crop((left, row * size, sheet.width, (row + 1) * size)))
    return strip.reshape(size, columns, size, 3).transpose(1, 3, 0, 2)


def learning(run: Run) -> tuple[list[np.ndarray], list[str]]:
    """The same noise through a run's model as it learns, at the run's most few calls: rows of images, and their labels."""
    challenge = get_challenge(run.challenge)
    last = max(run.previews())
    moments = [step for step in run.previews() if step and last % step == 0 and (last // step).bit_count() == 1]
    row = challenge.nfe.index(FEW[-1])
    sheets = [Image.open(run.previews()[step]) for step in moments]
    rows = [row_of_sheet(sheet, row, len(challenge.nfe), challenge.preview_samples) for sheet in sheets]
    return rows, [f"step {step}" for step in moments]


def table(models: Sequence[Shown], count: int) -> list[str]:
    """FIDs in few calls: of the samples made now, and those known of more; lines of Markdown."""
    lines = [f"| FID | {' | '.join(f'NFE {nfe}' for nfe in FEW)} |", "|---" * (len(FEW) + 1) + "|"]
    for shown in models:
        metric = shown.challenge.metrics[shown.challenge.metric]
        lines.append(f"| {shown.name}, {count} images, {metric} | {' | '.join(f'{shown.fid[nfe]:.1f}' for nfe in FEW)} |")
        if all(nfe in shown.known for nfe in FEW):
            cells = " | ".join(f"{shown.known[nfe]:.1f}" for nfe in FEW)
            lines.append(f"| the same model, of more images: its metrics.jsonl | {cells} |")
    return lines


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="what was there before is replaced")
    parser.add_argument("--count", type=number(int, COLUMNS), default=128, help="images of each FID")
    parser.add_argument("--steps", type=number(int, 1), default=STEPS, help="of the small model's training")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--ch", type=number(int, 1), help="channels of the small model, in the place of the preset's")
    args = parser.parse_args()
    start, device, out = time.perf_counter(), resolve_device(args.device), args.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    print("== 1. Trained models that the kit brings along, in few calls")
    models = []
    for checkpoint in few_step_checkpoints():
        for shown in draw_samples(checkpoint.parent.name, checkpoint, args.count, device):
            models.append(shown)
            rows = [samples[:COLUMNS] for samples in shown.samples.values()]
            save_picture(rows, [f"NFE {nfe}" for nfe in FEW], out / f"{shown.name}.png")
    for shown in models:
        measure(shown, device)

    print("== 2. A small model learns")
    run = train(out.resolve(), args.steps, ["--device", args.device, *(["--ch", str(args.ch)] if args.ch else [])])
    save_picture(*learning(run), out / "learning.png", scale=1)
    print(f"   look at {out / run.folder.name / CURVES}", flush=True)
    models += draw_samples("the small model", run.folder / LAST, args.count, device)
    measure(models[-1], device)

    lines = table(models, args.count)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    minutes = (time.perf_counter() - start) / 60
    print("\n".join(["", *lines, "", f"{minutes:.1f} minutes. Pictures, table and the run: {out}. To go on:", "", *NEXT]))


if __name__ == "__main__":
    run_script(main)
