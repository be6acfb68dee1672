"""Every method on six sets of points in the plane: what one, two, four and fifty network calls give, in a table and a figure.

    python -m benchmarks.toy2d                                 all of it, on two cores
    python -m benchmarks.toy2d --methods rectified_flow        one method; what is there already is not run again
    python -m benchmarks.toy2d --report_only                   table and figure of what is there

A run is one method on all sets with all seeds, trained as one network of as many independent members. Its figures become a line
of OUT/runs.jsonl. Runs whose line is there are skipped, unless the method's file, its options here, the challenge or the
training have changed since. Shared files such as _paths.py are not watched: after a change there choose another --out.
"""

import hashlib
import inspect
import json
import multiprocessing
import os
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
import torch

from benchmarks import toy2d_report as report
from src.challenges import _points as points_file
from src.challenges import get_challenge
from src.challenges import toy2d as challenge_file
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import seed_everything
from src.common.files import PROJECT_ROOT, load_json_lines, load_torch, save_torch, write_whole
from src.methods import Method, get_method, method_names
from src.training.config import TrainingConfig, learning_rate
from src.training.ema import EMA

CHALLENGE = get_challenge("toy2d")
SLOW_TIME = {"time_scale": 10.0}  # points need no fine sense of time: smooth in it, the network errs less
DDPM_OPTIONS = {"time_scale": 30.0, "shift": 0.5}  # noise levels for data of deviation 2: equal steps then lie finer near them
ADVERSARIAL = {"sigma_data": 2.0, "mid_sigma": 3.3, "feature_sigma": 0.3, "r1_gamma": 0.5, "r1_interval": 4, "tell_level": True}
OPTIONS: dict[str, dict[str, Any]] = {  # what differs from a method's defaults, which are made for images in [-1, 1]
    "rectified_flow": SLOW_TIME,
    "ddpm": DDPM_OPTIONS,
    "shortcut": {**SLOW_TIME, "bootstrap_share": 0.25, "target_decay": 0.99},  # 5,000 steps are few for an average of 1,000
    # the weight that divides by the error makes means into medians: at 0.75 the eight clusters shrink with every further step
    "meanflow": {"norm_p": 0.4},
    # the points' standard deviation is 2, four times that of images, and so are all noise levels
    "edm": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.2, "solver": "euler"},
    "consistency": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.3, "mid_sigma": 3.3, "stages": 6},
    "reflow": SLOW_TIME,
    "progressive": DDPM_OPTIONS,
    "cmt": {**SLOW_TIME, "sigma_data": 2.0, "mid_sigma": 3.1},
    "ctm": {**SLOW_TIME, "sigma_data": 2.0, "P_mean": 0.2, "mu": 0.99},
    "gdd": {**SLOW_TIME, **ADVERSARIAL},
    "add": {**SLOW_TIME, **ADVERSARIAL, "distill_weight": 0.16, "distill_mean": 1.2},
    "ld3": {**SLOW_TIME, "sigma_data": 2.0, "lr_scale": 5.0},  # at ten times the usual learning rate
}
TEACHERS = {"progressive": "ddpm", "reflow": "rectified_flow"}  # of methods that learn from one or from its pairs; else:
TEACHER = "edm"
PAIRS, PAIR_STEPS = 8192, 50  # of noise and point, that a teacher makes for each network of a method that learns from pairs
ALONE = {"ld3"}  # methods with parameters beside the network's: their networks are trained one after the other
# fewer than --iterations: ld3 learns a dozen numbers, and students whose steps cost most begin as their teacher
ITERATIONS = {"ld3": 200, "ctm": 2500, "gdd": 1500, "add": 1500}
BATCH_SIZE = 128
LR = 1e-3
LR_DECAY = 0.5  # share of the steps over which it falls to 0: without, DDIM ends farther from the points at NFE 50
GRAD_CLIP = 1.0
EMA_HALF_LIFE = 0.02  # share of the steps made
TRAIN_POINTS = 65536
TRAIN_SEED = 0  # of the points, others are in the report; the networks' seeds are another matter


@dataclass(frozen=True)
class Run:
    """One method on these sets, with this many networks a set that share nothing: weights, batches, noise, samples differ."""

    method: str
    sets: tuple[str, ...]
    seeds: int
    iterations: int

    @property
    def members(self) -> list[str]:
        """The set of each network."""
        return [data for data in self.sets for _ in range(self.seeds)]

    @property
    def groups(self) -> list[slice]:
        """The members that are trained as one, group after group."""
        count = len(self.members)
        return [slice(i, i + 1) for i in range(count)] if self.method in ALONE else [slice(0, count)]

    @property
    def steps(self) -> int:
        return min(self.iterations, ITERATIONS.get(self.method, self.iterations))

    @property
    def teacher(self) -> "Run | None":
        cls = get_method(self.method)
        if not (cls.needs_teacher or cls.needs_pairs):
            return None
        return Run(TEACHERS.get(self.method, TEACHER), self.sets, self.seeds, self.iterations)

    def key(self) -> str:
        """Names the run and what its result depends on: two runs of one key are the same."""
        files = [inspect.getsourcefile(source) for source in (get_method(self.method), challenge_file, points_file)]
        source = b"".join(Path(file).read_bytes() for file in files)
        training = {
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "lr_decay": LR_DECAY,
            "ema": EMA_HALF_LIFE,
            "options": OPTIONS.get(self.method, {}),
        }
        about = {**asdict(self), "steps": self.steps, **training, "source": hashlib.sha256(source).hexdigest()[:12]}
        if self.teacher:
            about["teacher"] = self.teacher.key()
        return json.dumps(about, sort_keys=True)

    def file(self, out: Path, kind: str) -> Path:
        return out / kind / f"{self.method}-{hashlib.sha256(self.key().encode()).hexdigest()[:12]}"


