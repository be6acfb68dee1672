"""What the benches of all methods share: entries that need each other, trained on the same number of images and resumable."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_model import create_custom_model
from recipes.shared import compare as compare
from src.challenges import Challenge
from src.common.cli import UserError
from src.common.devices import precision_flag, precision_name, resolve_precision, seed_everything
from src.common.files import PROJECT_ROOT, load_json, save_json
from src.common.locks import owned
from src.common.networks import takes_condition
from src.datasets.pairs import load_pairs
from src.methods import get_method, method_names
from src.runs.folder import Run
from src.training.checkpoint import init_network, load_teacher
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.training.resume import read_resume
from src.training.saving import Previews

TEACHER, PAIRS_TEACHER = "edm", "rectified_flow"  # of a method that has no entry of its own
ENTRY = "entry.json"  # in an entry's folder: how it was trained


@dataclass
class Entry:
    """One training: a row of the table, or a stage of one.

    Args:
        method: what is trained; by default the entry's name.
        options: of the method.
        training: fields of TrainingConfig that differ from the challenge's defaults.
        share: of the bench's images, the part that it sees.
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


def with_all_methods(entries: dict[str, Entry]) -> dict[str, Entry]:
    """These entries, and one for every other method, as it is, with the teacher that it needs."""
    known = {entry.method or name for name, entry in entries.items() if entry.row}
    others = {name: get_method(name) for name in method_names() if name not in known and name != "custom"}
    return entries | {
        name: Entry(teacher=TEACHER if cls.needs_teacher else None, pairs=PAIRS_TEACHER if cls.needs_pairs else None)
        for name, cls in others.items()
    }


def with_options(
    entries: Mapping[str, Entry], given: Sequence[Sequence[str]], challenge: Challenge, out: Path
) -> tuple[dict[str, Entry], list[str]]:
    """These entries, those that OUT has with options of their own, and one for each --options; the names of the latter.

    Raises UserError where --options names no row or no option of it.
    """
    rows = [name for name, entry in entries.items() if entry.row]
    found, asked = dict(entries), []
    for file in sorted(out.glob(f"*/{ENTRY}")):
        entry = Entry(**load_json(file))
        if file.parent.name not in entries and (entry.method or file.parent.name) in method_names():
            found[file.parent.name] = entry
    for words in given:
        base = entries.get(words[0], Entry())
        method = base.method or words[0]
        options = compare.read_options(words, method, rows, challenge)
        asked.append(compare.row_name(words[0], options))
        found[asked[-1]] = replace(base, method=method, options={**base.options, **options})
    return found, asked


