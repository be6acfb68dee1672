"""The write-up of a run as a PDF of at most two A4 pages, references after them.

    python -m src.writeup results/RUN

The first call writes results/RUN/writeup.md, a draft with [[places]] to fill in; every call makes writeup.pdf of it and checks
it. Edit the text and call again, until nothing is missing. `python -m src.writeup --check FILE.pdf` checks a PDF of any tool.
"""

from pathlib import Path

from src.challenges import get_challenge
from src.common.cli import Parser, UserError, number, run_script
from src.common.files import read_text, write_whole
from src.runs.folder import Run
from src.writeup.check import check_writeup
from src.writeup.draft import draft
from src.writeup.figures import drawings
from src.writeup.run import Writeup, read_run
from src.writeup.typeset import missing_letters, parse, typeset


def main() -> None:
    parser = Parser(prog="python -m src.writeup", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of the run, or a checkpoint in it")
    parser.add_argument("--metrics", nargs="+", type=Path, help="results of measure_fid.py, if not in RUN/metrics.jsonl")
    samples_help = "folder of folders nfe=K, if not what was measured, RUN/samples or ./samples"
    parser.add_argument("--samples", type=Path, help=samples_help)
    parser.add_argument("--previews", type=Path, help="folder of step_NNNNNNN.png, if not RUN/previews")
    parser.add_argument("--plan", action="store_true", help="the draft shows the sampler as arithmetic, at the largest NFE")
    parser.add_argument("--check", metavar="PDF", type=Path, help="only check this PDF")
    usual = get_challenge().nfe
    parser.add_argument("--nfe_list", type=number(int, 1), nargs="+", default=usual, help="of --check: NFEs whose FID is told")
    args = parser.parse_args()
    if (args.run is None) == (args.check is None):
        parser.error("expected the folder of a run, or --check PDF")
    if args.check:
        pdf, problems = args.check, check_writeup(args.check, args.nfe_list)
    else:
        pdf, problems = make(read_run(Run.of(args.run).folder, args.metrics, args.samples, args.previews), args.plan)
    if problems:
        raise UserError(f"{pdf}: {len(problems)} to mend: {'; '.join(problems)}")
    print(f"{pdf}: nothing is missing")


def make(run: Writeup, plan: bool) -> tuple[Path, list[str]]:
    """Write writeup.md, unless there is one, and writeup.pdf into the run's folder; the PDF's path and what is wrong with it.

    plan: whether a new writeup.md shows the sampler as arithmetic. Raises UserError where the PDF cannot be made at all.
    """
    source, pdf = run.folder / "writeup.md", run.folder / "writeup.pdf"
    if not source.exists():
        text = draft(run, plan)
        with write_whole(source) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"{source} written: edit it, then give the same command again")
    try:
        blocks = parse(read_text(source))
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: expected text in UTF-8 ({error})") from error
    draws, problems = drawings(run)
    typeset(blocks, draws, run.folder, pdf)
    if letters := missing_letters("".join(block.text for block in blocks)):
        problems.append(f"letters: the fonts lack {letters[:20]}; write these words in Latin letters")
    items = {problem.partition(":")[0] for problem in problems}
    return pdf, problems + [problem for problem in check_writeup(pdf, run.nfe) if problem.partition(":")[0] not in items]


if __name__ == "__main__":
    run_script(main)