# ------------------------------------------------------------------------------------------------------------- a run


def build(run: Run, group: slice, out: Path) -> Method:
    """The model of these members, with fresh weights; a student's teacher, and where they fit its weights, from OUT/weights."""
    cls = get_method(run.method)
    network = CHALLENGE.network(use_additional_condition=bool(cls.needs_condition), members=len(run.members[group]))
    model = cls.from_options(network, **OPTIONS.get(run.method, {}))
    if run.teacher:
        teacher = trained(run.teacher, group, out)
        if model.needs_teacher:
            model.set_teacher(teacher)
        if model.parameterization == teacher.parameterization:
            own = model.network.state_dict()
            fitting = {name: value for name, value in teacher.network.state_dict().items() if value.shape == own[name].shape}
            model.network.load_state_dict({**own, **fitting})  # a second scalar's embedding is another one
    return model


def trained(run: Run, group: slice, out: Path) -> Method:
    """The model of these members as it was sampled, from OUT/weights."""
    model = build(run, group, out)
    weights = load_torch(run.file(out, "weights"))
    model.load_state_dict({name: value[group] for name, value in weights.items()})
    return model.eval()


def training_points(run: Run, group: slice, out: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Points of each member's set (members, N, 2) and, where the method learns from pairs, the noises they were made of."""
    sets = run.members[group]
    if not get_method(run.method).needs_pairs:
        points = {data: torch.from_numpy(CHALLENGE.data[data](TRAIN_POINTS, TRAIN_SEED)) for data in set(sets)}
        return torch.stack([points[data] for data in sets]), None
    with torch.no_grad():
        states = trained(run.teacher, group, out).sample((len(sets) * PAIRS, 2), PAIR_STEPS, return_traj=True)
    return states[-1].reshape(len(sets), PAIRS, 2), states[0].reshape(len(sets), PAIRS, 2)


def train(run: Run, group: slice, out: Path) -> tuple[Method, EMA]:
    """Train these members on their points; the averages of the weights come with them. Nothing waits for a figure."""
    seed_everything(group.start)
    model = build(run, group, out)
    points, noises = training_points(run, group, out)
    members = len(points)
    which = torch.arange(members).repeat_interleave(BATCH_SIZE)
    groups = {name: list(parameters) for name, parameters in model.optim_groups().items()}
    optimizers = {name: torch.optim.Adam(parameters, LR, model.betas(name), fused=True) for name, parameters in groups.items()}
    ema = EMA(model, (EMA_HALF_LIFE,))
    schedule = TrainingConfig(lr=LR, lr_warmup=0, lr_decay=LR_DECAY, num_iterations=run.steps)
    model.train()
    for step in range(1, run.steps + 1):
        index = torch.randint(points.shape[1], which.shape)
        data = points[which, index]
        noise = torch.randn_like(data) if noises is None else noises[which, index]
        for name, optimizer in optimizers.items():
            for other in optimizers.values():
                other.zero_grad(set_to_none=True)
            loss = model.compute_loss(data, noise, step=step, total_steps=run.steps, group=name)
            (loss * members).backward()  # a mean over all rows: times their number it is the sum of the members' losses
            clip_members(groups[name], members)
            for options in optimizer.param_groups:
                options["lr"] = learning_rate(step, schedule) * model.lr_scale(name)
            optimizer.step()
        model.on_step_end(step, run.steps)
        ema.update(step)
    return model.eval(), ema


@torch.no_grad()
def clip_members(parameters: list[torch.nn.Parameter], members: int) -> None:
    """Clip the gradient of each member, whose weights are one slice of every parameter, to the norm GRAD_CLIP."""
    rows = [parameter.grad.reshape(members, -1) for parameter in parameters]
    norms = torch.stack([row.square().sum(dim=1) for row in rows]).sum(dim=0).sqrt()
    factor = (GRAD_CLIP / norms.clamp(min=1e-12)).clamp(max=1)
    for row in rows:
        row.mul_(factor[:, None])


def execute(run: Run, out: Path) -> dict[str, Any]:
    """Make a run and return its line. A failure is told, not raised.

    Kept beside: a teacher's averaged weights in OUT/weights, for students, and the first seed's samples in OUT/points.
    """
    torch.set_num_threads(1)
    start = time.process_time()
    try:
        samples: dict[int, list[np.ndarray]] = {nfe: [] for nfe in CHALLENGE.nfe}
        train_seconds = 0.0  # of this process on its core, as all times here: other work on the machine does not count
        for group in run.groups:
            began = time.process_time()
            model, ema = train(run, group, out)
            train_seconds += time.process_time() - began
            with ema.applied(), torch.no_grad():
                if run.method in {TEACHER, *TEACHERS.values()}:
                    save_torch(model.state_dict(), run.file(out, "weights"))
                for nfe in CHALLENGE.nfe:
                    seed_everything(group.start)
                    shape = (len(run.members[group]) * CHALLENGE.num_samples, 2)
                    samples[nfe].append(model.sample(shape, num_inference_timesteps=nfe).float().numpy())
        shape = (len(run.sets), run.seeds, CHALLENGE.num_samples, 2)
        drawn = {nfe: np.concatenate(parts).reshape(shape) for nfe, parts in samples.items()}
        held_out = {data: CHALLENGE.data[data](CHALLENGE.num_samples, report.HELD_OUT_SEED) for data in run.sets}
        figures: dict[str, dict[str, list]] = {
            data: {str(nfe): [report.measure(points, held_out[data]) for points in drawn[nfe][i]] for nfe in CHALLENGE.nfe}
            for i, data in enumerate(run.sets)
        }
        firsts = {f"{data}-{nfe}": drawn[nfe][i, 0] for (i, data), nfe in product(enumerate(run.sets), CHALLENGE.nfe)}
        with write_whole(run.file(out, "points")) as partial, open(partial, "wb") as file:
            np.savez(file, **firsts)
    except Exception:  # whatever a method raises, the others' runs go on
        return {"run": asdict(run), "error": traceback.format_exc()}
    return {
        "run": asdict(run),
        "key": run.key(),
        "figures": figures,
        "train_core_seconds": round(train_seconds, 2),
        "core_seconds": round(time.process_time() - start, 2),
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
        rows = load_json_lines(self.path)
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

    def of(self, runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
        """The lines of those runs that are stored, by method."""
        keys = {run.method: run.key() for run in runs}
        return {method: self.rows[key] for method, key in keys.items() if key in self.rows}


def main() -> None:
    every = [name for name in method_names() if name != "custom"]
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=every, default=every, help="what is trained")
    parser.add_argument("--sets", nargs="+", choices=list(CHALLENGE.data), default=list(CHALLENGE.data), help="on which points")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="networks of each method on each set")
    parser.add_argument("--iterations", type=number(int, 1), default=5000, help="training steps of a run")
    parser.add_argument("--jobs", type=number(int, 1), default=2, help="runs at a time, one core each")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "results" / "toy2d", help="where runs are kept")
    parser.add_argument("--table", type=Path, default=PROJECT_ROOT / "docs" / "toy2d.md", help="the table's file")
    parser.add_argument("--figure", type=Path, default=PROJECT_ROOT / "docs" / "images" / "toy2d.png", help="the figure's file")
    parser.add_argument("--report_only", action="store_true", help="run nothing: table and figure of what is there")
    args = parser.parse_args()

    runs = [Run(method, tuple(args.sets), args.seeds, args.iterations) for method in args.methods]
    store = Store(args.out)
    done = store.of(runs)
    to_do = [] if args.report_only else [run for run in runs if run.method not in done]
    print(f"{len(runs)} runs, {len(done)} of them there already, {len(to_do)} to do")
    needed = {run.teacher for run in to_do if run.teacher}
    needed = {run for run in needed if run.method not in store.of([run]) or not run.file(args.out, "weights").is_file()}
    first = list(dict.fromkeys([*needed, *(run for run in to_do if not run.teacher)]))
    failed = []
    for phase in (first, [run for run in to_do if run.teacher]):  # students after their teachers
        for row in results_of([(run, args.out) for run in phase], args.jobs):
            method = row["run"]["method"]
            if "error" in row:
                failed.append(method)
                print(f"{method} failed:\n{row['error']}", flush=True)
                continue
            store.add(row)
            print(f"{method}: {row['core_seconds']:.0f} core-seconds", flush=True)

    done = store.of(runs)
    command = shlex.join(["python", "-m", "benchmarks.toy2d", *(word for word in sys.argv[1:] if word != "--report_only")])
    training = (
        f"with an MLP of three hidden layers of 128: {args.iterations} iterations (fewer for some, see Cost) of {BATCH_SIZE} "
        f"points, Adam, learning rate {LR:g} falling over the last half, averaged weights"
    )
    teachers = {run.method: run.teacher and run.teacher.method for run in runs}
    with write_whole(args.table) as partial:
        partial.write_text(
            report.table(CHALLENGE, done, args.methods, args.sets, args.seeds, training, OPTIONS, teachers, command)
        )
    points = {run.method: run.file(args.out, "points") for run in runs if run.method in done}
    report.figure(CHALLENGE, args.methods, args.sets, points, args.figure)
    print("\n".join([f"table: {args.table}", f"figure: {args.figure}", *report.verdicts(CHALLENGE, done)]))
    if failed:
        raise UserError(f"{len(failed)} of {len(to_do)} runs failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    run_script(main)
