"""recipes/guidance.sh: each stage is run in small, and a stage that is done is skipped."""

import json
import os
import subprocess

import numpy as np
import pytest
from PIL import Image

from src.common.files import PROJECT_ROOT
from tests.processes import forked_python

RECIPE = PROJECT_ROOT / "recipes" / "guidance.sh"


def run(*flags, **environment):
    done = subprocess.run(
        [RECIPE, "--python", forked_python(), *map(str, flags)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 14)):
        for name, grey in (("dark", 60), ("bright", 180)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(grey + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.slow
def test_in_small(pictures, tmp_path, package_file):
    flags = ["--data_root", pictures, "--out", tmp_path / "out", "--iterations", 3, "--num_samples", 26, "--scales", "0 7.5"]
    flags += ["--nfe", 2, "--device", "cpu"]
    cache = {"CHALLENGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    code, words = run(*flags, **cache)
    assert code == 0, words
    for scale in ("0", "7.5"):
        place = tmp_path / "out" / f"scale={scale}"
        assert len(list((place / "nfe=2").glob("*.png"))) == 26 and (place / "classes_nfe=2.png").is_file()
        metrics = json.loads((place / "nfe=2" / "metrics.json").read_text())
        assert "accuracy" in json.dumps(metrics) and metrics["num_reference"] == 28
    assert "accuracy" in (tmp_path / "out" / "comparison.txt").read_text()
    code, words = run(*flags, **cache)
    assert code == 0 and "has made its 3 steps already" in words and "NFE=2" not in words
