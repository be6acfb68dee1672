"""Grade a folder of submissions: `python -m src.submission grade SUBMISSIONS/ --out board/`.

Every zip file and folder in SUBMISSIONS is a team's (teams.py). Each is graded in a process of its own, and one's failure stops
no other. Given again, the command grades only what is new or has changed. docs/grading.md says what is checked and how.
"""

import os
import queue
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dataset import DATA_NAMES, DEFAULT_ROOT, REFERENCE_DIRS, prepare_reference
from src.common.cli import Parser, UserError, number
from src.common.files import PROJECT_ROOT, load_json
from src.submission.archive import content_hash
from src.submission.leaderboard import Reference, write_board
from src.submission.sandbox import SCRATCH, find_kind
from src.submission.team import Job, Settings, new_result, run_job, settings_key, write_result
from src.submission.teams import find_submissions

REFERENCES = {  # rows of the board that are no team: FID clean-fid, 1,000 vs 1,000 images
    "simpsons": (
        Reference("the course's baseline", "rectified flow, published", {1: 293.4, 2: 233.8, 4: 114.3}),
        Reference("best public entry", "published", {1: 90.3, 2: 41.5, 4: 33.5}),
        Reference("real images", "1,000 of the training images: the floor", {1: 18.2, 2: 18.2, 4: 18.2}),
    ),
    "toon": (),
}
INTERRUPTED = (130, -signal.SIGINT, 143, -signal.SIGTERM)  # exit codes of a process that was told to stop


