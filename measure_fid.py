"""FID of a folder of images against the validation images.

    python measure_fid.py --generated_dir ./samples/nfe=1

`fid_score` of the result is that of clean-fid's default mode; pytorch-fid's is measured beside it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from dataset import DATA_NAMES, DEFAULT_ROOT, REFERENCE_DIRS, prepare_reference
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import resolve_device
from src.common.files import check_output, write_whole
from src.evaluation.features import MODES, cached_features, differences, extract_features, read_images
from src.evaluation.fid import frechet_distance
from src.evaluation.weights import load_inception
from src.training.distributed import Team, join


def make_parser() -> Parser:
    parser = Parser(description="FID of a folder of images against the validation images")
    parser.add_argument("--generated_dir", required=True, help="folder of the images to judge (png, jpg, webp)")
    parser.add_argument(
        "--reference_dir", default=REFERENCE_DIRS["simpsons"], help="folder of the validation images; made if absent"
    )
    parser.add_argument("--data_root", default=DEFAULT_ROOT, help="the data set that an absent reference folder is made from")
    data_help = f"the challenge; with toon, --reference_dir becomes {REFERENCE_DIRS['toon']} unless given"
    parser.add_argument("--data", choices=DATA_NAMES, default="simpsons", help=data_help)
    parser.add_argument("--device", default="cuda", help="cpu, cuda, cuda:0 ...; without a CUDA device the CPU is taken")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per call of the network (CPU: at most 8)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="clean must be among them")
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    parser.add_argument("--output_path", default="./fid_results.json", help="where the result is written")
    return parser


def measure(
    generated: np.ndarray,
    reference: np.ndarray,
    modes: list[str],
    inception: torch.nn.Module,
    batch_size: int = 64,
    team: Team | None = None,
) -> dict[str, float]:
    """FID of uint8 images (N, 3, H, W) against (M, 3, H, W) in each mode.

    The reference's features are cached; the team shares the generated images.
    """
    team = team or Team()
    scores = {}
    for mode in dict.fromkeys(modes):
        description = f"images, {mode}" if team.is_first else None
        reference_features = cached_features(reference, inception, mode, batch_size, description and f"reference {description}")
        mine = generated[team.share(len(generated))]
        features = extract_features(mine, inception, mode, batch_size, description and f"generated {description}")
        scores[mode] = frechet_distance(np.concatenate(team.gather(features)), reference_features)
    return scores


def compute_fid(generated_dir: str | Path, reference_dir: str | Path, device: str = "cuda", batch_size: int = 64) -> float:
    """FID of clean-fid's default mode, of the images in one folder against those in another."""
    inception = load_inception(device=resolve_device(device))
    return measure(read_images(generated_dir), read_images(reference_dir), ["clean"], inception, batch_size)["clean"]


def prepare_reference_images(data_root: str | Path, reference_dir: str | Path, num_samples: int | None = None) -> None:
    """Write the validation images, or the first num_samples of them, into the absent folder reference_dir."""
    prepare_reference("simpsons", data_root, reference_dir, num_samples)


def main() -> None:
    args = make_parser().parse_args()
    check(args)
    with join(args.device) as (team, device):
        run(args, team, device)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot be followed, before any work."""
    if args.data == "toon" and args.reference_dir == REFERENCE_DIRS["simpsons"]:
        args.reference_dir = REFERENCE_DIRS["toon"]
    if "clean" not in args.modes:
        raise UserError("--modes must hold clean: fid_score is the FID of clean-fid's default mode")
    check_output(args.output_path)
    if args.inception and not Path(args.inception).is_file():
        raise UserError(f"--inception {args.inception}: no such file")


def run(args: argparse.Namespace, team: Team, device: torch.device) -> None:
    generated = read_images(args.generated_dir)
    if team.size > 1:  # one process makes an absent folder, the others wait for it
        if team.is_first:
            read_reference(args.data, args.data_root, Path(args.reference_dir))
        team.wait()
    reference = read_reference(args.data, args.data_root, Path(args.reference_dir))
    for warning in differences(generated, reference) if team.is_first else ():
        print(f"warning: {warning}")

    start = time.perf_counter()
    inception = load_inception(args.inception, device)
    scores = measure(generated, reference, args.modes, inception, args.batch_size, team)
    if not team.is_first:
        return
    result: dict[str, Any] = {
        "fid_score": scores["clean"],
        "generated_dir": args.generated_dir,
        "reference_dir": args.reference_dir,
        **{f"fid_{mode}": score for mode, score in scores.items()},
        "num_generated": len(generated),
        "num_reference": len(reference),
        "inception_sha256": inception.sha256,
        "inception_source": inception.source,
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(device),
        "seconds": round(time.perf_counter() - start, 2),
    }
    with write_whole(args.output_path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    for mode, score in scores.items():
        print(f"FID {mode}-fid, {len(generated)} vs {len(reference)}: {score:.3f}")
    print(f"written to {args.output_path}")


def read_reference(data: str, data_root: str, reference_dir: Path) -> np.ndarray:
    """The reference images, uint8 (N, 3, H, W); their folder is made from the validation split where it is absent."""
    if not reference_dir.exists():
        prepare_reference(data, data_root, reference_dir)
    return read_images(reference_dir)


if __name__ == "__main__":
    run_script(main)
