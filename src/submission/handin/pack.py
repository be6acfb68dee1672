"""Make the zip that is handed in, from a run.

python -m src.submission pack results/RUN --out submission.zip
"""

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from custom_model import create_custom_model
from src.challenges import Challenge, add_challenge_flag, get_challenge, graded_challenge
from src.common.checkpoints import MODEL_CONFIG, load_model, read_model_config
from src.common.cli import Parser, UserError, number
from src.common.files import PROJECT_ROOT, check_output, load_json, load_torch, save_torch, write_whole
from src.common.noise import image_seeds
from src.common.sampling import sample_batch
from src.runs.folder import BEST, CURVES, LAST, LOG, METRICS, TRAINING_CONFIG, checkpoint_of, nfe_folders, scale_name
from src.submission.handin.archive import content_hash
from src.submission.handin.contents import CHECKPOINT, CODE, CONFIG, SAMPLED, closure, foreign_imports, source_files
from src.submission.handin.kit import known_blobs, states

RESULTS = {  # of a run's files those that go along -> what the zip lacks without
    LOG: "losses",
    TRAINING_CONFIG: "settings of the training",
    CURVES: "curves",
    METRICS: "scores; measure_fid.py adds them to the run",
}
DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same files make the same zip
FLOAT16_BOUND = 0.5
LARGE = 1024  # numbers of a tensor that is worth leaving out
PROBE_IMAGES = 4


class Packed(NamedTuple):
    """A file of the zip: its name inside, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


def pack(
    run: Path,
    out: Path,
    writeup: Path | None,
    float16: bool = False,
    bound: float = FLOAT16_BOUND,
    slim: bool = False,
    root: Path = PROJECT_ROOT,
    challenge: str | None = None,
) -> list[Packed]:
    """Write the zip `out` and return what is in it, in order.

    Args:
        run: folder with last.ckpt (or best_model.pt) and model_config.json; what it has of RESULTS goes along as results/.
        writeup: the PDF; None leaves it out.
        float16: store the weights in half the bytes, if images change by less than bound.
        bound: the largest mean absolute change of a pixel at any NFE, in steps of 1/255.
        slim: store tensors that sampling never uses in no bytes of their own, if all images stay as they are.
        root: the project whose code is packed.
        challenge: the name of the challenge; by default the one that the run's model_config.json names.

    Raises UserError where something is missing, what sampling imports is not there, the checkpoint fits no model of
    custom_model.py, weights that were made smaller change the images too much, or the disk refuses.
    """
    checkpoint = checkpoint_of(run)
    if not (run.is_dir() and checkpoint.is_file()):
        raise UserError(f"{run} holds no {LAST} or {BEST}: give the folder of a finished run")
    if writeup is not None and not writeup.is_file():
        raise UserError(f"no write-up at {writeup}: make it with python -m src.writeup {run}, or name yours with --writeup")
    if not out.name.endswith(".zip"):
        raise UserError(f"--out {out}: expected a name that ends in .zip")
    check_output(out)
    sources = code_of(root)
    check_code(root, sources)
    task = graded_challenge(challenge or (read_model_config(checkpoint) or {}).get("challenge"))
    model = load_model(checkpoint, create_custom_model)

    sources |= {f"results/{name}": run / name for name in RESULTS if (run / name).is_file()}
    if absent := [f"no {name} ({what})" for name, what in RESULTS.items() if not (run / name).is_file()]:
        print(f"note: left out, since {run} has none of it: {', '.join(absent)}")
    sources |= {CONFIG: run / MODEL_CONFIG, CHECKPOINT: checkpoint}
    if writeup is not None:
        sources[writeup.name] = writeup
    if not (float16 or slim):
        return write_zip(sources, out)
    smaller = out.with_name(f".{out.name}.weights")
    try:
        saved = load_torch(checkpoint)
        state = saved.get("state_dict", saved)
        state = share_unused(model, state, task) if slim else state
        save_torch({"state_dict": halve(model, state, bound, task) if float16 else state}, smaller)
        return write_zip({**sources, CHECKPOINT: smaller}, out)
    finally:
        smaller.unlink(missing_ok=True)


def code_of(root: Path) -> dict[str, Path]:
    """The project's files that go along: name in the zip -> file."""
    return {name: root / name for name in (*CODE, "requirements.txt", *source_files(root))}


