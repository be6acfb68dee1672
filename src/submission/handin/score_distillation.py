"""The hand-in of a course on score distillation: no model, but guidance/sd.py, the images of every loss with scores, a report.

python -m src.submission pack outputs --challenge score_distillation --student_id 113550000 --report report.pdf
python -m src.submission check 113550000_lab3.zip --challenge score_distillation
"""

import ast
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.common.cli import Parser, UserError
from src.common.distilled import EVAL, LOSS_TYPES, MARKS, RUN_CONFIG, describe_marks
from src.common.files import PROJECT_ROOT, load_json
from src.common.images import read_picture
from src.submission.handin.archive import unpack
from src.submission.handin.check import Note, NotPassed, one_pdf, print_results, results_of
from src.submission.handin.contents import foreign_imports
from src.submission.handin.pack import Packed, print_packed, write_zip

NAME = "score_distillation"
SD = "guidance/sd.py"
EXAMPLE = PROJECT_ROOT / "docs" / "examples" / "sd.py"
ZIP_NAME = re.compile(r"[A-Za-z0-9]+_lab3\.zip")
PROMPTS = 10  # images of each loss
PACKAGES = {"diffusers", "transformers", "peft", "accelerate"}  # beside those of the course's other task
METHODS = {  # what the course's script calls, by name and with these arguments in this order
    "get_sds_loss": ["latents", "text_embeddings", "guidance_scale"],
    "get_vsd_loss": ["latents", "text_embeddings", "guidance_scale", "lora_loss_weight"],
    "invert_noise": ["latents", "target_t", "text_embeddings", "guidance_scale", "n_steps", "eta"],
    "get_sdi_loss": [
        *("latents", "text_embeddings", "guidance_scale", "current_iter", "total_iters"),
        *("inversion_guidance_scale", "inversion_n_steps", "inversion_eta", "update_interval"),
    ],
}


def pack(outputs: Path, sd: Path, report: Path, out: Path) -> list[Packed]:
    """Write the zip `out` and return what is in it, in order.

    Args:
        outputs: what python -m src.score_distillation.evaluate wrote: a folder for each loss, with eval.json.
        sd: the class that goes in as guidance/sd.py.
        report: the PDF.

    Raises UserError where a file is absent, or no loss was evaluated.
    """
    for file, flag in ((sd, "--sd"), (report, "--report")):
        if not file.is_file():
            raise UserError(f"{flag} {file}: no such file")
    sources = {SD: sd, report.name: report}
    for loss in LOSS_TYPES:
        folder = outputs / loss
        for name in (EVAL, RUN_CONFIG, *(scores_of(folder) if (folder / EVAL).is_file() else ())):
            if (folder / name).is_file():
                sources[f"outputs/{loss}/{name}"] = folder / name
            elif name not in (EVAL, RUN_CONFIG):
                raise UserError(f"{folder / EVAL} has a score of {name}, which is absent: evaluate anew")
    if not any(name.endswith(EVAL) for name in sources):
        places = ", ".join(f"{loss}/{EVAL}" for loss in LOSS_TYPES)
        raise UserError(f"{outputs}: none of {places}; python -m src.score_distillation.evaluate makes them")
    return write_zip(sources, out)


def scores_of(folder: Path) -> dict[str, float]:
    """The scores that eval.json of a folder has, by image. Raises UserError where it is malformed."""
    values: Any = load_json(folder / EVAL)
    if not isinstance(values, dict) or not all(isinstance(value, (int, float)) for value in values.values()) or len(values) < 2:
        raise UserError(f'{folder / EVAL}: expected {{file: score, ..., "score": mean}}')
    return {name: value for name, value in values.items() if name != "score"}


@dataclass
class HandIn:
    """An unpacked hand-in. name: of the zip or folder that it was."""

    folder: Path
    name: str

    @cached_property
    def evaluated(self) -> dict[str, dict[str, float]]:
        """Loss -> the scores of its images, of those that have an eval.json. Raises UserError for a malformed one."""
        places = {loss: self.folder / "outputs" / loss for loss in LOSS_TYPES}
        return {loss: scores_of(place) for loss, place in places.items() if (place / EVAL).is_file()}


def file_name(given: HandIn) -> str:
    if not ZIP_NAME.fullmatch(given.name):
        raise NotPassed(f"it is called {given.name}, expected STUDENT_ID_lab3.zip", "pack it with --student_id")
    return given.name


