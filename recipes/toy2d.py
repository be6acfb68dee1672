"""Every method on six sets of points in the plane: what one, two, four and fifty network calls give, in a table and a figure.

    python -m recipes.toy2d                                         all of it, on two cores
    python -m recipes.toy2d --methods rectified_flow                one method; what is there already is not run again
    python -m recipes.toy2d --options rectified_flow time_scale=20  one method with other options, a row of its own
    python -m recipes.toy2d --report_only                           table and figure of what is there

An experiment is one method on all sets with all seeds, trained by the kit's one loop as one network of as many independent
members. Its figures become a line of OUT/runs.jsonl. Experiments whose line is there are skipped, unless the method's file, the
challenge or the training have changed since. Files that methods share are not watched: after a change there give another --out.

The table, OUT/toy2d.md, and the figure beside it have all experiments of the same sets, seeds and iterations that OUT has; what
is not among them stands as docs/toy2d.md has it. Nothing is written into docs/ without --docs docs.
"""

import hashlib
import inspect
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.shared import compare as compare
from recipes.shared import toy2d_tables as tables
from src.challenges import get_challenge
from src.challenges import toy2d as challenge_file
from src.challenges.toy2d import points as points_file
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import seed_everything
from src.common.files import load_json_lines, load_torch, write_whole
from src.methods import Method, get_method, method_names
from src.runs.folder import checkpoint_of
from src.training.config import TrainingConfig
from src.training.loop import Trainer

CHALLENGE = get_challenge("toy2d")
TEACHERS = {"progressive": "ddpm", "reflow": "rectified_flow"}  # of methods that learn from one or from its pairs; else:
TEACHER = "edm"
PAIRS, PAIR_STEPS = 8192, 50  # of noise and point, that a teacher makes for each network of a method that learns from pairs
# fewer than --iterations: ld3 learns a dozen numbers, and students whose steps cost most begin as their teacher
ITERATIONS = {"ld3": 200, "ctm": 2500, "gdd": 1500, "add": 1500}
GRAD_CLIP = 1.0


@dataclass(frozen=True)
class Experiment:
    """One method on these sets, with this many networks per set that share nothing: weights, batches, noise, samples differ.

    given: options of the method, by name, beside those that the challenge has for it.
    """

    method: str
    sets: tuple[str, ...]
    seeds: int
    iterations: int
    given: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Of its row in the table."""
        return compare.row_name(self.method, dict(self.given))

    @property
    def members(self) -> list[str]:
        """The set of each network."""
        return [data for data in self.sets for _ in range(self.seeds)]

    @property
    def groups(self) -> list[slice]:
        """The members that are trained as one, group after group."""
        count = len(self.members)
        return [slice(i, i + 1) for i in range(count)] if not get_method(self.method).independent_rows else [slice(0, count)]

    @property
    def steps(self) -> int:
        return min(self.iterations, ITERATIONS.get(self.method, self.iterations))

    @property
    def teacher(self) -> "Experiment | None":
        cls = get_method(self.method)
        if not (cls.needs_teacher or cls.needs_pairs):
            return None
        return Experiment(TEACHERS.get(self.method, TEACHER), self.sets, self.seeds, self.iterations)

    def options(self) -> dict[str, Any]:
        return {**CHALLENGE.method_options.get(self.method, {}), **dict(self.given)}

    def run(self) -> dict[str, Any]:
        """The experiment in its line of runs.jsonl, but for its options."""
        return {name: value for name, value in asdict(self).items() if name != "given"}

    def key(self) -> str:
        """Names the experiment and what its result depends on: two of one key are the same."""
        files = [inspect.getsourcefile(source) for source in (get_method(self.method), challenge_file, points_file)]
        source = b"".join(Path(file).read_bytes() for file in files)
        about = {**self.run(), "steps": self.steps, "training": dict(CHALLENGE.training), "options": self.options()}
        about["source"] = hashlib.sha256(source).hexdigest()[:12]
        if self.teacher:
            about["teacher"] = self.teacher.key()
        return json.dumps(about, sort_keys=True)

    def file(self, out: Path, kind: str) -> Path:
        return out / kind / f"{self.name}-{hashlib.sha256(self.key().encode()).hexdigest()[:12]}"


class MemberBatches:
    """Batches of networks that are trained as one: as many rows for each, of its own points.

    points: (members, N, 2). noises: those that the points were made of, of the same shape, or None.
    """

    def __init__(self, points: torch.Tensor, noises: torch.Tensor | None, rows_each: int, seed: int):
        self.points, self.noises, self.rows_each, self.seed = points, noises, rows_each, seed
        self.sample_shape, self.has_noise = tuple(points.shape[2:]), noises is not None
        self.has_labels = False

    def __len__(self) -> int:
        return self.points.shape[0] * self.points.shape[1]

    def _places(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each row of batch `number`: its network, and which of that one's points it is."""
        members, count = self.points.shape[:2]
        places = np.random.default_rng([self.seed, number]).integers(count, size=members * self.rows_each)
        return torch.arange(members).repeat_interleave(self.rows_each), torch.from_numpy(places)

    def rows(self, number: int, rows: slice) -> torch.Tensor:
        which, places = self._places(number)
        return self.points[which, places][rows]

    def noise(self, number: int, rows: slice) -> torch.Tensor:
        which, places = self._places(number)
        return self.noises[which, places][rows]


