"""The bounds of the grader: a changed one grades anew, and the documents have their figures."""

from dataclasses import replace

import pytest

from src.common.files import PROJECT_ROOT
from src.submission import bounds
from src.submission.board.grade import choose
from src.submission.board.job import Job, Settings, new_result, read_results, write_result

NAMES = [name for name in vars(bounds) if name.isupper()]
FIGURES = {  # of docs/grading.md; test_plan.py has those of a plan
    "at most {ARCHIVE_FILES:,} files and {ARCHIVE_BYTES_GIB} GiB, counted while it is written",
    "over {ARCHIVE_RATIO:g} times its size",
    "Python files take at most {CODE_BYTES_MIB} MiB, `model_config.json` {CONFIG_BYTES_KIB} KiB",
    "up to {NETWORKS} networks and {CHECKPOINT_BYTES_GB:.1f} GB",
    "smallest are seen by the code, {EXTRA_BYTES_KIB} KiB in all",
    "weights of a perceptual loss (at most {OTHER_BYTES_MIB} MiB)",
    "may not be below {PUBLIC_SHARE:g} of the best secret one",
    "shows up to {NAME_LENGTH} letters",
    "longer than {FOLDER_BYTES} bytes",
    "scratch folder of {DISK_MIB} MiB in memory",
    "bounds data ({MEMORY_GIB} GiB)",
    "{SETUP_SECONDS:g} seconds until the model is built, and {RECORD_SECONDS:g} for each plan",
    "over {NEAR_SHARE:.0%} of the images are validation images, to within {SAME_LEVELS:g} of 255 levels a pixel",
    "moved by {MOVED_PIXELS} pixels",
    "over {DUPLICATE_SHARE:.0%} equal images",
}


@pytest.fixture
def jobs(tmp_path):
    """Three teams that have been graded."""
    (tmp_path / "seed").touch(0o600)
    (tmp_path / "seed").write_text("1f")
    settings = Settings(reference_dir=str(tmp_path), device="cpu")
    made = [Job(team, tmp_path / f"{team}.zip", tmp_path / "board", tmp_path / "seed", settings) for team in "abc"]
    for job in made:
        job.submission.write_text(job.team)
        write_result(job, new_result(job))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_bound_grades_anew(name, jobs, monkeypatch, capsys):
    """And says so in one line; the results of before are not on the board."""
    assert choose(jobs, again=False) == [] and len(read_results(jobs[0])) == 3 and capsys.readouterr().out == ""
    monkeypatch.setattr(bounds, name, getattr(bounds, name) + 1)
    assert choose(jobs, again=False) == jobs and read_results(jobs[0]) == []
    assert capsys.readouterr().out == "the grader's bounds have changed: 3 that were graded under others are graded anew\n"


def test_what_else_grades_anew(jobs, capsys):
    """Other settings, other files, a fault of ours; of that no line of the bounds."""
    others = [replace(job, settings=replace(job.settings, seeds=2)) for job in jobs]
    assert choose(others, again=False) == others and choose(jobs, again=True) == jobs
    jobs[0].submission.write_text("other")
    write_result(jobs[1], new_result(jobs[1]) | {"status": "failed", "reason": "grader_error: a full disk"})
    assert choose(jobs, again=False) == jobs[:2] and capsys.readouterr().out == ""


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_the_document_has_the_figures_of_the_bounds(figure):
    values = {name: getattr(bounds, name) for name in NAMES}
    for name, value in list(values.items()):
        values[f"{name}_GB"] = value / 1e9
        values |= {f"{name}_{unit}": int(value) >> shift for unit, shift in {"KIB": 10, "MIB": 20, "GIB": 30}.items()}
    text = " ".join((PROJECT_ROOT / "docs" / "grading.md").read_text(encoding="utf-8").split())
    assert figure.format(**values) in text
