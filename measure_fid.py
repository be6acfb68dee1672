"""FID of a folder of images against the validation images.

    python measure_fid.py --generated_dir ./samples/nfe=1

`fid_score` of the result is that of clean-fid's default mode; pytorch-fid's is measured beside it. With --challenge, what that
challenge measures of its samples; without it, the challenge that they were sampled for counts, where sampling.json says it.
Scores of samples that sampling.py made from a run are added to the run's metrics.jsonl and curves, wherever the two lie.
"""

import argparse
import contextlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from src.challenges import CHALLENGES, Challenge, add_challenge_flag, get_challenge
from src.challenges.shared.images import ImageChallenge, as_rgb, fid_mode
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import resolve_device
from src.common.files import check_output, save_json
from src.common.processes import Processes, join_processes
from src.evaluation.reference import unused_flags
from src.evaluation.statistics import cached_statistics, read_statistics, write_statistics
from src.runs.curves import draw_curves
from src.runs.folder import nfe_of, sampled_from
from src.runs.scores import add_to_run

STATS_METRIC = "fid_pytorch"  # of which a file of statistics is


def parse() -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of."""
    first = Parser(add_help=False)
    add_challenge_flag(first, default=None)
    first.add_argument("--generated_dir")
    chosen, _ = first.parse_known_args()
    sampled_as = sampled_from(chosen.generated_dir).get("challenge") if chosen.generated_dir else None
    challenge = get_challenge(chosen.challenge or (sampled_as if sampled_as in CHALLENGES.names() else None))
    parser = make_parser(challenge)
    args, unknown = parser.parse_known_args()
    if not (args.generated_dir or args.write_stats):
        parser.error("the following arguments are required: --generated_dir")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args, challenge


def make_parser(challenge: Challenge | None = None) -> Parser:
    challenge = challenge or get_challenge()
    parser = Parser(description="FID of a folder of images against the validation images")
    folder = challenge.reference_dir()
    reference_help = "folder of the validation images; made if absent" if folder else "folder; by default the data set itself"
    parser.add_argument("--generated_dir", help="folder of the images to measure (png, jpg, webp)")
    parser.add_argument("--reference_dir", default=folder, help=reference_help)
    parser.add_argument(
        "--data_root", default=challenge.default_root, help="the data set that an absent reference folder is made from"
    )
    add_challenge_flag(parser, default=challenge.name)
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per call of the network (CPU: at most 8)")
    modes = [fid_mode(metric) for metric in challenge.metrics] if isinstance(challenge, ImageChallenge) else []
    if modes:
        parser.add_argument("--modes", nargs="+", choices=modes, default=modes, help=f"{modes[0]} must be among them")
        parser.add_argument(
            "--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given"
        )
        if challenge.has_own_feature_network:
            network_help = "weights of the course's own feature network; the Inception of 2015 by default"
            parser.add_argument("--feature_network", "--judge", metavar="FILE", help=network_help)
        stats_help = "mean and covariance in pytorch-fid's format, which EDM's have too, instead of reference images"
        parser.add_argument("--stats", "--reference_stats", metavar="FILE", help=stats_help)
        stats_help = "write those of the reference images, for --stats and python -m pytorch_fid; needs no --generated_dir"
        parser.add_argument("--write_stats", metavar="FILE", help=stats_help)
    parser.set_defaults(**({} if modes else {"modes": [], "inception": None, "stats": None, "write_stats": None}))
    parser.add_argument("--output_path", default="./fid_results.json", help="where the result is written")
    return parser


def compute_fid(generated_dir: str | Path, reference_dir: str | Path, device: str = "cuda", batch_size: int = 64) -> float:
    """FID of clean-fid's default mode, of the images in one folder against those in another."""
    challenge = get_challenge()
    feature_network = challenge.load_feature_network(resolve_device(device))
    folders = [challenge.read(Path(folder)) for folder in (generated_dir, reference_dir)]
    return challenge.measure(*folders, feature_network, metrics=[challenge.metric], batch_size=batch_size)[challenge.metric]


def prepare_reference_images(data_root: str | Path, reference_dir: str | Path, num_samples: int | None = None) -> None:
    """Write the validation images, or the first num_samples of them, into the absent folder reference_dir."""
    get_challenge().write_reference(data_root, reference_dir, num_samples)


def main() -> None:
    args, challenge = parse()
    check(args, challenge)
    with join_processes(args.device) as (processes, device):
        run(args, challenge, processes, device)


