"""FID of a folder of images against the validation images.

    python measure_fid.py --generated_dir ./samples/nfe=1

`fid_score` of the result is that of clean-fid's default mode; pytorch-fid's is measured beside it. With --challenge, what that
challenge measures of its samples.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from src.challenges import Challenge, add_challenge_flag, get_challenge
from src.challenges._images import ImageChallenge, fid_mode
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import resolve_device
from src.common.files import check_output, save_json
from src.common.processes import Processes, join_processes
from src.evaluation.features import comparability_warnings
from src.runs import nfe_of


def parse() -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of."""
    first = Parser(add_help=False)
    add_challenge_flag(first)
    challenge = get_challenge(first.parse_known_args()[0].challenge)
    return make_parser(challenge).parse_args(), challenge


def make_parser(challenge: Challenge | None = None) -> Parser:
    challenge = challenge or get_challenge()
    parser = Parser(description="FID of a folder of images against the validation images")
    parser.add_argument("--generated_dir", required=True, help="folder of the images to judge (png, jpg, webp)")
    parser.add_argument(
        "--reference_dir", default=challenge.reference_dir(), help="folder of the validation images; made if absent"
    )
    parser.add_argument(
        "--data_root", default=challenge.default_root, help="the data set that an absent reference folder is made from"
    )
    add_challenge_flag(parser)
    parser.add_argument("--device", default="cuda", help="cpu, cuda, cuda:0 ...; without a CUDA device the CPU is taken")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per call of the network (CPU: at most 8)")
    modes = [fid_mode(metric) for metric in challenge.metrics] if isinstance(challenge, ImageChallenge) else []
    if modes:
        parser.add_argument("--modes", nargs="+", choices=modes, default=modes, help=f"{modes[0]} must be among them")
        parser.add_argument(
            "--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given"
        )
    parser.set_defaults(**({} if modes else {"modes": [], "inception": None}))
    parser.add_argument("--output_path", default="./fid_results.json", help="where the result is written")
    return parser


def compute_fid(generated_dir: str | Path, reference_dir: str | Path, device: str = "cuda", batch_size: int = 64) -> float:
    """FID of clean-fid's default mode, of the images in one folder against those in another."""
    challenge = get_challenge()
    judge = challenge.load_judge(resolve_device(device))
    folders = [challenge.read(Path(folder)) for folder in (generated_dir, reference_dir)]
    return challenge.measure(*folders, judge, metrics=[challenge.metric], batch_size=batch_size)[challenge.metric]


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
    check_output(args.output_path)
    if args.inception and not Path(args.inception).is_file():
        raise UserError(f"--inception {args.inception}: no such file")


def run(args: argparse.Namespace, challenge: Challenge, processes: Processes, device: torch.device) -> None:
    generated = challenge.read(Path(args.generated_dir))
    if processes.size > 1:  # one process makes an absent folder, the others wait for it
        if processes.is_first:
            challenge.read_reference(args.data_root, args.reference_dir)
        processes.wait()
    reference = challenge.read_reference(args.data_root, args.reference_dir)
    for warning in comparability_warnings(generated, reference) if processes.is_first else ():
        print(f"warning: {warning}")

    start = time.perf_counter()
    judge = challenge.load_judge(device, args.inception)
    metrics = [metric for metric in challenge.metrics if fid_mode(metric) in args.modes or not args.modes]
    scores = challenge.measure(
        generated, reference, judge, metrics=metrics, batch_size=args.batch_size, processes=processes, verbose=True
    )
    if not processes.is_first:
        return
    result: dict[str, Any] = {
        **({"fid_score": scores[challenge.metric]} if args.modes else {}),
        "generated_dir": args.generated_dir,
        "reference_dir": args.reference_dir,
        **scores,
        "num_generated": len(generated),
        "num_reference": len(reference),
        **({"inception_sha256": judge.sha256, "inception_source": judge.source} if args.modes else {}),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(device),
        "seconds": round(time.perf_counter() - start, 2),
    }
    save_json(result, args.output_path)
    for metric, score in scores.items():
        print(f"{challenge.metrics[metric]}, {len(generated)} vs {len(reference)}: {score:.3f}")
    for mark in challenge.marks:
        if mark.nfe == nfe_of(args.generated_dir) and mark.root in ("", args.data_root) and mark.metric in scores:
            print(f"{mark}: {'reached' if mark.passes(scores[mark.metric]) else 'not reached'}")
    print(f"written to {args.output_path}")


if __name__ == "__main__":
    run_script(main)