def write_zip(sources: Mapping[str, Path], out: Path) -> list[Packed]:
    """Write these files, by their names inside, as a zip, whole or not at all; the same files make the same bytes."""
    check_output(out)
    packed = [Packed(name, path.stat().st_size, content_hash(path)) for name, path in sorted(sources.items())]
    with write_whole(out) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, path in sorted(sources.items()):
            member = zipfile.ZipInfo(name, DATE)
            member.external_attr = 0o644 << 16
            stored = name == CHECKPOINT  # weights do not shrink
            member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(member, "w", force_zip64=stored) as target:
                while block := source.read(1 << 20):
                    target.write(block)
    return packed


def pack_images(samples: Path, out: Path, challenge: Challenge, root: Path = PROJECT_ROOT) -> list[Packed]:
    """Write the zip of a challenge whose images are handed in with the code, and return what is in it, in order.

    Args:
        samples: what sampling.py wrote: a folder scale=W for each of the challenge's guidance scales, in it one nfe=K.
        out: the zip.
        root: the project whose code and notebooks are packed.

    Raises UserError where a scale or an image is missing, or there are several numbers of calls to choose from.
    """
    folders = {}
    for scale in challenge.guidance_scales:
        place = samples / scale_name(scale)
        found = list(nfe_folders(place).values()) if place.is_dir() else []
        if len(found) != 1:
            names = ", ".join(folder.name for folder in found) or "none"
            raise UserError(f"{place}: expected one folder nfe=K to hand in, found {names}")
        folders[scale] = found[0]
    check_output(out)
    with tempfile.TemporaryDirectory(prefix="pack-") as made:
        sources = code_of(root) | {path.name: path for path in root.glob("*.ipynb")}
        for name, item in challenge.hand_in(folders).items():
            sources[name] = item if isinstance(item, Path) else Path(made) / name
            if isinstance(item, bytes):
                sources[name].write_bytes(item)
        return write_zip(sources, out)


def check_code(root: Path, files: Sequence[str] | Mapping[str, Path]) -> None:
    """Say what the staff will replace, and what does not go along. Raises UserError where sampling would lack something."""
    found = states(root, known_blobs(handed_out=True))
    if absent := [name for name, state in found.items() if state == "absent"]:
        raise UserError(f"files of the course are absent: {', '.join(absent)}; put the originals back")
    if changed := [name for name, state in found.items() if state == "changed"]:
        print(f"note: changed, the staff will put their own in place: {', '.join(changed)}")
    sampled = closure(root, SAMPLED)
    if foreign := foreign_imports(root, sampled, needed_only=True):
        names = "; ".join(f"{module} (in {', '.join(names)})" for module, names in foreign.items())
        raise UserError(
            f"sampling imports what is neither in this project nor in the course's environment: {names}; copy it into the "
            "project, remove the import, or guard it by try"
        )
    if others := foreign_imports(root, set(files) - sampled, needed_only=True):
        print(f"note: not in the course's environment, and not needed for sampling: {', '.join(others)}")
    packages = {(root / name).parent for name in sampled - set(SAMPLED) if not name.startswith("src/")} - {root}
    beside = [path for package in sorted(packages) for path in sorted(package.iterdir()) if path.is_file()]
    if data := [path.relative_to(root).as_posix() for path in beside if path.suffix not in (".py", ".pyc")]:
        print(f"note: only Python files are sampled with; these do not go along: {', '.join(data)}")


