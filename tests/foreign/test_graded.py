"""Foreign models in the grader: what it measures are the images of sampling.py, and the network's calls are counted."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.submission.board.grading import prepare, record, run_job
from src.submission.board.job import Settings
from src.submission.failures import Failed
from src.submission.handin import check
from tests.foreign import FOREIGN, lay_out
from tests.helpers import slow_but
from tests.processes import forked_python
from tests.submission.test_grade import NETWORK, job, no_measuring, reference, sandbox  # noqa: F401 (fixtures)

NFES = (1, 2, 4)
SETTINGS = Settings(reference_dir="", network=NETWORK, num_images=4, device="cpu", precision="fp32")
REMARKS = {  # what is said of a checkpoint -> models of which it is
    "3 networks (“ema_network”, “network”, “target_network”): calls of all of them count": ("three_copies",),
    "2 networks (“ema_network”, “network”): calls of all of them count": ("ema_copy",),
    "2 networks (“network”, “teacher”): calls of all of them count": ("teacher_copy",),
    "2 tensors beside the networks (2.9 MB, such as “perceptual.slices.2.weight”) are zeros while sampling": ("ddim_buffers",),
}


@pytest.mark.parametrize("name", slow_but(["package"], FOREIGN))
def test_the_grader_samples_what_the_courses_script_samples(name, tmp_path, sandbox):  # noqa: F811
    """Its plan, with the draws in the order of a script that seeds once, gives that script's images to the last bit."""
    folder = lay_out(tmp_path / "team", name)
    expected = {} if name == "ddim_buffers" else course_images(folder)  # it lacks a package
    (tmp_path / "work").mkdir()
    remarks: list[str] = []
    model, _ = prepare(folder, tmp_path / "work", SETTINGS, remarks)
    assert remarks == [remark for remark, names in REMARKS.items() if name in names]
    for nfe, sampler in record(model, SETTINGS).items():
        assert sampler.plan.shown.calls == nfe and not sampler.own_code and not sampler.failure
        if (name, nfe) == ("nan_at_four", 4):
            with pytest.raises(Failed, match="not finite"):
                sampler.course_images()
            continue
        images = sampler.course_images()
        if name == "compiled":  # a compiled network is another in the last bit
            assert np.abs(images.astype(int) - expected[nfe]).max() <= 1
        elif expected:
            assert np.array_equal(images, expected[nfe])


def course_images(folder: Path) -> dict[int, np.ndarray]:
    """NFE -> what the course's own sampling.py writes, in a process of its own."""
    flags = ["--num_samples", str(SETTINGS.num_images), "--save_dir", str(folder / "samples")]
    subprocess.run([forked_python(), "sampling.py", *flags], cwd=folder, check=True, capture_output=True)
    return {nfe: SETTINGS.task.read(folder / "samples" / f"nfe={nfe}") for nfe in NFES}


@pytest.mark.slow
def test_a_failure_at_one_nfe_leaves_the_others(job, no_measuring):  # noqa: F811
    lay_out(job.submission, "nan_at_four")
    result = run_job(replace(job, settings=replace(job.settings, nfe=(2, 4))))
    assert result["status"] == "graded" and list(result["nfe"]) == ["2"] and result["reason"] is None
    assert result["failures"]["4"].startswith("wrong_output: ") and "not finite" in result["failures"]["4"]


@pytest.mark.parametrize("name", slow_but(["package"], FOREIGN))
def test_check_passes_a_foreign_hand_in(name, tmp_path):
    """The course's own scripts, packages that only training needs, several networks: notes at most."""
    names = (
        "required files",
        "protected files",
        "imports",
        "requirements.txt",
        "weights",
        "training starts",
        "plan",
    )
    folder = lay_out(tmp_path / "team", name)
    results = {
        result.name: result
        for result in check.check(folder, tmp_path / "unpacked", names, python=forked_python(), network=NETWORK)
    }
    failed = [result for result in results.values() if result.todo]
    assert [result.name for result in failed] == []
    assert results["imports"].verdict == "note" and "torch_xla" in results["imports"].found
    assert results["training starts"].verdict == "note"
    assert "NFE 4: 4 network calls" in results["plan"].found


@pytest.mark.slow
def test_the_staffs_sampling_runs_on_a_foreign_hand_in(tmp_path):
    """In a process of its own, with a src/utils.py of the student's and a network that is compiled."""
    for name in ("own_utils", "package"):
        folder = lay_out(tmp_path / name, name)
        options = {"python": forked_python(), "network": NETWORK, "num_samples": 2}
        [result] = check.check(folder, tmp_path / f"{name}_unpacked", ["sampling"], **options)
        assert result.verdict == "pass", result
