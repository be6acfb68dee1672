"""Every method on six sets of points in the plane: what one, two, four and fifty network calls give, in a table and a figure.

    python -m benchmarks.toy2d                                 all of it, on two cores
    python -m benchmarks.toy2d --methods rectified_flow        one method; what is there already is not run again
    python -m benchmarks.toy2d --report_only                   table and figure of what is there

A run is one method on one set with one seed: train, sample, compare with held-out points. Its figures become a line of
OUT/runs.jsonl. Runs whose line is there are skipped, unless the method's file, its options here, the challenge or the training
have changed since. Shared files such as _paths.py are not watched: after a change there choose another --out.
"""

import hashlib
import inspect
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from src.challenges import _points as points_file
from src.challenges import get_challenge
from src.challenges import toy2d as challenge_file
from src.evaluation.points import chamfer, mmd, sliced_wasserstein
from src.methods import Method, get_method, method_names
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import EMA
from src.training.log import read_log
from src.utils import PROJECT_ROOT, Parser, UserError, number, run_script, seed_everything, write_whole

CHALLENGE = get_challenge("toy2d")
METRICS = {"chamfer": chamfer, "sliced_w2": sliced_wasserstein, "mmd": mmd}
SLOW_TIME = {"time_scale": 10.0}  # points need no fine sense of time: smooth in it, the network errs less
OPTIONS: dict[str, dict[str, Any]] = {  # what differs from a method's defaults, which are made for images in [-1, 1]
    "rectified_flow": SLOW_TIME,
    "ddpm": SLOW_TIME,
    "shortcut": {**SLOW_TIME, "bootstrap_share": 0.25, "target_decay": 0.99},  # 5,000 steps are few for an average of 1,000
    # the points' standard deviation is 2, four times that of images, and so are all noise levels
    "edm": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.2, "solver": "euler"},
    "consistency": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.3, "mid_sigma": 3.3, "stages": 6},
}
BATCH_SIZE = 128
LR = 1e-3
LR_DECAY = 0.5  # share of the steps over which it falls to 0: without, DDIM at NFE 50 was 18 to 26 away, with it 17
TRAIN_POINTS = 65536
TRAIN_SEED, HELD_OUT_SEED, FLOOR_SEEDS = 0, 1, (2, 3, 4)  # of the points; the runs' seeds are another matter
FIGURE_SETS = ("swiss_roll", "eight_gaussians")


@dataclass(frozen=True)
class Run:
    """One method on one set with one seed, which fixes initial weights, batches, noise and samples."""

    method: str
    data: str
    seed: int
    iterations: int

    def key(self) -> str:
        """Names the run and what its result depends on: two runs of one key are the same."""
        files = [inspect.getsourcefile(source) for source in (get_method(self.method), challenge_file, points_file)]
        source = b"".join(Path(file).read_bytes() for file in files)
        training = {"batch_size": BATCH_SIZE, "lr": LR, "lr_decay": LR_DECAY, "options": OPTIONS.get(self.method, {})}
        return json.dumps({**asdict(self), **training, "source": hashlib.sha256(source).hexdigest()[:12]}, sort_keys=True)

    def points_file(self, out: Path) -> Path:
        return out / "points" / f"{self.method}-{self.data}-{self.seed}-{self.iterations}.npz"


# ------------------------------------------------------------------------------------------------------------- a run


def train(run: Run) -> tuple[Method, EMA]:
    """Train the run's method on its points; the averages of its weights come with it. Nothing waits for a figure."""
    seed_everything(run.seed)
    cls = get_method(run.method)
    model = cls.from_options(CHALLENGE.network(bool(cls.needs_condition)), **OPTIONS.get(run.method, {}))
    points = torch.from_numpy(CHALLENGE.data[run.data](TRAIN_POINTS, TRAIN_SEED))
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    optimizers = {name: torch.optim.Adam(parameters, LR, model.betas(name), fused=True) for name, parameters in groups.items()}
    ema = EMA(model)
    schedule = TrainingConfig(lr=LR, lr_warmup=0, lr_decay=LR_DECAY, num_iterations=run.iterations)
    model.train()
    for step in range(1, run.iterations + 1):
        data = points[torch.randint(TRAIN_POINTS, (BATCH_SIZE,))]
        noise = torch.randn_like(data)
        for name, optimizer in optimizers.items():
            for other in optimizers.values():
                other.zero_grad(set_to_none=True)
            model.compute_loss(data, noise, step=step, total_steps=run.iterations, group=name).backward()
            torch.nn.utils.clip_grad_norm_(groups[name], 1.0, foreach=True)
            for options in optimizer.param_groups:
                options["lr"] = learning_rate(step, schedule) * model.lr_scale(name)
            optimizer.step()
        model.on_step_end(step, run.iterations)
        ema.update(step)
    return model.eval(), ema