@torch.no_grad()
def halve(
    model: torch.nn.Module, state: dict[str, torch.Tensor], bound: float, challenge: Challenge
) -> dict[str, torch.Tensor]:
    """The weights in float16, once the images that they make are near those of the full weights."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    changes = compare(model, half, challenge)
    what = ", ".join(f"{change:.3f} at NFE {nfe}" for nfe, change in changes.items())
    what = f"float16 weights change the images by {what} (mean of steps of 1/255; bound {bound:g})"
    if not max(changes.values()) < bound:
        raise UserError(f"{what}: leave out --float16")
    print(what)
    return half


@torch.no_grad()
def share_unused(model: torch.nn.Module, state: dict[str, torch.Tensor], challenge: Challenge) -> dict[str, torch.Tensor]:
    """The same names and shapes, where the large tensors of modules that sampling never calls are views of one storage.

    A file holds a storage once, so they take no bytes of their own, and the file loads as strictly as before. Raises UserError
    where images change: then sampling uses them otherwise than by a call.
    """
    called: set[str] = set()
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()]
    probe(model, challenge)
    for hook in hooks:
        hook.remove()
    unused = {
        name: value
        for name, value in state.items()
        if value.is_floating_point() and value.numel() >= LARGE and name.rpartition(".")[0] not in called
    }
    if not unused:
        print("sampling uses every large tensor: --slim leaves the weights as they are")
        return state
    size = max(value.numel() for value in unused.values())
    zeros = {dtype: torch.zeros(size, dtype=dtype) for dtype in {value.dtype for value in unused.values()}}
    slim = state | {name: zeros[value.dtype][: value.numel()].view(value.shape) for name, value in unused.items()}
    if any(compare(model, slim, challenge).values()):
        raise UserError("images change without the tensors that sampling calls nothing of: leave out --slim")
    saved = sum(value.numel() * value.element_size() for value in unused.values()) / 1e6
    what = f"{len(unused)} tensors ({saved:,.1f} MB, such as {next(iter(unused))})"
    print(f"{what} are left out: sampling does not use them, and no image changes")
    return slim


def compare(model: torch.nn.Module, state: dict[str, torch.Tensor], challenge: Challenge) -> dict[int, float]:
    """How much images of the model change when it gets this state: NFE -> mean absolute change in steps of 1/255."""
    before = probe(model, challenge)
    model.load_state_dict(state)
    return {nfe: (images - before[nfe]).abs().mean().item() for nfe, images in probe(model, challenge).items()}


def probe(model: torch.nn.Module, challenge: Challenge) -> dict[int, torch.Tensor]:
    """A few images (B, 3, H, W) at each NFE from fixed noise, in 0..255."""
    shape, seeds = (PROBE_IMAGES, *challenge.shape), image_seeds(0, 0, PROBE_IMAGES)
    model.eval()
    arrays = {nfe: challenge.to_array(sample_batch(model, shape, nfe, seeds)) for nfe in challenge.nfe}
    return {nfe: torch.from_numpy(array).float() for nfe, array in arrays.items()}


def print_packed(files: Sequence[Packed]) -> None:
    print("\n".join(f"{file.sha256}  {file.size:>12,}  {file.name}" for file in files))


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m src.submission pack", description="make the zip that is handed in, from a run")
    run_help = "folder of the run: last.ckpt and model_config.json; or of images, if they are handed in"
    parser.add_argument("run", type=Path, help=run_help)
    parser.add_argument("--out", type=Path, default=Path("submission.zip"), help="the zip that is written")
    parser.add_argument("--writeup", type=Path, help="the PDF; by default RUN/writeup.pdf")
    parser.add_argument("--no_writeup", action="store_true", help="leave the write-up out: it is handed in elsewhere")
    float16_help = "store the weights in half the bytes, if the images stay the same"
    parser.add_argument("--float16", action="store_true", help=float16_help)
    bound_help = "what --float16 may change: the mean absolute change of a pixel in steps of 1/255"
    parser.add_argument("--float16_bound", type=number(float, 0), default=FLOAT16_BOUND, help=bound_help)
    add_challenge_flag(parser, default=None)
    slim_help = "leave out of the file what sampling never uses, such as a teacher, if the images stay as they are"
    parser.add_argument("--slim", action="store_true", help=slim_help)
    args = parser.parse_args(argv)
    task = get_challenge(args.challenge) if args.challenge else None
    if task and task.hands_in_code:
        files, method, flags = pack_images(args.run, args.out, task), "", f" --challenge {task.name}"
    else:
        if task:
            graded_challenge(task.name)
        writeup = None if args.no_writeup else args.writeup or args.run / "writeup.pdf"
        files = pack(args.run, args.out, writeup, args.float16, args.float16_bound, args.slim, challenge=args.challenge)
        method, flags = f", method {load_json(args.run / MODEL_CONFIG).get('method', 'custom')}", ""
    print_packed(files)
    size = args.out.stat().st_size
    print(f"{args.out}: {len(files)} files, {size:,} bytes, sha256 {content_hash(args.out)}{method}")
    print(f"now prove it: python -m src.submission check {args.out}{flags}")
