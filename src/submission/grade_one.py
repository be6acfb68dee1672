"""Grade one submission in a process of its own, as `src.submission.grade` starts it:

python -m src.submission.grade_one JOB.json DEVICE
"""

import sys
from dataclasses import replace
from pathlib import Path

from src.common.cli import run_script
from src.submission.grading import run_job
from src.submission.job import Job


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    job = replace(job, settings=replace(job.settings, device=sys.argv[2]))
    result = run_job(job)
    print(f"{job.team}: {result['reason'] or 'graded'} ({result['seconds']:.0f} s)", flush=True)


if __name__ == "__main__":
    run_script(main)
