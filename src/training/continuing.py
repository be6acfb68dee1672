"""Going on with a run: the flags it was started with, what a continued run cannot change, and which folder is meant."""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.common.cli import UserError
from src.common.devices import precision_flag
from src.common.locks import describe_owner, owned, owner_of
from src.runs.folder import Run
from src.training.config import TrainingConfig

# kept by a continued run, as training's own are
DATA_FLAGS = ("challenge", "data_root", "max_per_class", "pairs", "drop_longest")


def saved_flags(run: Run) -> dict[str, Any]:
    """The flags of train.py that a run was started with."""
    kept = {item.name for item in fields(TrainingConfig)} | {*DATA_FLAGS, "teacher"}
    training = {name: value for name, value in run.training.items() if name in kept}
    training |= {"teacher": str(run.origin("teacher"))} if training.get("teacher") else {}
    training["class_conditional"] = bool(run.model.get("classes"))
    return {**run.model, **training, "precision": precision_flag(run.training["precision"])}


def forbidden_changes(
    run: Run, precision: str, config: TrainingConfig, model_config: dict[str, Any], about: dict[str, Any]
) -> list[str]:
    """How a run differs from the one asked for, in what a continued run cannot change."""
    there = saved_flags(run)
    found = config.changes_from(there)
    mine = {**json.loads(json.dumps(model_config)), "challenge": about["challenge"]}
    mine["class_conditional"] = bool(model_config.get("classes"))
    if precision != "auto":
        mine["precision"] = precision
    found += [f"--{name} {there.get(name)} there, {value} here" for name, value in mine.items() if there.get(name) != value]
    before, now = run.training.get("trained_on"), about["trained_on"]
    return found + ([f"trained on {before or 'images'} there, {now or 'images'} here (--pairs)"] if before != now else [])


@contextlib.contextmanager
def claim_run(
    save_dir: Path, name: str | None, resume: str | None, auto_resume: bool, new_name: str, wanted: tuple[Any, ...]
) -> Iterator[tuple[Path, bool]]:
    """Inside the block this process owns a run's folder; gives it, and whether to continue what it holds.

    Args:
        name: of the run, where it was given; new_name is that of a new one without.
        resume: the run to continue, or a checkpoint in it.
        auto_resume: whether to look in save_dir for what the same command has begun.
        wanted: precision, config, model_config and about, as forbidden_changes takes them.

    Raises UserError where --resume names a run of other settings, a new run would overwrite one, or another process trains it.
    """
    with contextlib.ExitStack() as stack:
        with owned(save_dir, wait=True) if auto_resume and not resume else contextlib.nullcontext():  # one command at a time
            folder, resumed = _choose_run(save_dir, name, resume, auto_resume, wanted)
            if folder is None:
                folder = _own_new(save_dir / new_name, stack)
            else:
                stack.enter_context(owned(folder))
        if resumed and (changed := _changed_data(Run(folder), wanted[-1])):
            print(changed)
        yield folder, resumed


def _own_new(folder: Path, stack: contextlib.ExitStack) -> Path:
    """Make and own this folder, or the one of the next number, where another run of the same second has it: RUN_2, RUN_3 ..."""
    for number in itertools.count(2):
        try:
            stack.enter_context(owned(folder, new=True))
            return folder
        except FileExistsError:
            folder = folder.with_name(f"{folder.name.partition('_')[0]}_{number}")


def _choose_run(
    save_dir: Path, name: str | None, resume: str | None, auto_resume: bool, wanted: tuple[Any, ...]
) -> tuple[Path | None, bool]:
    """The run's folder, None for a new one without a name, and whether to continue what it holds: see claim_run."""

    def refuse(run: Run, found: list[str]) -> None:
        if found:
            raise UserError(f"{run.folder} cannot be continued with other settings: {'; '.join(found)}")

    if resume:
        run = Run.of(resume)
        refuse(run, forbidden_changes(run, *wanted))
        return run.folder, True
    if auto_resume:
        folders = [save_dir / name] if name else list(save_dir.glob("*/"))
        for folder in folders:
            if owner_of(folder).get("arguments") == sys.argv[1:]:
                raise UserError(f"{folder} is trained by the same command: {describe_owner(folder)}; wait, or end it")
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True):
            run = Run(folder)
            if not (run.exists and run.can_resume):
                continue
            found = forbidden_changes(run, *wanted)
            if not found and run.training["num_iterations"] == wanted[1].num_iterations:
                return folder, True
            if name:
                refuse(run, found)
    if not name:
        return None, False
    folder = save_dir / name
    if Run(folder).can_resume:
        raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or choose another --run_name")
    return folder, False


def _changed_data(run: Run, about: dict[str, Any]) -> str:
    """A warning where the data are not those that the run was begun with; empty where they are, or the run does not say."""
    before = {name: run.training.get(name) for name in ("num_training_images", "data_crc32")}
    if all(value in (None, about[name]) for name, value in before.items()):
        return ""
    count, now = before["num_training_images"], about["num_training_images"]
    what = "other training images than before" if count == now else f"{now:,} training images, and there were {count:,}"
    return f"warning: {run.folder}: here are {what}; it goes on with these, and ends elsewhere than it would have"