def measure(samples: np.ndarray, held_out: np.ndarray) -> dict[str, float | None]:
    """The challenge's figures of samples against held-out points; None where samples are not finite."""
    finite = np.isfinite(samples).all()
    return {name: float(f"{METRICS[name](samples, held_out):.6g}") if finite else None for name in CHALLENGE.metrics}


def execute(run: Run, out: Path) -> dict[str, Any]:
    """Make a run and return its line; its samples are kept in out/points if it is of seed 0. A failure is told, not raised."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        model, ema = train(run)
        trained = time.perf_counter()
        held_out = CHALLENGE.data[run.data](CHALLENGE.num_samples, HELD_OUT_SEED)
        samples = {}
        with ema.applied(), torch.no_grad():
            for nfe in CHALLENGE.nfe:
                seed_everything(run.seed)
                samples[str(nfe)] = model.sample(held_out.shape, num_inference_timesteps=nfe).float().numpy()
        figures = {nfe: measure(points, held_out) for nfe, points in samples.items()}
        if run.seed == 0:
            with write_whole(run.points_file(out)) as partial, open(partial, "wb") as file:
                np.savez(file, **samples)
    except Exception:  # whatever a method raises, the others' runs go on
        return {"run": asdict(run), "error": traceback.format_exc()}
    return {
        "run": asdict(run),
        "key": run.key(),
        "figures": figures,
        "train_seconds": round(trained - start, 2),
        "seconds": round(time.perf_counter() - start, 2),
        "date": str(date.today()),
    }


def _execute(task: tuple[Run, Path]) -> dict[str, Any]:
    return execute(*task)


def results_of(tasks: list[tuple[Run, Path]], jobs: int) -> Iterator[dict[str, Any]]:
    """The lines of all runs as they end, made in this process or in `jobs` others of one thread each."""
    if jobs == 1:
        yield from map(_execute, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_execute, tasks)


# ----------------------------------------------------------------------------------------------------- what is stored


class Store:
    """OUT/runs.jsonl: one line a run, the latest of a key counts. A line that a killed bench left unfinished is dropped."""

    def __init__(self, out: Path):
        self.path = out / "runs.jsonl"
        rows = read_log(self.path)
        self.rows = {row["key"]: row for row in rows}
        with write_whole(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["key"]] = row
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def of(self, runs: Iterable[Run]) -> dict[Run, dict[str, Any]]:
        """Those of the runs that are stored."""
        keys = {run: run.key() for run in runs}
        return {run: self.rows[key] for run, key in keys.items() if key in self.rows}


# ---------------------------------------------------------------------------------------------------- table and figure


def values(done: dict[Run, dict[str, Any]], method: str, data: str, nfe: int, metric: str) -> list[float | None]:
    """One figure over the seeds that are there."""
    return [row["figures"][str(nfe)][metric] for run, row in done.items() if (run.method, run.data) == (method, data)]


def floor(data: str) -> dict[str, list[float]]:
    """The figures of fresh real points against the held-out ones, over FLOOR_SEEDS: what a perfect generator would reach."""
    draw, count = CHALLENGE.data[data], CHALLENGE.num_samples
    rows = [measure(draw(count, seed), draw(count, HELD_OUT_SEED)) for seed in FLOOR_SEEDS]
    return {name: [row[name] for row in rows] for name in CHALLENGE.metrics}


def short(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.{digits}g}"


def cell(found: list[float | None], spread: bool = True) -> str:
    """Mean and standard deviation over the seeds; "-" if there is none, "not finite" if one is not."""
    if not found:
        return "-"
    if None in found:
        return "not finite"
    return short(np.mean(found)) + (f" ± {short(np.std(found, ddof=1), 2)}" if spread and len(found) > 1 else "")


def verdicts(done: dict[Run, dict[str, Any]]) -> list[str]:
    """A line for each requirement of the challenge that a stored run speaks of: all its seeds have to reach it."""
    lines = []
    for requirement in CHALLENGE.passes:
        found = values(done, requirement.method, requirement.data, requirement.nfe, requirement.metric)
        if found:
            passed = all(value is not None and requirement.passes(value) for value in found)
            lines.append(f"- {requirement}: {cell(found)}, **{'pass' if passed else 'fail'}**")
    return lines


def table(runs: list[Run], done: dict[Run, dict[str, Any]], command: str) -> str:
    """The whole document: how it was made, what is missing, Chamfer distances, and the two other figures."""
    methods, sets = list(dict.fromkeys(run.method for run in runs)), list(dict.fromkeys(run.data for run in runs))
    count = len({run.seed for run in runs})
    seeds = f"{count} seeds ± their standard deviation" if count > 1 else "1 seed"
    head = " | ".join(f"NFE {nfe}" for nfe in CHALLENGE.nfe)
    rule = "|---" * (2 + len(CHALLENGE.nfe)) + "|"
    distances, others = [f"| points | method | {head} |", rule], [f"| points | method | {head} |", rule]
    for data in sets:
        for method in methods:
            found = {metric: [values(done, method, data, nfe, metric) for nfe in CHALLENGE.nfe] for metric in CHALLENGE.metrics}
            distances.append(f"| {data} | {method} | " + " | ".join(map(cell, found["chamfer"])) + " |")
            pairs = zip(found["sliced_w2"], found["mmd"], strict=True)
            cells = [f"{cell(w2, spread=False)} / {cell(kernel, spread=False)}" for w2, kernel in pairs]
            others.append(f"| {data} | {method} | " + " | ".join(cells) + " |")
        real = floor(data)
        columns = len(CHALLENGE.nfe) - 1
        distances.append(f"| {data} | *real points* | {cell(real['chamfer'])} |" + " |" * columns)
        pair = f"{cell(real['sliced_w2'], spread=False)} / {cell(real['mmd'], spread=False)}"
        others.append(f"| {data} | *real points* | {pair} |" + " |" * columns)
    missing = [run for run in runs if run not in done]
    dates = sorted({row["date"] for row in done.values()}) or ["no runs yet"]
    seconds = sum(row["seconds"] for row in done.values())
    lines = [
        "# Points in the plane",
        "",
        f"`{command}`, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, {processor()}: {len(done)} runs on one core "
        f"each, {seconds:.0f} core-seconds in all.",
        "",
        f"Every method learns {CHALLENGE.about}, with an MLP of three hidden layers of 128: {runs[0].iterations} iterations "
        f"of {BATCH_SIZE} points, Adam, learning rate {LR:g} falling over the last half, averaged weights. "
        f"{CHALLENGE.num_samples} samples are compared with as many held-out points. Figures are means over {seeds}; less is "
        f"better. *real points* are fresh draws against the same held-out points ({len(FLOOR_SEEDS)} draws): what a perfect "
        "generator would reach.",
    ]
    if missing:
        names = ", ".join(f"{run.method} on {run.data} seed {run.seed}" for run in missing[:12])
        more = f" and {len(missing) - 12} more" if len(missing) > 12 else ""
        lines += ["", f"**Missing: {len(missing)} of {len(runs)} runs**: {names}{more}."]
    if options := [f"{name} {json.dumps(OPTIONS[name])}" for name in methods if name in OPTIONS]:
        lines += ["", "Options that differ from the methods' defaults for images: " + "; ".join(options) + "."]
    lines += ["", "## Chamfer distance", "", "Squared distances to the nearest neighbour, summed both ways.", "", *distances]
    if found := verdicts(done):
        lines += ["", *found]
    lines += ["", "## Sliced Wasserstein-2 distance / squared MMD", "", *others]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The name of the processor and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)"


def figure(runs: list[Run], done: dict[Run, dict[str, Any]], out: Path, path: Path) -> None:
    """Samples of seed 0 over real points: a row a method, a column a NFE, the sets of FIGURE_SETS side by side."""
    import matplotlib.pyplot as plt

    methods, asked = list(dict.fromkeys(run.method for run in runs)), list(dict.fromkeys(run.data for run in runs))
    sets = [data for data in FIGURE_SETS if data in asked] or asked[:2]
    width, height = 1.7 * len(sets) * len(CHALLENGE.nfe), 1.7 * len(methods) + 0.5
    page, axes = plt.subplots(
        len(methods), len(sets) * len(CHALLENGE.nfe), figsize=(width, height), squeeze=False, layout="constrained"
    )
    for row, method in enumerate(methods):
        for column, (data, nfe) in enumerate(product(sets, CHALLENGE.nfe)):
            axis = axes[row, column]
            real = CHALLENGE.data[data](CHALLENGE.num_samples, HELD_OUT_SEED)
            axis.scatter(*real.T, s=1.5, c="0.82", linewidths=0)
            run = Run(method, data, 0, runs[0].iterations)
            if run in done and run.points_file(out).is_file():
                with np.load(run.points_file(out)) as samples:
                    axis.scatter(*samples[str(nfe)].T, s=1.5, c="C0", linewidths=0)
            edge = 1.25 * np.abs(real).max()
            axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"{data.replace('_', ' ')}\nNFE {nfe}" if nfe == CHALLENGE.nfe[0] else f"NFE {nfe}", fontsize=9)
            if column == 0:
                axis.set_ylabel(method, fontsize=9)
            for side in axis.spines.values():
                side.set_color("0.8")
    with write_whole(path) as partial:
        page.savefig(partial, format="png", dpi=110)
    plt.close(page)


def main() -> None:
    every = [name for name in method_names() if name != "custom"]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=every, default=every, help="what is trained")
    parser.add_argument("--sets", nargs="+", choices=list(CHALLENGE.data), default=list(CHALLENGE.data), help="on which points")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="how many seeds, from 0")
    parser.add_argument("--iterations", type=number(int, 1), default=5000, help="training steps of a run")
    parser.add_argument("--jobs", type=number(int, 1), default=2, help="runs at a time, one core each")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "results" / "toy2d", help="where runs are kept")
    parser.add_argument("--table", type=Path, default=PROJECT_ROOT / "docs" / "toy2d.md", help="the table's file")
    parser.add_argument("--figure", type=Path, default=PROJECT_ROOT / "docs" / "images" / "toy2d.png", help="the figure's file")
    parser.add_argument("--report_only", action="store_true", help="run nothing: table and figure of what is there")
    args = parser.parse_args()

    runs = [Run(*names, args.iterations) for names in product(args.methods, args.sets, range(args.seeds))]
    store = Store(args.out)
    done = store.of(runs)
    to_do = [] if args.report_only else [run for run in runs if run not in done]
    print(f"{len(runs)} runs, {len(done)} of them there already, {len(to_do)} to do")
    failed = []
    for count, row in enumerate(results_of([(run, args.out) for run in to_do], args.jobs), start=1):
        name = "{method} on {data}, seed {seed}".format(**row["run"])
        if "error" in row:
            failed.append(name)
            print(f"[{count}/{len(to_do)}] {name} failed:\n{row['error']}", flush=True)
            continue
        store.add(row)
        distances = ", ".join(f"{cell([found['chamfer']])} at NFE {nfe}" for nfe, found in row["figures"].items())
        print(f"[{count}/{len(to_do)}] {name}: {row['seconds']:.1f} s, Chamfer {distances}", flush=True)

    done = store.of(runs)
    command = [argument for argument in sys.argv[1:] if argument != "--report_only"]
    text = table(runs, done, shlex.join(["python", "-m", "benchmarks.toy2d", *command]))
    with write_whole(args.table) as partial:
        partial.write_text(text)
    figure(runs, done, args.out, args.figure)
    print("\n".join([f"table: {args.table}", f"figure: {args.figure}", *verdicts(done)]))
    if failed:
        raise UserError(f"{len(failed)} of {len(to_do)} runs failed, see above: {'; '.join(failed[:5])}")


if __name__ == "__main__":
    run_script(main)
