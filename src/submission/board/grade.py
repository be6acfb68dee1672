"""Grade a folder of submissions: `python -m src.submission grade SUBMISSIONS/ --out board/`.

Every zip file and folder in SUBMISSIONS is a team's (teams.py). Each is graded in a process of its own, and one's failure stops
no other. Given again, the command grades only what is new or has changed. docs/grading.md says what is checked and how.
"""

import argparse
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.challenges import Challenge, add_challenge_flag, graded_challenge
from src.common.cli import ENDING, Parser, UserError, number
from src.common.devices import add_precision_flag
from src.common.files import PROJECT_ROOT, save_json
from src.evaluation.reference import unused_flags
from src.submission.board import grading
from src.submission.board.job import (
    Job,
    Settings,
    is_of,
    keys_of,
    make_secret,
    new_result,
    read_results,
    result_of,
    work_folder,
    write_result,
)
from src.submission.board.leaderboard import write_board
from src.submission.board.teams import find_submissions
from src.submission.handin.kit import known_blobs
from src.submission.sandbox.process import find_bubblewrap
from src.submission.sandbox.sampler import COURSE_SEED

# exit codes of a process that was stopped
INTERRUPTED = {code for number in (signal.SIGINT, *ENDING) for code in (128 + number, -number)}


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of. Raises UserError for one that is not graded."""
    first = Parser(add_help=False)
    add_challenge_flag(first)
    challenge = graded_challenge(first.parse_known_args(argv)[0].challenge)
    parser = Parser(prog="python -m src.submission grade", description="grade a folder of submissions")
    parser.add_argument("submissions", type=Path, help="a folder of zip files and folders, one per team; or one submission")
    teams_help = "a table of two columns, comma or semicolon: a submission's file, person or id, and its team's name"
    parser.add_argument("--teams", type=Path, metavar="FILE", help=teams_help)
    parser.add_argument("--out", type=Path, default=Path("board"), help="leaderboard.html, .json, .csv and teams/ go here")
    parser.add_argument("--nfe", type=number(int, 1), nargs="+", default=list(challenge.nfe), help="network calls per image")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="secret seeds, each sampled and measured")
    count_help = "images for each seed and NFE"
    parser.add_argument("--num_images", type=number(int, 2), default=challenge.num_samples, help=count_help)
    parser.add_argument("--batch_size", type=number(int, 2), default=32, help="images at a time (CPU: at most 8)")
    add_precision_flag(parser)
    seed_help = "the secret, a hexadecimal number; made beside --out if absent. Keep it: with it a grade can be repeated"
    parser.add_argument("--seed_file", type=Path, help=seed_help)
    parser.add_argument("--skip_public", action="store_true", help="do not make the images of the course's script (seed 42)")
    add_challenge_flag(parser)
    root_help = "the data set that an absent reference folder is made from"
    parser.add_argument("--data_root", default=challenge.default_root, help=root_help)
    parser.add_argument("--reference_dir", type=Path, help="folder of the validation images; made if absent")
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    parser.add_argument("--device", default="cuda", help="without --devices; falls back to the CPU where there is none")
    parser.add_argument("--devices", type=indices, default=[], help="CUDA devices that share the teams, as 0,1")
    parser.add_argument("--jobs", type=number(int, 1), help="teams at a time; by default one a device")
    clusters = ("slurm", "local", "debug")
    parser.add_argument("--submitit", nargs="?", const="slurm", choices=clusters, help="one cluster job per team, by submitit")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--minutes", type=number(int, 1), default=120, help="of one cluster job")
    parser.add_argument("--again", action="store_true", help="grade anew what has a result already")
    return parser.parse_args(argv), challenge


def indices(text: str) -> list[int]:
    """An argparse type: "0,1" -> [0, 1]."""
    return [number(int, 0)(part) for part in text.split(",")]


def main(argv: Sequence[str]) -> None:
    args, challenge = parse(argv)
    found = find_submissions(args.submissions, args.teams)
    reference = args.reference_dir or Path(challenge.reference_dir())
    find_bubblewrap()
    if unused := unused_flags(args, None, challenge.default_root):
        print(unused)
    challenge.read_reference(args.data_root, reference)  # makes it where it is absent
    board = args.out.resolve()
    seed_file = (args.seed_file or args.out.with_name(f".{args.out.name}.seed")).resolve()
    make_secret(seed_file, board)
    settings = Settings(
        reference_dir=str(reference.resolve()),
        challenge=challenge.name,
        nfe=tuple(dict.fromkeys(args.nfe)),
        **{name: getattr(args, name) for name in ("seeds", "num_images", "batch_size", "device", "precision")},
        public_seed=None if args.skip_public else COURSE_SEED,
        inception=args.inception and str(Path(args.inception).resolve()),
        data_root=str(Path(args.data_root).resolve()) if Path(args.data_root).exists() else None,
    )
    jobs = [Job(one.team, one.path, board, seed_file, settings, one.remarks) for one in found]
    waiting = choose(jobs, args.again)
    print(f"submissions: {len(jobs)}, to grade: {len(waiting)}", flush=True)
    save_json({name: sorted(blobs) for name, blobs in known_blobs().items()}, work_folder(board) / grading.KIT)
    if args.submitit:
        run_on_cluster(waiting, args.submitit, args.minutes, args.partition)
    else:
        devices = [f"cuda:{index}" for index in args.devices] or [args.device]
        run_here(waiting, devices, args.jobs or len(devices))
    results = read_results(jobs[0])
    write_board(results, args.out, challenge.published, nfes=settings.nfe)
    failed = sum(result["status"] == "failed" for result in results)
    print(f"{len(results) - failed} graded, {failed} failed: {args.out / 'leaderboard.html'}")


def choose(jobs: Sequence[Job], again: bool) -> list[Job]:
    """Those that have no result, or none that compares; a line says so where other bounds are why."""
    keys, results = keys_of(jobs[0]), [result_of(job) for job in jobs]
    if other := sum(result is not None and not is_of(result, {"bounds": keys["bounds"]}) for result in results):
        print(f"the grader's bounds have changed: {other} that were graded under others are graded anew")
    return [job for job, result in zip(jobs, results, strict=True) if again or result is None or not is_of(result, keys)]


def run_here(jobs: list[Job], devices: list[str], count: int) -> None:
    """Grade on this machine, `count` teams at a time, the devices taking turns. A team interrupted keeps its earlier result."""
    free: queue.Queue[str] = queue.Queue()
    for index in range(count):
        free.put(devices[index % len(devices)])

    def run(job: Job) -> None:
        device = free.get()
        try:
            file = work_folder(job.board) / f"{job.folder.name}.json"
            job.write(file)
            done = subprocess.run([sys.executable, "-m", grading.__name__, str(file), device], cwd=PROJECT_ROOT)
            if done.returncode and done.returncode not in INTERRUPTED:
                write_fault(job, f"the team's process ended with code {done.returncode}")
        finally:
            free.put(device)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, jobs))


def run_on_cluster(jobs: list[Job], cluster: str, minutes: int, partition: str | None) -> None:
    """One job per team through submitit, and wait for all. The project, the board and the data must be on a shared disk."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--submitit needs the package submitit: pip install submitit") from error
    if not jobs:
        return
    executor = submitit.AutoExecutor(folder=work_folder(jobs[0].board), cluster=cluster)
    options: dict[str, Any] = {"timeout_min": minutes, "cpus_per_task": 4, "name": "grade"}
    if jobs[0].settings.device.startswith("cuda") and cluster == "slurm":
        options["gpus_per_node"] = 1
    if partition:
        options["slurm_partition"] = partition
    executor.update_parameters(**options)
    for job, running in [(job, executor.submit(grading.run_job, job)) for job in jobs]:
        if error := running.exception():
            write_fault(job, f"the cluster's job {running.job_id} failed: {type(error).__name__}")


def write_fault(job: Job, text: str) -> None:
    """A result for a team whose process gave none."""
    write_result(job, new_result(job) | {"status": "failed", "reason": f"grader_error: {text}"})