# ------------------------------------------------------------------------------------------------------- an experiment


def build(experiment: Experiment, group: slice, out: Path) -> Method:
    """The model of these members, with fresh weights; a student's teacher, and where they fit its weights, from OUT."""
    cls = get_method(experiment.method)
    members = len(experiment.members[group])
    network = CHALLENGE.build_network(use_additional_condition=bool(cls.needs_condition), members=members)
    model = cls.from_options(network, **experiment.options())
    if experiment.teacher:
        teacher = trained(experiment.teacher, group, out)
        if model.needs_teacher:
            model.set_teacher(teacher)
        if model.parameterization == teacher.parameterization:
            own = model.network.state_dict()
            fitting = {name: value for name, value in teacher.network.state_dict().items() if value.shape == own[name].shape}
            model.network.load_state_dict({**own, **fitting})  # a second scalar's embedding is another one
    return model


def trained(experiment: Experiment, group: slice, out: Path) -> Method:
    """The model of these members as it was sampled, from OUT/trained."""
    model = build(experiment, group, out)
    weights = load_torch(checkpoint_of(experiment.file(out, "trained")))["state_dict"]
    model.load_state_dict({name: value[group] for name, value in weights.items()})
    return model.eval()


def training_points(experiment: Experiment, group: slice, out: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Points of each member's set (members, N, 2) and, where the method learns from pairs, the noises they were made of."""
    sets = experiment.members[group]
    if not get_method(experiment.method).needs_pairs:
        points = {data: torch.from_numpy(CHALLENGE.load("train", data)[0]) for data in set(sets)}
        return torch.stack([points[data] for data in sets]), None
    with torch.no_grad():
        states = trained(experiment.teacher, group, out).sample((len(sets) * PAIRS, 2), PAIR_STEPS, return_traj=True)
    return states[-1].reshape(len(sets), PAIRS, 2), states[0].reshape(len(sets), PAIRS, 2)


def train(experiment: Experiment, group: slice, out: Path) -> Trainer:
    """Train these members on their points by the kit's loop, into OUT/trained; the trainer afterwards."""
    seed_everything(group.start)
    model = build(experiment, group, out)
    points, noises = training_points(experiment, group, out)
    members, rows_each = len(points), CHALLENGE.training["batch_size"]
    own = {"batch_size": members * rows_each, "num_iterations": experiment.steps, "seed": group.start}
    config = TrainingConfig(
        **{**CHALLENGE.training, **own, "log_interval": experiment.steps, "save_interval": experiment.steps}
    )
    folder = experiment.file(out, "trained")
    if group.stop < len(experiment.members):
        folder = folder / f"members_{group.start}"
    trainer = Trainer(
        model,
        MemberBatches(points, noises, rows_each, group.start),
        config,
        {"method": experiment.method, "challenge": CHALLENGE.name, **experiment.options()},
        folder,
        torch.device("cpu"),
        clip=lambda parameters: clip_members(parameters, members),
        progress_bar=False,
    )
    if not trainer.run():
        raise KeyboardInterrupt
    return trainer


@torch.no_grad()
def clip_members(parameters: list[torch.nn.Parameter], members: int) -> torch.Tensor:
    """Make the gradient of the mean loss each member's own, and clip it to the norm GRAD_CLIP; the norm of all before.

    A member's weights are one slice of every parameter. The loss is a mean over the rows of all members: times their number
    it is the sum of the members' losses.
    """
    rows = [parameter.grad.mul_(members).reshape(members, -1) for parameter in parameters]
    norms = torch.stack([row.square().sum(dim=1) for row in rows]).sum(dim=0).sqrt()
    factor = (GRAD_CLIP / norms.clamp(min=1e-12)).clamp(max=1)
    for row in rows:
        row.mul_(factor[:, None])
    return norms.norm()


def measure_points(samples: np.ndarray, held_out: np.ndarray) -> dict[str, float | None]:
    """Every metric of samples against held-out points, to six digits; None where samples are not finite."""
    if not np.isfinite(samples).all():
        return dict.fromkeys(CHALLENGE.metrics)
    return {name: float(f"{value:.6g}") for name, value in CHALLENGE.measure(samples, held_out).items()}


def execute(experiment: Experiment, out: Path) -> dict[str, Any]:
    """Make an experiment and return its line. A failure is told, not raised.

    Kept beside: a teacher's run in OUT/trained, for students, and the first seed's samples in OUT/points.
    """
    torch.set_num_threads(1)
    start = time.process_time()
    try:
        samples: dict[int, list[np.ndarray]] = {nfe: [] for nfe in CHALLENGE.nfe}
        train_seconds = 0.0  # of this process on its core, as all times here: other work on the machine does not count
        for group in experiment.groups:
            began = time.process_time()
            trainer = train(experiment, group, out)
            train_seconds += time.process_time() - began
            model = trainer.model.eval()
            with trainer.state.ema.applied(), torch.no_grad():
                for nfe in CHALLENGE.nfe:
                    seed_everything(group.start)
                    shape = (len(experiment.members[group]) * CHALLENGE.num_samples, 2)
                    samples[nfe].append(CHALLENGE.to_array(model.sample(shape, num_inference_timesteps=nfe)))
        if experiment.method not in {TEACHER, *TEACHERS.values()}:
            shutil.rmtree(experiment.file(out, "trained"))
        shape = (len(experiment.sets), experiment.seeds, CHALLENGE.num_samples, 2)
        drawn = {nfe: np.concatenate(parts).reshape(shape) for nfe, parts in samples.items()}
        figures: dict[str, dict[str, list]] = {}
        for i, data in enumerate(experiment.sets):
            held_out = CHALLENGE.load("val", data)[0][: CHALLENGE.num_samples]
            figures[data] = {str(nfe): [measure_points(points, held_out) for points in drawn[nfe][i]] for nfe in CHALLENGE.nfe}
        firsts = {f"{data}-{nfe}": drawn[nfe][i, 0] for (i, data), nfe in product(enumerate(experiment.sets), CHALLENGE.nfe)}
        with write_whole(experiment.file(out, "points")) as partial, open(partial, "wb") as file:
            np.savez(file, **firsts)
    except Exception:  # whatever a method raises, the others' experiments go on
        return {"run": experiment.run(), "name": experiment.name, "error": traceback.format_exc()}
    return {
        "run": experiment.run(),
        "options": experiment.options(),
        "given": dict(experiment.given),
        "key": experiment.key(),
        "figures": figures,
        "train_core_seconds": round(train_seconds, 2),
        "core_seconds": round(time.process_time() - start, 2),
        "date": str(date.today()),
    }


def _execute(task: tuple[Experiment, Path]) -> dict[str, Any]:
    return execute(*task)


def results_of(tasks: list[tuple[Experiment, Path]], jobs: int) -> Iterator[dict[str, Any]]:
    """The lines of all experiments as they end, made in this process or in `jobs` others of one thread each."""
    if jobs == 1:
        yield from map(_execute, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_execute, tasks)


# ----------------------------------------------------------------------------------------------------- what is stored


class Store:
    """OUT/runs.jsonl: a line per experiment, the latest of a key counts. One that was left unfinished is dropped."""

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

    def of(self, experiments: Iterable[Experiment]) -> dict[str, dict[str, Any]]:
        """The lines of those experiments that are stored, by name."""
        keys = {run.name: run.key() for run in experiments}
        return {name: self.rows[key] for name, key in keys.items() if key in self.rows}

    def like(self, asked: Experiment) -> list[Experiment]:
        """The experiments that are stored, and not stale, of the same sets, seeds and iterations as this one."""
        found = []
        for key, row in self.rows.items():
            method = row["run"]["method"]
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in row.get("given", {}).items()}
            experiment = replace(asked, method=method, given=tuple(given.items()))
            if method in method_names() and experiment.key() == key:
                found.append(experiment)
        return sorted(found, key=lambda experiment: experiment.name)


