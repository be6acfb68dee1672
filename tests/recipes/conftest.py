"""A shell recipe with a stand-in for Python: it notes what it is called with, and writes what the kit's scripts would."""

import json
import os
import subprocess
import sys

import pytest

SCORES = [3.5, 3.0, 4.0]  # FIDs of three seeds
STAND_IN = """#!{python}
import json, os, pathlib, subprocess, sys
words = sys.argv[1:]
value = lambda flag: pathlib.Path(words[words.index(flag) + 1])
if words[0] == "-" or "src.datasets.pack_zip" in words:
    sys.exit(subprocess.run([{python!r}, *words]).returncode)
with open({calls!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if "recipes.step_seconds" in words:
    value("--json").write_text(json.dumps(dict.fromkeys(words[words.index("--methods") + 1 : words.index("--json")], 0.5)))
elif "train.py" in words and "--dry_run" not in words:
    run = value("--save_dir") / value("--run_name")
    run.mkdir(parents=True, exist_ok=True)
    steps = 1 if os.environ.get("STOP_IN") == run.name else int(str(value("--num_iterations")))
    (run / "log.jsonl").write_text(json.dumps({{"step": steps, "loss": 1.0}}) + "\\n")
    (run / "last.ckpt").write_text("")
elif "sampling.py" in words:
    (value("--save_dir") / "nfe=1").mkdir(parents=True)
elif "--write_stats" in words:
    value("--write_stats").write_text("")
elif "measure_fid.py" in words:
    seed = int(value("--output_path").stem.removeprefix("seed="))
    result = {{"fid_score": {scores}[seed], "num_generated": 50000, "stats": str(value("--stats"))}}
    value("--output_path").parent.mkdir(exist_ok=True)
    value("--output_path").write_text(json.dumps(result))
"""


@pytest.fixture
def recipe(tmp_path, request):
    """Runs the module's RECIPE with a stand-in for Python; gives its exit code, its output and the commands it gave."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STAND_IN.format(python=sys.executable, calls=str(calls), scores=SCORES))
    python.chmod(0o755)

    def run(*flags, **environment):
        calls.write_text("")
        command = [request.module.RECIPE, "--python", python, "--out", tmp_path / "out", *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        return done.returncode, done.stdout + done.stderr, [json.loads(line) for line in calls.read_text().splitlines()]

    return run
