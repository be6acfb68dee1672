"""Foreign models in the grader: what it measures are the images of sampling.py, and the network's calls are counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.common.checkpoints import load_model
from src.common.images import to_uint8
from src.common.noise import image_seeds
from src.common.sampling import generate
from src.submission import check, grading
from src.submission.broker import Broker
from src.submission.failures import Failed
from src.submission.grading import prepare, run_job
from src.submission.job import Settings
from src.submission.sandbox import Limits
from tests.foreign import FOREIGN, imported, lay_out
from tests.helpers import slow_but
from tests.processes import forked_python
from tests.submission.test_grade import NETWORK, job, kind, no_measuring, reference  # noqa: F401 (fixtures)

NFES = (1, 2, 4)
SETTINGS = Settings(reference_dir="", sandbox="", network=NETWORK)
REMARKS = {  # what is said of a checkpoint -> models of which it is
    "3 networks (“ema_network”, “network”, “target_network”): calls of all of them count": ("three_copies",),
    "2 networks (“ema_network”, “network”): calls of all of them count": ("ema_copy",),
    "2 networks (“network”, “teacher”): calls of all of them count": ("teacher_copy",),
    "2 tensors beside the networks (2.9 MB, such as “perceptual.slices.2.weight”) are zeros while sampling": ("ddim_buffers",),
}


@pytest.mark.parametrize("name", slow_but(["package"], FOREIGN))
def test_the_grader_samples_what_sampling_samples(name, tmp_path, kind):  # noqa: F811
    folder = lay_out(tmp_path / "team", name)
    with imported(folder) as custom_model:
        own = load_model(folder / "checkpoints/best_model.pt", custom_model.create_custom_model)
        own.eval().to(memory_format=torch.channels_last)
        works = [nfe for nfe in NFES if (name, nfe) != ("nan_at_four", 4)]
        expected = {nfe: to_uint8(next(generate(own, (3, 64, 64), nfe, 2, 2, 42, torch.float32))).numpy() for nfe in works}
    (tmp_path / "work").mkdir()
    remarks: list[str] = []
    model, _ = prepare(folder, tmp_path / "work", SETTINGS, remarks)
    model.to(torch.device("cpu"))
    assert remarks == [remark for remark, names in REMARKS.items() if name in names]
    with Broker(model, Limits(), kind) as broker:
        for nfe in works:
            before, made = broker.calls, broker.sample(nfe, image_seeds(42, 0, 2))
            assert broker.calls - before == 2 * nfe
            assert np.array_equal(made.images, expected[nfe])
            assert made.shares.min() > 0.999
        if name == "nan_at_four":
            with pytest.raises(Failed, match="not finite"):
                broker.sample(4, image_seeds(42, 0, 2))


@pytest.mark.slow
def test_a_failure_at_one_nfe_leaves_the_others(job, no_measuring):  # noqa: F811
    lay_out(job.submission, "nan_at_four")
    result = run_job(replace(job, settings=replace(job.settings, nfe=(2, 4))))
    assert result["status"] == "graded" and list(result["nfe"]) == ["2"] and result["reason"] is None
    assert result["failures"]["4"].startswith("wrong_output: ") and "not finite" in result["failures"]["4"]


@pytest.mark.slow
@pytest.mark.parametrize("noise_fid", [100.0, 200.0], ids=["no better than noise", "better than noise"])
def test_images_that_hardly_depend_on_the_network(noise_fid, job, no_measuring, monkeypatch):  # noqa: F811
    """They are graded with a remark; only where they score better than noise does something else explain them."""
    monkeypatch.setattr(grading, "noise_fid", lambda *_: noise_fid)
    lay_out(job.submission, "ddpm_wide")
    result = run_job(replace(job, settings=replace(job.settings, nfe=(4,))))
    if noise_fid == 100.0:
        assert result["status"] == "graded" and result["nfe"]["4"]["network_share"] > 0.99
        assert any("hardly depend on the network" in remark for remark in result["remarks"])
    else:
        assert result["reason"].startswith("stored_images: NFE 4: ") and "hardly depend" in result["reason"]


@pytest.mark.parametrize("name", slow_but(["package"], FOREIGN))
def test_check_passes_a_foreign_hand_in(name, tmp_path):
    """The course's own scripts, packages that only training needs, several networks: notes at most."""
    names = (
        "required files",
        "protected files",
        "imports",
        "requirements.txt",
        "code",
        "weights",
        "training starts",
        "network calls",
    )
    folder = lay_out(tmp_path / "team", name)
    results = {
        result.name: result
        for result in check.check(folder, tmp_path / "unpacked", names, python=forked_python(), network=NETWORK)
    }
    failed = [result for result in results.values() if result.todo]
    assert [result.name for result in failed] == (["network calls"] if name == "nan_at_four" else [])
    assert results["imports"].verdict == "note" and "torch_xla" in results["imports"].found
    assert results["training starts"].verdict == "note"
    if name == "nan_at_four":
        assert "NFE 4: a network call on values that are not finite" in results["network calls"].found
    if name == "ddpm_wide":
        assert "weak_network: NFE 4" in results["network calls"].found


@pytest.mark.slow
def test_the_staffs_sampling_runs_on_a_foreign_hand_in(tmp_path):
    """In a process of its own, with a src/utils.py of the student's and a network that is compiled."""
    for name in ("own_utils", "package"):
        folder = lay_out(tmp_path / name, name)
        options = {"python": forked_python(), "network": NETWORK, "num_samples": 2}
        [result] = check.check(folder, tmp_path / f"{name}_unpacked", ["sampling"], **options)
        assert result.verdict == "pass", result
