"""What the documents tell a reader to do works as they tell it."""

import os
import re
import shutil
import subprocess
import sys

from src.common.files import PROJECT_ROOT, cache_dir


def test_write_a_method(tmp_path):
    """The document's method, put into the folder of methods: found, passed by the battery, trained and sampled."""
    text = (PROJECT_ROOT / "docs" / "write_a_method.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (check,) = re.findall(r"Then `python (-m pytest [^`]*)`", text)
    for name in ("src", "tests"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("custom_model.py", "train.py", "dataset.py", "sampling.py", "pyproject.toml"):
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    (tmp_path / "src" / "methods" / "x_prediction.py").write_text(code)

    def python(arguments: str) -> str:
        env = {**os.environ, "CHALLENGE_CACHE": str(cache_dir())}  # toon faces that are drawn already
        result = subprocess.run([sys.executable, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert re.search(r"1\d passed", python(check))
    small = "--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --data toon --device cpu"
    python(
        f"train.py --method x_prediction {small} --num_iterations 2 --batch_size 4 --save_dir r --run_name x --time_scale 500"
    )
    python("sampling.py --ckpt_path r/x/last.ckpt --save_dir s --num_samples 2 --device cpu")
    assert len(list((tmp_path / "s").glob("nfe=[124]/*.png"))) == 6


def test_the_demo(package_file):
    """recipes/demo.sh in its smallest form: two runs, their samples and FIDs, and the table that it ends with."""
    out = PROJECT_ROOT / "results" / "demo_smoke"
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [PROJECT_ROOT / "recipes" / "demo.sh", sys.executable, "--smoke"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "| FID clean-fid, 12 vs 300 | NFE 1 | NFE 2 | NFE 4 |" in done.stdout
        assert re.search(r"\| trained \| \d+\.\d \| \d+\.\d \| \d+\.\d \|", done.stdout)
        assert (out / "trained" / "contact_sheet.png").is_file() and (out / "trained" / "summary.md").is_file()
    finally:
        shutil.rmtree(out, ignore_errors=True)
