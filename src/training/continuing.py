"""Going on with a run: the flags it was started with, what a continued run cannot change, and which folder is meant."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.common.cli import UserError
from src.common.devices import precision_flag
from src.runs import Run
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


def choose_run(
    save_dir: Path, name: str | None, resume: str | None, auto_resume: bool, new_name: str, wanted: tuple[Any, ...]
) -> tuple[Path, bool]:
    """The run's folder, and whether to continue what it holds.

    Args:
        name: of the run, where it was given; new_name is that of a new one without.
        resume: the run to continue.
        auto_resume: whether to look in save_dir for what the same command has begun.
        wanted: precision, config, model_config and about, as forbidden_changes takes them.

    Raises UserError where --resume names a run of other settings, or a new run would overwrite one.
    """

    def refuse(run: Run, found: list[str]) -> None:
        if found:
            raise UserError(f"{run.folder} cannot be continued with other settings: {'; '.join(found)}")

    if resume:
        run = Run(Path(resume))
        refuse(run, forbidden_changes(run, *wanted))
        return run.folder, True
    if auto_resume:
        folders = [save_dir / name] if name else save_dir.glob("*/")
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True):
            run = Run(folder)
            if not (run.exists and run.can_resume):
                continue
            found = forbidden_changes(run, *wanted)
            if not found and run.training["num_iterations"] == wanted[1].num_iterations:
                return folder, True
            if name:
                refuse(run, found)
    folder = save_dir / (name or new_name)
    if Run(folder).can_resume:
        raise UserError(f"{folder} holds a run already: continue it with --resume {folder}, or choose another --run_name")
    return folder, False