def check(args: argparse.Namespace, challenge: Challenge) -> None:
    """Refuse flags that cannot be followed, before any work."""
    if args.modes and fid_mode(challenge.metric) not in args.modes:
        raise UserError("--modes must hold clean: fid_score is the FID of clean-fid's default mode")
    if args.stats and challenge.metric != STATS_METRIC:
        raise UserError(
            f"--stats are pytorch-fid's; the score of --challenge {challenge.name} is {challenge.metrics[challenge.metric]}"
        )
    if args.stats and args.write_stats:
        raise UserError("--write_stats makes the file from images: leave --stats out")
    for path in filter(None, (args.write_stats, args.output_path)):
        check_output(path)
    for flag in ("inception", "feature_network"):
        if (file := getattr(args, flag, None)) and not Path(file).is_file():
            raise UserError(f"--{flag} {file}: no such file")


def run(args: argparse.Namespace, challenge: Challenge, processes: Processes, device: torch.device) -> None:
    if unused := unused_flags(args, challenge.reference_dir(), challenge.default_root):
        processes.say(unused)
    with contextlib.nullcontext() if processes.is_first else contextlib.redirect_stdout(io.StringIO()):  # it is said once
        generated = challenge.read(Path(args.generated_dir)) if args.generated_dir else None
        reference = read_statistics(args.stats) if args.stats else read_reference(args, challenge, processes)
    if generated is not None and processes.is_first:
        for warning in challenge.warnings(generated, None if args.stats else reference):
            print(f"warning: {warning}")

    start = time.perf_counter()
    own = challenge.has_own_feature_network and args.feature_network
    load = challenge.load_own_feature_network if own else challenge.load_feature_network
    feature_network = load(device, args.feature_network if own else args.inception)
    if challenge.has_own_feature_network:
        which = f"that of {args.feature_network}" if own else "the Inception of 2015; --feature_network takes another"
        processes.say(f"feature network: {which}")
    if args.write_stats:
        title = "reference images, pytorch" if processes.is_first else None
        statistics = cached_statistics(
            as_rgb(reference), feature_network, fid_mode(STATS_METRIC), args.batch_size, title, processes
        )
        if processes.is_first:
            write_statistics(statistics, args.write_stats)
            print(f"statistics: {args.write_stats}")
    if generated is None:
        return
    metrics = [metric for metric in challenge.metrics if fid_mode(metric) in args.modes or not args.modes]
    scores = challenge.measure(
        generated, reference, feature_network, metrics=metrics, batch_size=args.batch_size, processes=processes, verbose=True
    )
    if not processes.is_first:
        return
    result: dict[str, Any] = {
        **({"fid_score": next(iter(scores.values()))} if args.modes else {}),
        "generated_dir": args.generated_dir,
        "reference_dir": args.reference_dir or args.data_root,
        **({"stats": args.stats} if args.stats else {}),
        **scores,
        "num_generated": len(generated),
        "num_reference": None if args.stats else len(reference),
        **({"inception_sha256": feature_network.sha256, "inception_source": feature_network.source} if args.modes else {}),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(device),
        "seconds": round(time.perf_counter() - start, 2),
    }
    save_json(result, args.output_path)
    against = Path(args.stats).name if args.stats else len(reference)
    for metric, score in scores.items():
        print(f"{challenge.metrics[metric]}, {len(generated)} vs {against}: {score:.3f}")
    sampled = sampled_from(args.generated_dir, len(generated))
    nfe = sampled.get("nfe", nfe_of(args.generated_dir))
    for mark in challenge.marks:
        if mark.nfe in (0, nfe) and mark.root in ("", args.data_root) and mark.metric in scores:
            print(f"{mark}: {'reached' if mark.passes(scores[mark.metric]) else 'not reached'}")
    print(f"written to {args.output_path}")
    measured, line = add_to_run(Path(args.generated_dir), challenge.name, scores, len(generated), str(against))
    if measured:
        draw_curves(measured)
    print(line)


def read_reference(args: argparse.Namespace, challenge: Challenge, processes: Processes) -> np.ndarray:
    """The samples to measure against; of several processes one makes an absent folder, and the others wait for it."""
    if processes.is_first:
        reference = challenge.read_reference(args.data_root, args.reference_dir)
    processes.wait()
    return reference if processes.is_first else challenge.read_reference(args.data_root, args.reference_dir)


if __name__ == "__main__":
    run_script(main)
