"""Make the zip that is handed in, from a run.

python -m src.submission pack results/RUN --out submission.zip
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from custom_model import create_custom_model
from src.common.checkpoints import load_model
from src.common.cli import Parser, UserError, number
from src.common.files import PROJECT_ROOT, load_json, load_torch, save_torch, write_whole
from src.common.images import image_seeds, to_uint8
from src.common.sampling import sample_batch
from src.submission.archive import content_hash
from src.submission.contents import CHECKPOINT, CODE, CONFIG, source_files
from src.submission.manifest import differences

CHECKPOINT_NAMES = ("last.ckpt", "best_model.pt")
RESULTS = ("log.jsonl", "training_config.json", "training_curves.png", "metrics.json")
DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same files make the same zip
FLOAT16_BOUND = 0.5
NFES, PROBE_IMAGES = (1, 2, 4), 4


@dataclass
class Packed:
    """A file of the zip: its name inside, where it comes from, its size in bytes and its SHA-256."""

    name: str
    source: Path
    size: int
    sha256: str


def pack(run: Path, out: Path, writeup: Path | None, float16: bool = False, bound: float = FLOAT16_BOUND) -> list[Packed]:
    """Write the zip `out` and return what is in it, in order.

    Args:
        run: folder with last.ckpt (or best_model.pt) and model_config.json; its log and curves go along as results/.
        writeup: the PDF; None leaves it out.
        float16: store the weights in half the bytes, if images change by less than bound.
        bound: the largest mean absolute change of a pixel at any NFE, in steps of 1/255.

    Raises UserError where something is missing, a protected file was changed, the checkpoint fits no model of
    custom_model.py, float16 changes the images too much, or the disk refuses.
    """
    checkpoint = next((run / name for name in CHECKPOINT_NAMES if (run / name).is_file()), None)
    if checkpoint is None:
        raise UserError(f"{run} holds no {' or '.join(CHECKPOINT_NAMES)}: give the folder of a finished run")
    if changed := [f"{name} ({how})" for name, how in differences(PROJECT_ROOT).items()]:
        raise UserError(f"protected files differ from the course's: {', '.join(changed)}; put the originals back")
    if writeup is not None and not writeup.is_file():
        raise UserError(f"no write-up at {writeup}: make it with python -m src.report {run}, or name yours with --writeup")
    if not out.name.endswith(".zip"):
        raise UserError(f"--out {out}: expected a name that ends in .zip")
    model = load_model(checkpoint, create_custom_model)

    sources = {name: PROJECT_ROOT / name for name in (*CODE, "requirements.txt", *source_files(PROJECT_ROOT))}
    sources |= {f"results/{name}": run / name for name in RESULTS if (run / name).is_file()}
    sources[CONFIG] = run / "model_config.json"
    if writeup is not None:
        sources[writeup.name] = writeup
    halved = out.with_name(f".{out.name}.weights")
    try:
        sources[CHECKPOINT] = checkpoint
        if float16:
            save_torch({"state_dict": _halve(model, checkpoint, bound)}, halved)
            sources[CHECKPOINT] = halved
        files = [Packed(name, path, path.stat().st_size, content_hash(path)) for name, path in sorted(sources.items())]
        with write_whole(out) as partial, zipfile.ZipFile(partial, "w") as archive:
            for file in files:
                member = zipfile.ZipInfo(file.name, DATE)
                member.external_attr = 0o644 << 16
                stored = file.name == CHECKPOINT  # weights do not shrink
                member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                with file.source.open("rb") as source, archive.open(member, "w", force_zip64=stored) as target:
                    while block := source.read(1 << 20):
                        target.write(block)
    finally:
        halved.unlink(missing_ok=True)
    return files


@torch.no_grad()
def _halve(model: torch.nn.Module, checkpoint: Path, bound: float) -> dict[str, torch.Tensor]:
    """The checkpoint's weights in float16, once the images that they make are near those of the full weights."""
    saved = load_torch(checkpoint)
    state = saved.get("state_dict", saved)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    full = _probe(model)
    model.load_state_dict(half)
    changes = {nfe: (images - full[nfe]).abs().mean().item() for nfe, images in _probe(model).items()}
    told = ", ".join(f"{change:.3f} at NFE {nfe}" for nfe, change in changes.items())
    if not max(changes.values()) < bound:
        raise UserError(
            f"float16 weights change the images by {told} (mean of steps of 1/255; bound {bound:g}): leave out --float16"
        )
    print(f"float16 weights change the images by {told} (mean of steps of 1/255; bound {bound:g})")
    return half


def _probe(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    """A few images (B, 3, 64, 64) at each NFE from fixed noise, in 0..255."""
    shape, seeds = (PROBE_IMAGES, 3, 64, 64), image_seeds(0, 0, PROBE_IMAGES)
    return {nfe: to_uint8(sample_batch(model.eval(), shape, nfe, seeds)).float() for nfe in NFES}


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m src.submission pack", description="make the zip that is handed in, from a run")
    parser.add_argument("run", type=Path, help="folder of the run: last.ckpt and model_config.json")
    parser.add_argument("--out", type=Path, default=Path("submission.zip"), help="the zip that is written")
    parser.add_argument("--writeup", type=Path, help="the PDF; by default RUN/writeup.pdf")
    parser.add_argument("--no_writeup", action="store_true", help="leave the write-up out: it is handed in elsewhere")
    parser.add_argument(
        "--float16", action="store_true", help="store the weights in half the bytes, if the images stay the same"
    )
    bound_help = "what --float16 may change: the mean absolute change of a pixel in steps of 1/255"
    parser.add_argument("--float16_bound", type=number(float, 0), default=FLOAT16_BOUND, help=bound_help)
    args = parser.parse_args(argv)
    writeup = None if args.no_writeup else args.writeup or args.run / "writeup.pdf"
    files = pack(args.run, args.out, writeup, args.float16, args.float16_bound)
    for file in files:
        print(f"{file.sha256}  {file.size:>12,}  {file.name}")
    method = load_json(args.run / "model_config.json").get("method", "custom")
    size = args.out.stat().st_size
    print(f"{args.out}: {len(files)} files, {size:,} bytes, sha256 {content_hash(args.out)}, method {method}")
    print(f"now prove it: python -m src.submission check {args.out}")