def main() -> None:
    every, sets = [name for name in method_names() if name != "custom"], list(points_file.POINT_SETS)
    parser = Parser(description=__doc__.splitlines()[0])
    compare.add_flags(parser, every, "what is trained", "toy2d")
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, help="on which points")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="networks of each method on each set")
    parser.add_argument(
        "--iterations", type=number(int, 1), default=CHALLENGE.training["num_iterations"], help="training steps of a network"
    )
    parser.add_argument("--jobs", type=number(int, 1), default=2, help="experiments at a time, one core each")
    parser.add_argument("--report_only", action="store_true", help="train nothing: table and figure of what is there")
    args = compare.parse(parser, every)

    asked = [Experiment(method, tuple(args.sets), args.seeds, args.iterations) for method in args.methods]
    for words in args.options:
        given = compare.read_options(words, words[0], every, CHALLENGE)
        asked.append(Experiment(words[0], tuple(args.sets), args.seeds, args.iterations, tuple(given.items())))
    store = Store(args.out)
    done = store.of(asked)
    to_do = [] if args.report_only else [one for one in asked if one.name not in done]
    print(f"{len(asked)} experiments, {len(done)} of them there already, {len(to_do)} to do")
    needed = {one.teacher for one in to_do if one.teacher}
    needed = {one for one in needed if one.name not in store.of([one]) or not one.file(args.out, "trained").is_dir()}
    first = list(dict.fromkeys([*needed, *(one for one in to_do if not one.teacher)]))
    failed = []
    for phase in (first, [one for one in to_do if one.teacher]):  # students after their teachers
        for row in results_of([(one, args.out) for one in phase], args.jobs):
            name = compare.row_name(row["run"]["method"], row.get("given", {}))
            if "error" in row:
                failed.append(row["name"])
                print(f"{row['name']} failed:\n{row['error']}", flush=True)
                continue
            store.add(row)
            print(f"{name}: {row['core_seconds']:.0f} core-seconds", flush=True)

    shown = sorted({*asked, *store.like(asked[0])}, key=lambda experiment: experiment.name)
    done = store.of(shown)
    command = shlex.join(["python", "-m", "recipes.toy2d", *(word for word in sys.argv[1:] if word != "--report_only")])
    training = (
        f"with an MLP of three hidden layers of 128: {args.iterations} iterations (fewer for some, see Cost) of "
        f"{CHALLENGE.training['batch_size']} points, Adam, learning rate {CHALLENGE.training['lr']:g} falling over the last "
        "half, averaged weights"
    )
    table, figure = args.docs / "toy2d.md", args.docs / "images" / "toy2d.png"
    options = {one.name: one.options() for one in shown if one.options()}
    teachers = {one.name: one.teacher and one.teacher.method for one in shown}
    about = ([one.name for one in shown], args.sets, args.seeds, training, options, teachers, command)
    text = tables.table(CHALLENGE, done, *about, tables.Earlier.read(compare.DOCS / "toy2d.md"))
    with write_whole(table) as partial:
        partial.write_text(text, encoding="utf-8")
    points = {one.name: one.file(args.out, "points") for one in shown if one.name in done}
    tables.figure(CHALLENGE, [one.name for one in shown], args.sets, points, figure)
    print("\n".join([f"table: {table}", f"figure: {figure}", *tables.verdicts(CHALLENGE, done).values()]))
    if failed:
        raise UserError(f"{len(failed)} of {len(to_do)} experiments failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    run_script(main)