def guidance(given: HandIn) -> str:
    file = given.folder / SD
    if not file.is_file():
        raise NotPassed(f"no {SD}", "pack it with --sd")
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise NotPassed(f"{SD}: not a Python file ({error})", "run it by hand") from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [{item.name: item for item in each.body if isinstance(item, ast.FunctionDef)} for each in classes]
    best = max(found, key=lambda methods: len(methods.keys() & METHODS.keys()), default={})
    if absent := [name for name in METHODS if name not in best]:
        raise NotPassed(f"{SD}: no class with all of {', '.join(METHODS)}; absent: {', '.join(absent)}", "write them")
    for name, expected in METHODS.items():
        arguments = [argument.arg for argument in best[name].args.args][1:]
        if arguments[: len(expected)] != expected:
            raise NotPassed(f"{SD}: {name} takes {', '.join(arguments)}", f"expected {', '.join(expected)}")
    foreign = foreign_imports(file.parent, [file.name])
    if strange := sorted((set(foreign) - PACKAGES) | set(of_the_kit(tree))):
        raise NotPassed(f"{SD} imports {', '.join(strange)}", "keep it to torch, diffusers, transformers and peft")
    return f"{SD} has a class with {', '.join(METHODS)}, and stands alone"


def of_the_kit(tree: ast.Module) -> Iterator[str]:
    """The modules of this kit that a file imports: they do not go along."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "." * node.level] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if name.split(".")[0] in ("", "src"))


def images(given: HandIn) -> str:
    if absent := [loss for loss in LOSS_TYPES if loss not in given.evaluated]:
        raise NotPassed(f"no outputs/{absent[0]}/{EVAL}", f"python -m src.score_distillation.evaluate --loss_type {absent[0]}")
    for loss, scores in given.evaluated.items():
        if len(scores) < PROMPTS:
            raise NotPassed(f"{loss}: {len(scores)} images, expected {PROMPTS}, one of each prompt", "evaluate all prompts")
        for name in scores:
            file = given.folder / "outputs" / loss / name
            if not file.is_file():
                raise NotPassed(f"outputs/{loss}/{name} is absent", "pack anew")
            read_picture(file, f"outputs/{loss}/{name}")
    return f"{', '.join(f'{len(scores)} of {loss}' for loss, scores in given.evaluated.items())}"


def scores(given: HandIn) -> str:
    lines, reached = [], True
    for loss, found in given.evaluated.items():
        mean = sum(found.values()) / len(found)
        score = load_json(given.folder / "outputs" / loss / EVAL).get("score")
        if not isinstance(score, (int, float)) or abs(score - mean) > 1e-4:
            raise NotPassed(f"{loss}: score is {score}, the mean of its images {mean:.4f}", "evaluate anew")
        lines.append(f"{loss} {score:.4f} ({describe_marks(score)})")
        reached = reached and score >= max(MARKS.values())
    return "; ".join(lines) if reached else Note("; ".join(lines))


def report(given: HandIn) -> str:
    return one_pdf(given.folder, "pack it with --report").name


CHECKS: dict[str, Callable[[HandIn], str]] = {
    "name": file_name,
    "guidance": guidance,
    "images": images,
    "scores": scores,
    "report": report,
}


def main(command: str, argv: list[str]) -> None:
    """pack or check, with these arguments."""
    parser = Parser(prog=f"python -m src.submission {command}", description=__doc__.splitlines()[0])
    parser.add_argument("--challenge", choices=(NAME,), default=NAME, help="whose hand-in it is")
    if command == "pack":
        parser.add_argument("outputs", type=Path, help="the --save_dir of python -m src.score_distillation.evaluate")
        parser.add_argument("--student_id", required=True, help="letters and digits, which name the zip")
        parser.add_argument("--report", type=Path, required=True, help="the PDF")
        parser.add_argument("--sd", type=Path, default=EXAMPLE, help="what goes in as guidance/sd.py")
        parser.add_argument("--out", type=Path, default=Path(), help="the folder that the zip is written to")
        args = parser.parse_args(argv)
        out = args.out / f"{args.student_id}_lab3.zip"
        if not ZIP_NAME.fullmatch(out.name):
            raise UserError(f"--student_id {args.student_id}: expected letters and digits")
        print_packed(pack(args.outputs, args.sd, args.report, out))
        if args.sd == EXAMPLE:
            print(f"note: {SD} is this kit's example; --sd packs a class of yours")
        print(f"{out}: now prove it: python -m src.submission check {out} --challenge {NAME}")
        return
    parser.add_argument("submission", type=Path, help="the zip, or a folder of the same files")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        unpack(args.submission, Path(folder) / "hand_in")
        given = HandIn(Path(folder) / "hand_in", args.submission.name)
        print_results(args.submission, results_of(given, CHECKS), len(CHECKS))