def make_parser() -> Parser:
    parser = Parser(prog="python -m src.submission grade", description="grade a folder of submissions")
    parser.add_argument("submissions", type=Path, help="a folder of zip files and folders, one a team; or one submission")
    teams_help = "a table of two columns, comma or semicolon: a submission's file, person or id, and its team's name"
    parser.add_argument("--teams", type=Path, metavar="FILE", help=teams_help)
    parser.add_argument("--out", type=Path, default=Path("board"), help="leaderboard.html, .json, .csv and teams/ go here")
    parser.add_argument("--nfe", type=number(int, 1), nargs="+", default=[1, 2, 4], help="network calls per image")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="secret seeds, each sampled and measured")
    parser.add_argument("--num_images", type=number(int, 2), default=1000, help="images for each seed and NFE")
    parser.add_argument("--batch_size", type=number(int, 2), default=32, help="images at a time (CPU: at most 8)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="bf16 where the processor has it")
    seed_help = "the secret, a hexadecimal number; made beside --out if absent. Keep it: with it a grade can be repeated"
    parser.add_argument("--seed_file", type=Path, help=seed_help)
    parser.add_argument("--skip_public", action="store_true", help="do not compare with the public seed 42")
    parser.add_argument("--data", choices=DATA_NAMES, default="simpsons", help="the challenge")
    parser.add_argument("--data_root", default=DEFAULT_ROOT, help="the data set that an absent reference folder is made from")
    parser.add_argument("--reference_dir", type=Path, help="folder of the validation images; made if absent")
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    parser.add_argument("--sandbox", choices=tuple(SCRATCH), help="the best that there is, if not given")
    parser.add_argument("--device", default="cuda", help="without --devices; falls back to the CPU where there is none")
    parser.add_argument("--devices", type=indices, default=[], help="CUDA devices that share the teams, as 0,1")
    parser.add_argument("--jobs", type=number(int, 1), help="teams at a time; by default one a device")
    clusters = ("slurm", "local", "debug")
    parser.add_argument("--submitit", nargs="?", const="slurm", choices=clusters, help="one cluster job a team, by submitit")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--minutes", type=number(int, 1), default=120, help="of one cluster job")
    parser.add_argument("--again", action="store_true", help="grade anew what has a result already")
    return parser


def indices(text: str) -> list[int]:
    """An argparse type: "0,1" -> [0, 1]."""
    return [number(int, 0)(part) for part in text.split(",")]


def main(argv: Sequence[str]) -> None:
    args = make_parser().parse_args(argv)
    sys.stdout.reconfigure(errors="replace")  # names of teams may have letters that a terminal lacks
    found = find_submissions(args.submissions, args.teams)
    reference = args.reference_dir or Path(REFERENCE_DIRS[args.data])
    kind = find_kind(args.sandbox)
    if not reference.exists():
        prepare_reference(args.data, args.data_root, reference)
    seed_file = (args.seed_file or args.out.with_name(f".{args.out.name}.seed")).resolve()
    make_secret(seed_file, args.out.resolve())
    settings = Settings(
        reference_dir=str(reference.resolve()),
        sandbox=kind,
        nfe=tuple(dict.fromkeys(args.nfe)),
        seeds=args.seeds,
        num_images=args.num_images,
        batch_size=args.batch_size,
        device=args.device,
        precision=args.precision,
        public_seed=None if args.skip_public else 42,
        inception=args.inception and str(Path(args.inception).resolve()),
    )
    jobs = [Job(one.team, one.path, args.out.resolve(), seed_file, settings, one.remarks) for one in found]
    waiting = [job for job in jobs if args.again or not has_result(job)]
    print(f"submissions: {len(jobs)}, to grade: {len(waiting)}, sandbox: {kind}", flush=True)
    if args.submitit:
        run_on_cluster(waiting, args.submitit, args.minutes, args.partition)
    else:
        devices = [f"cuda:{index}" for index in args.devices] or [args.device]
        run_here(waiting, devices, args.jobs or len(devices))
    results = read_results(args.out / "teams", settings_key(jobs[0]))
    write_board(results, args.out, REFERENCES[args.data], nfes=settings.nfe)
    failed = sum(result["status"] == "failed" for result in results)
    print(f"{len(results) - failed} graded, {failed} failed: {args.out / 'leaderboard.html'}")


def make_secret(file: Path, board: Path) -> None:
    """Write a fresh secret where there is none, readable by its owner alone. UserError for a place that is shown around."""
    if board in file.parents:
        raise UserError(f"--seed_file {file} is inside of the board, which is published; give another place")
    if file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(16) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def has_result(job: Job) -> bool:
    """Whether this very submission has been graded with these settings and this secret."""
    file = job.folder / "result.json"
    if not file.is_file():
        return False
    result = load_json(file)
    if (result.get("reason") or "").startswith("grader_error"):
        return False
    return result.get("settings") == settings_key(job) and result.get("sha256") == content_hash(job.submission)


def read_results(teams: Path, key: str) -> list[dict[str, Any]]:
    """All results of the board with these settings and this secret, by team; those of other settings do not compare."""
    results = [load_json(file) for file in sorted(teams.glob("*/result.json"))]
    return [result for result in results if result.get("settings") == key]


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
            done = subprocess.run([sys.executable, "-m", "src.submission.team", str(file), device], cwd=PROJECT_ROOT)
            if done.returncode and done.returncode not in INTERRUPTED:
                write_fault(job, f"the team's process ended with code {done.returncode}")
        finally:
            free.put(device)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, jobs))


def run_on_cluster(jobs: list[Job], cluster: str, minutes: int, partition: str | None) -> None:
    """One job a team through submitit, and wait for all. The project, the board and the data must be on a shared disk."""
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
    started = [(job, executor.submit(run_job, job)) for job in jobs]
    for job, running in started:
        error = running.exception()
        if error is not None:
            write_fault(job, f"the cluster's job {running.job_id} failed: {type(error).__name__}")


def work_folder(board: Path) -> Path:
    """Beside the board, which is published: the jobs' descriptions, and a cluster's logs."""
    return board.with_name(f".{board.name}.jobs")


def write_fault(job: Job, text: str) -> None:
    """A result for a team whose process gave none."""
    write_result(job, new_result(job) | {"status": "failed", "reason": f"grader_error: {text}"})