@dataclass
class Bench:
    """Entries of one challenge, trained on `images` images each in folders of their names.

    Args:
        out: where these folders are.
        device: that everything is computed on.
        seed: of all trainings.
        shared: where the teachers are trained and their pairs made, if not in out.
        pairs, pair_steps: how many pairs of noise and image an entry's teacher makes, and in how many calls each.
    """

    challenge: Challenge
    entries: Mapping[str, Entry]
    out: Path
    images: int
    device: torch.device
    seed: int = TrainingConfig.seed
    shared: Path | None = None
    pairs: int = 6144
    pair_steps: int = 16

    @property
    def rows(self) -> list[str]:
        """The names of the table's rows."""
        return [name for name, entry in self.entries.items() if entry.row]

    @property
    def teachers(self) -> "Bench":
        """The bench that trains the teachers."""
        return self if self.shared is None else replace(self, out=self.shared, shared=None, seed=TrainingConfig.seed)

    def needed(self, name: str) -> list[str]:
        """The entries that have to be trained before this one, each after what it needs itself."""
        entry = self.entries[name]
        before = [other for other in (entry.after, entry.teacher, entry.pairs) if other]
        return list(dict.fromkeys([entry for other in before for entry in (*self.needed(other), other)]))

    def images_seen(self, name: str) -> int:
        """The images that the entry's network has seen, those of the networks it started from included."""
        entry = self.entries[name]
        return int(entry.share * self.images) + (self.images_seen(entry.after) if entry.after else 0)

    def taught_by(self, name: str) -> str:
        """The entry that this one, or what it started from, learned from; "-" if there is none."""
        entry = self.entries[name]
        return entry.teacher or entry.pairs or (self.taught_by(entry.after) if entry.after else "-")

    def train_seconds(self, name: str) -> float:
        """How long the entry trained, with the entries it started from, without its teacher."""
        after = self.entries[name].after
        return (Run(self.out / name).seconds() or 0.0) + (self.train_seconds(after) if after else 0.0)

    def settings(self, name: str) -> str:
        """In the table's words: the options, and what the entry began as."""
        entry = self.entries[name]
        options = {**entry.options, **entry.training}
        words = [f"--{option}" if value is True else f"--{option} {value}" for option, value in options.items()]
        if entry.after:
            before = self.entries[entry.after]
            begun = entry.after if before.row else before.method
            words.append(f"begun as {begun} ({self.images_seen(entry.after):,} images)")
        return " ".join(words)

    def claim(self) -> None:
        """Make the folder this bench's own. Raises UserError where it holds trainings on another number of images."""
        told = self.out / "images.json"
        if told.is_file() and load_json(told) != self.images:
            raise UserError(f"{self.out} holds trainings of {load_json(told)} images, not {self.images}: give another --out")
        save_json(self.images, told)

    def train(self, name: str, data: np.ndarray) -> None:
        """Train an entry on its share of the images, and before it what it needs, unless that is done."""
        self.claim()
        entry = self.entries[name]
        for teacher in filter(None, (entry.teacher, entry.pairs)):
            self.teachers.train(teacher, data)
        if entry.after:
            self.train(entry.after, data)
        self._train_one(name, data)

    def _train_one(self, name: str, data: np.ndarray) -> None:
        """Train an entry, or go on with what stands in its folder; nothing if that is done."""
        entry, folder = self.entries[name], self.out / name
        if (folder / "done").is_file():
            return
        method = entry.method or name
        training = {**self.challenge.training, **entry.training, "seed": self.seed}
        steps = int(entry.share * self.images) // training["batch_size"]
        config = TrainingConfig(**{**training, "num_iterations": steps})
        network = {item.name: item.default for item in self.challenge.network_fields()}
        options = {**self.challenge.method_options.get(method, {}), **entry.options}
        model_config = {"method": method, "challenge": self.challenge.name, **network, **options}
        seed_everything(config.seed)
        model = create_custom_model(self.device, **model_config)
        model_config["use_additional_condition"] = takes_condition(model.network)
        resume = Run(folder).can_resume
        if resume and (found := config.changes_from(read_resume(folder)["settings"])):
            raise UserError(f"{folder} was made with other settings: {'; '.join(found)}; remove it, or give another --out")
        start, seeds = entry.after, None
        if entry.pairs:
            start = entry.pairs
            data, seeds = self.teachers._make_pairs(entry.pairs)
        if entry.teacher:
            teacher = load_teacher(self.teachers.out / entry.teacher, data.shape[1:], create_custom_model, self.device)
            model.set_teacher(teacher)
            if not start:
                model.start_from(teacher)
        if start and not resume:
            init_network(model.network, (self.teachers if entry.pairs else self).out / start)
        save_json(asdict(entry), folder / ENTRY)
        dtype = self.precision(name) if resume else resolve_precision("auto", self.device)
        words = f"{steps} steps of {config.batch_size}, {precision_name(dtype)}"
        print(f"== {name}: {words}{' (continued)' if resume else ''}", flush=True)
        challenge = self.challenge
        previews = Previews(challenge.calls_of(model), challenge.to_array, challenge.picture, challenge.preview_samples)
        more = {"noise_seeds": seeds, "previews": previews}
        with owned(folder):
            finished = Trainer(model, data, config, model_config, folder, self.device, dtype, **more).run(resume)
        if not finished:
            raise KeyboardInterrupt
        (folder / "done").touch()

    def precision(self, name: str) -> torch.dtype:
        """The precision that this entry's training was begun in."""
        return resolve_precision(precision_flag(Run(self.out / name).training["precision"]), self.device)

    def _make_pairs(self, teacher: str) -> tuple[np.ndarray, np.ndarray]:
        """The teacher's pairs, by the script that makes them: images float16 and the seeds of their noises."""
        folder = self.out / f"{teacher}_pairs"
        flags = ["--count", self.pairs, "--steps", self.pair_steps, "--out", folder.resolve(), "--device", self.device]
        command = [sys.executable, "-m", "src.datasets.pairs", "--teacher", (self.out / teacher).resolve(), *flags]
        subprocess.run(list(map(str, command)), check=True, cwd=PROJECT_ROOT)
        return load_pairs(folder)
