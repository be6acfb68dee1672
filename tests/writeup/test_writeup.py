"""The write-up of a run: drafted, set, checked and rendered; and the check of other tools' PDFs. The run is made of files."""

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import custom_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.images import contact_sheet
from src.methods import Method, get_method
from src.runs.folder import Run, identity_of, nfe_of, note_sampling
from src.writeup import __main__ as writeup
from src.writeup.check import check_writeup, nfes_in
from src.writeup.draft import draft, method_papers, own_text, read_references
from src.writeup.run import cut_sheet, earlier_runs, early_previews, read_run
from src.writeup.typeset import COLUMN, SIDE, fonts, markup, parse
from tests import shipped
from tests.helpers import add_measured, call, fails, random_images, slow_but

pytest.importorskip("reportlab", reason="pip install -r requirements-writeup.txt")
pypdf = pytest.importorskip("pypdf", reason="pip install -r requirements-writeup.txt")

STEPS = 1000
SHEET_STEPS = (32, 64, 128, 250, 500, 1000)
FILLED = {"name of the team": "The Few", "names of the authors": "Ann Łukasz", "code and papers": "Code: only the kit"}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of 1,000 steps, with random pictures."""
    folder = tmp_path_factory.mktemp("made")
    training = {
        "command": f"train.py --method shortcut --save_dir {'a_long_folder/' * 25}",
        "batch_size": 32,
        "lr": 1e-4,
        "lr_warmup": 500,
        "grad_clip": 1.0,
        "ema_half_lives": [0.05],
        "flip": True,
        "num_training_images": 8877,
        "num_parameters": 59934979,
        "image_shape": [3, 64, 64],
        "device": "cpu",
        "precision": "float32",
        "torch": "2.6.0",
        "seed": 42,
    }
    write_json(folder / "training_config.json", training)
    write_json(folder / "model_config.json", {"method": "shortcut", "ch": 128, "finest_steps": 128})
    rows = [{"step": s, "images_seen": 32 * s, "loss": 1 / s, "seconds": 4.5 * s} for s in range(100, STEPS + 1, 100)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1100, "lo')
    (folder / "previews").mkdir()
    for step in SHEET_STEPS:
        rows = [random_images(8, seed=step + row, shape=(3, 64, 64)) for row in range(3)]
        contact_sheet(rows, ["NFE 1", "NFE 2", "NFE 4"]).save(folder / "previews" / f"step_{step:07d}.png")
    for nfe in (1, 2, 4):
        (folder / "samples" / f"nfe={nfe}").mkdir(parents=True)
        for index, image in enumerate(random_images(8, seed=nfe, shape=(3, 64, 64))):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / "samples" / f"nfe={nfe}" / f"{index:04d}.png")
        result = {"fid_score": 40 / nfe, "num_generated": 1000, "num_reference": 1000}
        write_json(folder / "fid" / f"nfe={nfe}.json", result)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """The run, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "first"))


def fill_in(text: str) -> str:
    for place, words in FILLED.items():
        text = re.sub(rf"\[\[{place}[^\]]*\]\]", words, text)
    return text


@pytest.fixture(scope="module")
def drafted(made, tmp_path_factory) -> str:
    """The text of its write-up, places filled in."""
    return fill_in(draft(read_run(Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "first")))))


@pytest.fixture
def edited(run, drafted):
    """The run with that write-up."""
    source = run / "writeup.md"
    source.write_text(drafted, encoding="utf-8")
    return source


def test_draft_then_write_up(run, tmp_path, monkeypatch, capsys):
    """The first call drafts and names the places, the second passes; the pages are as they should be when rendered."""
    line = fails(writeup, monkeypatch, capsys, run)
    assert "3 to mend" in line and line.count("not filled in") == 3 and "name of the team" in line
    source, pdf = run / "writeup.md", run / "writeup.pdf"
    assert "**Total training time: 1 h 15 min**" in source.read_text()
    source.write_text(fill_in(source.read_text(encoding="utf-8")), encoding="utf-8")
    assert call(writeup, monkeypatch, run) == 0
    assert "nothing is missing" in capsys.readouterr().out and "Łukasz" in source.read_text(), "the edited text is kept"

    reader = pypdf.PdfReader(pdf)
    text = " ".join(" ".join(page.extract_text() for page in reader.pages).split())
    for words in (
        "The Few",
        "Łukasz",
        "59,934,979",
        "learning rate of 0.0001",
        "NFE 2",
        "20.00",
        "arXiv:2410.12557",
        "Code: few-",
    ):
        assert words in text, words
    images = [np.asarray(item.image.convert("RGB")) for page in reader.pages for item in page.images]
    assert len(images) == 1 + 3 * 8 + 3 * 8, "curves; early: four phases, two noises, three NFE; samples"
    early = random_images(8, seed=32, shape=(3, 64, 64))[0].transpose(1, 2, 0)
    assert any(np.array_equal(early, image) for image in images), "the samples stand in the PDF pixel by pixel"


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="pdftoppm is not installed: apt install poppler-utils")
def test_pages_when_rendered(run, edited, tmp_path, monkeypatch):
    """A4 pages with ink on them, and none at the edges or between the columns, for all that words are long."""
    pdf = run / "writeup.pdf"
    text = edited.read_text(encoding="utf-8").replace("# Few-step", "# ✓ *₀* Few-step").replace("## Method", "## Method ✓")
    text += "\n2. A long word: " + "verylong" * 38 + ", **bold ₀ `code` *x***, [link ₀](https://example.org/?a=1&b=2)\n"
    edited.write_text(text, encoding="utf-8")
    assert call(writeup, monkeypatch, run) == 0
    subprocess.run(["pdftoppm", "-png", "-r", "72", pdf, tmp_path / "page"], check=True)
    pages = [np.asarray(Image.open(path).convert("L")) for path in sorted(tmp_path.glob("page*.png"))]
    assert len(pages) == len(pypdf.PdfReader(pdf).pages) <= 2
    for page in pages:
        assert page.shape in ((842, 595), (842, 596))
        margin, gutter = int(SIDE) - 3, int(SIDE + COLUMN)
        assert page[:, :margin].min() == page[:, -margin:].min() == 255, "nothing runs over the edge"
        assert page[300:780, gutter + 3 : gutter + 16].min() == 255, "nothing runs into the other column"
    assert 0.02 < (pages[0] < 128).mean() < 0.5


FAULTS = {  # what is spoiled in the run's folder or its text -> what the one line must say
    "three pages": (lambda f: replace(f, "## Training", "Many words. " * 1500 + "\n\n## Training"), "expected at most 2"),
    "no losses": (lambda f: (f / "log.jsonl").write_text('{"step": 1000, "images_seen": 1, "seconds": 9}'), "loss curves:"),
    "no line of curves": (
        lambda f: replace(f, "![Training loss against the images seen](curves)", ""),
        "loss curves: not found",
    ),
    "no early previews": (lambda f: shutil.rmtree(f / "previews"), "samples from early training: no preview"),
    "no line of early samples": (lambda f: replace(f, "](early)", "](nothing.png)"), "no picture"),
    "an NFE not measured": (lambda f: (f / "fid" / "nfe=2.json").unlink(), "results: no FID at NFE 2"),
    "an NFE not sampled": (lambda f: shutil.rmtree(f / "samples" / "nfe=4"), "samples at NFE 4: none"),
    "no references": (lambda f: replace(f, "## References", "## More"), "citations: no section"),
    "a place": (lambda f: replace(f, "The Few", "[[team]]"), "not filled in: [[team]]"),
    "letters without a font": (lambda f: replace(f, "The Few", "소수"), "the fonts lack 소수"),
    "a damaged log": (lambda f: (f / "log.jsonl").write_text('{"ste\n{"step": 1}\n'), "loss"),
    "no run": (lambda f: (f / "training_config.json").unlink(), "holds no run"),
    "an endless title": (lambda f: replace(f, "# Few-step", "# " + "Few-step " * 900), "more than half a page"),
}


def replace(folder, old, new):
    source = folder / "writeup.md"
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("fault", slow_but(["three pages", "no losses", "an NFE not measured", "a place"], FAULTS))
def test_what_is_missing_is_named(run, edited, monkeypatch, capsys, fault):
    spoil, words = FAULTS[fault]
    spoil(run)
    assert words in fails(writeup, monkeypatch, capsys, run)


def test_a_write_up_saved_by_notepad(run, edited, monkeypatch, capsys):
    """Its byte order mark and its line ends change nothing; UTF-16 is refused."""
    assert call(writeup, monkeypatch, run) == 0
    text, before = edited.read_text(encoding="utf-8"), pypdf.PdfReader(run / "writeup.pdf").pages[0].extract_text()
    edited.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert call(writeup, monkeypatch, run) == 0
    assert pypdf.PdfReader(run / "writeup.pdf").pages[0].extract_text() == before
    edited.write_text(text, encoding="utf-16")
    assert "UTF-16; save it as UTF-8" in fails(writeup, monkeypatch, capsys, run)


def test_flags_name_what_lies_elsewhere(run, edited, tmp_path, monkeypatch, capsys):
    for name in ("fid", "samples", "previews"):
        (run / name).rename(tmp_path / name)
    metrics = sorted((tmp_path / "fid").iterdir())
    flags = ["--samples", tmp_path / "samples", "--previews", tmp_path / "previews"]
    assert call(writeup, monkeypatch, run, "--metrics", *metrics, *flags) == 0
    assert "no folder" in fails(writeup, monkeypatch, capsys, run, "--samples", tmp_path / "nowhere")
    write_json(metrics[0], {"score": 1})
    assert "found no fid_score" in fails(writeup, monkeypatch, capsys, run, "--metrics", *metrics)
    assert "of which NFE?" in fails(writeup, monkeypatch, capsys, run, "--metrics", metrics[1].rename(tmp_path / "x.json"))


LINES = [  # of a write-up made with another tool; each is needed
    "2 Our approach",
    "We train with batch size 64",
    "and a learning rate of 0.0002",
    "for 50k iterations.",
    "We trained for about 3.5 hours on one GPU.",
    "Figure 1. Loss curves of the run.",
    "Fig. 2: Images early in training.",
    "The FID is good",
    "at NFE = 1, 2 and 4.",
    *["Filler that says nothing at all, nor does it in the next line."] * 10,
    "References",
    "[1] Somebody, A paper, 2024.",
    "[2] Our code began as github.com/somebody/something.",
]


def plain_pdf(path, pages, size=10, font="Text", paper=(595, 842), picture=True):
    """A PDF of lines of text, drawn without our layout."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    fonts()
    canvas = Canvas(str(path), pagesize=paper, initialFontName=font)
    for lines in pages:
        canvas.setFont(font, size)
        for number, line in enumerate(lines):
            canvas.drawString(60, 780 - 1.3 * size * number, line)
        if picture:
            canvas.drawImage(ImageReader(Image.new("RGB", (4, 4))), 400, 600)
        canvas.showPage()
    canvas.save()
    return path


def problems_of(pdf):
    return check_writeup(pdf, (1, 2, 4))


def test_a_pdf_of_another_tool_passes(tmp_path, monkeypatch, capsys):
    pdf = plain_pdf(tmp_path / "a.pdf", [LINES])
    assert problems_of(pdf) == []
    assert call(writeup, monkeypatch, "--check", pdf) == 0 and "nothing is missing" in capsys.readouterr().out
    assert "1 to mend: results: NFE 8 not found" in fails(writeup, monkeypatch, capsys, "--check", pdf, "--nfe_list", 4, 8)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (0, "technical description: not found"),
        (1, "batch size: not found"),
        (2, "learning rate: not found"),
        (3, "number of steps: not found"),
        (4, "total training time: not found"),
        (5, "loss curves: not found"),
        (6, "samples from early training: not found"),
        (7, "results: FID: not found"),
        (19, "citations: no section"),
        (20, "citations of papers"),
        (21, "citations of code"),
    ],
)
def test_each_item_is_missed(tmp_path, line, words):
    lines = [text for number, text in enumerate(LINES) if number != line]
    problems = problems_of(plain_pdf(tmp_path / "a.pdf", [lines]))
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 6}, "fonts: 100% of the characters are below 9 points, the smallest 6.0"),
        ({"font": "Helvetica"}, "fonts: not embedded: Helvetica"),
        ({"paper": (612, 792)}, "paper: page 1 is 612x792 points"),
        ({"picture": False}, "pictures: none found"),
    ],
)
def test_fonts_paper_and_pictures(tmp_path, options, words):
    (problem,) = problems_of(plain_pdf(tmp_path / "a.pdf", [LINES], **options))
    assert words in problem


def test_pages_are_counted_up_to_the_references(tmp_path):
    filler = [LINES[:-3], ["More text that fills this page, a line of sixty letters or more."] * 3]
    assert problems_of(plain_pdf(tmp_path / "a.pdf", [*filler, LINES[-3:]], picture=True)) != []
    two = [*filler[:1], [*filler[1], *LINES[-3:]], LINES[-2:], LINES[-2:]]
    assert problems_of(plain_pdf(tmp_path / "b.pdf", two)) == [], "references may go on"
    (problem,) = problems_of(plain_pdf(tmp_path / "c.pdf", [*filler, filler[1], LINES[-3:]]))
    assert problem == "pages: 4 before the references, expected at most 2"


def test_files_that_are_no_write_up(tmp_path):
    (tmp_path / "text.pdf").write_text("no PDF at all")
    assert problems_of(tmp_path / "text.pdf")[0].startswith("unreadable: ")
    good = plain_pdf(tmp_path / "good.pdf", [LINES]).read_bytes()
    (tmp_path / "cut.pdf").write_bytes(good[: len(good) // 2])
    assert problems_of(tmp_path / "cut.pdf")[0].startswith("unreadable: ")
    assert "pages: 31" in problems_of(plain_pdf(tmp_path / "many.pdf", [["x"]] * 31))[0]
    assert "only 1 characters can be read out" in " ".join(problems_of(plain_pdf(tmp_path / "scan.pdf", [["x"]])))
    with pytest.raises(UserError, match="no file"):
        problems_of(tmp_path / "nowhere.pdf")


@pytest.mark.parametrize(
    ("text", "nfes"),
    [
        ("NFE = 1/2/4", "124"),
        ("NFE in {1, 2, 4}", "124"),
        ("NFE ∈ {1, 2}", "12"),
        ("NFE (1, 2 and 4)", "124"),
        ("1 NFE, 2-NFE", "12"),
        ("NFE 1 2 4", "124"),
        ("NFE 1 93.4", "1"),
        ("the NFEs are many, 1 of 2", ""),
    ],
)
def test_numbers_of_calls_are_read(text, nfes):
    assert nfes_in(text) == set(nfes)


def test_every_method_has_a_text_and_papers_with_names():
    """All papers that a method's file names stand in CITATION.cff, and all of its entries are read."""
    references = read_references()
    entries = (PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8").count("\n  - type:")
    assert len(references) == entries
    elsewhere = [text for text, arxiv in references if arxiv is None]
    assert [word in text for word, text in zip(("KAIST", "Shao"), elsewhere, strict=True)] == [True, True]
    assert references[1][0] == "J. Ho, A. Jain, P. Abbeel. Denoising Diffusion Probabilistic Models. 2020. arXiv:2006.11239."
    arxivs = {arxiv for _, arxiv in references}
    for name in shipped.METHODS:
        paper, text = own_text(get_method(name))
        assert "arXiv:" in paper and len(text) > 80 and "->" not in text and "\n" not in text
        assert method_papers(get_method(name)) and set(method_papers(get_method(name))) <= arxivs, name
        assert ("[[what your method does" in text) == (name == "custom")


def test_a_method_that_says_nothing_of_itself_has_places_for_it(monkeypatch):
    """One's own file in src/methods/ need not have docstrings."""
    silent = type("Silent", (get_method("rectified_flow"),), {"__module__": "silent", "compute_loss": lambda *_: None})
    monkeypatch.setitem(sys.modules, "silent", types.ModuleType("silent"))
    assert own_text(silent) == ("[[the papers it follows]]", "[[what your method does, in a paragraph]]")
    silent.__doc__ = "Draw straight lines."
    sys.modules["silent"].__doc__ = "Lines (arXiv:0000.00000)."
    assert own_text(silent) == ("Lines (arXiv:0000.00000).", "Draw straight lines.")


def test_early_samples(run):
    """The first quarter of the steps counts; a sheet is cut into the samples that it was made of."""
    found = early_previews(read_run(run))
    assert list(found) == [32, 64, 128, 250] and list(early_previews(read_run(run), most=2)) == [32, 250]
    images = cut_sheet(found[64], 64, 64)
    expected = np.stack([random_images(8, seed=64 + row, shape=(3, 64, 64)) for row in range(3)])
    np.testing.assert_array_equal(images, expected.transpose(0, 1, 3, 4, 2))
    with pytest.raises(UserError, match="no sheet of samples of 60x60"):
        cut_sheet(found[64], 60, 60)


def test_the_sampler_as_arithmetic_where_it_is_asked_for(run, monkeypatch):
    lines = ["NFE 4: 4 network calls, 8 operations, 6 numbers", "noise0 = normal(B, 3, 64, 64)", "images = noise0 - y1"]
    monkeypatch.setattr("src.writeup.draft.arithmetic", lambda folder, nfe: lines if (folder, nfe) == (run, 4) else None)
    text = draft(read_run(run), plan=True)
    assert f"The sampler ({lines[0]}):\n\n- `{lines[1]}`\n- `{lines[2]}`\n" in text
    assert "The sampler (" not in draft(read_run(run))


@pytest.mark.slow
def test_time_of_the_teacher_counts(run):
    """A student's time is its own and that of the runs it comes from, each once; an unknown one is a place to fill in."""
    student = run.parent / "student"
    shutil.copytree(run, student)
    config = json.loads((run / "training_config.json").read_text())
    write_json(student / "training_config.json", {**config, "teacher": str(run), "init_from": str(run / "last.ckpt")})
    assert "**Total training time: 2 h 30 min** (this run 1 h 15 min, teacher first" in draft(read_run(student))
    write_json(run / "training_config.json", {**config, "init_from": str(run.parent / "gone")})
    found = [(role, seconds) for role, _, seconds in earlier_runs(Run(student))]
    assert found == [("teacher", 4500.0), ("first weights", None)]
    assert re.search(r"Total training time:\*\* \[\[.*gone", draft(read_run(student)))


def test_figures_of_the_evaluation(run):
    """metrics.json beside the samples is read where measure_fid.py wrote nothing; its KID is taken too."""
    shutil.rmtree(run / "fid")
    for nfe in (1, 2, 4):
        metrics = {"clean": {"fid": {"value": 7.0 * nfe}, "kid": {"value": 0.001}}, "pytorch": {"fid": {"value": 8.0}}}
        write_json(run / "samples" / f"nfe={nfe}" / "metrics.json", {"metrics": metrics, "num_generated": 5})
    fid = read_run(run).fid
    assert list(fid) == [1, 2, 4] and fid[4]["fid_score"] == 28.0
    assert (fid[1]["kid"], fid[1]["fid_pytorch"], fid[1]["num_generated"]) == (0.001, 8.0, 5)


def test_what_measure_fid_has_added_to_the_run(run, monkeypatch, capsys):
    """The last line of each NFE counts before files of results; a score of an earlier step is named; an old line is read."""
    row = {"step": STEPS, "fid_clean": 9.0, "fid_pytorch": 8.0, "num_generated": 7, "num_reference": 6}
    for score in (99.0, 9.0):
        add_measured(Run(run), {**row, "nfe": 1, "fid_clean": score, "reference": "6"})
    add_measured(Run(run), {"nfe": 2, "fid_clean": 11.0, "num_generated": 7, "reference": "6", "step": STEPS // 2})
    fid = read_run(run).fid
    assert fid[1] == {"fid_score": 9.0, **row}
    assert (fid[2]["fid_score"], fid[2]["num_reference"], fid[4]["fid_score"]) == (11.0, 6, 10.0)
    line = fails(writeup, monkeypatch, capsys, run)
    assert "results: the FID at NFE 2 is of step 500 of 1000; sample and measure again" in line and "at NFE 1" not in line


def test_samples_that_lie_elsewhere(run, tmp_path, monkeypatch):
    """Those that were measured are found by metrics.jsonl, those in ./samples by their sampling.json; another run's are not."""
    monkeypatch.chdir(tmp_path)
    shutil.move(run / "samples", tmp_path / "away")
    shutil.move(tmp_path / "away" / "nfe=4", tmp_path / "samples" / "nfe=4")
    assert not read_run(run).samples
    (run / "last.ckpt").touch()
    for folder in ("away/nfe=1", "away/nfe=2", "samples/nfe=4"):
        entry = {"checkpoint": run / "last.ckpt", **identity_of(run / "last.ckpt"), "nfe": nfe_of(folder)}
        note_sampling(tmp_path / folder, entry)
    add_measured(Run(run), {"nfe": 1, "fid_clean": 9.0}, tmp_path / "away" / "nfe=1")
    samples = read_run(run).samples
    assert {nfe: folder.resolve() for nfe, folder in samples.items()} == {
        1: tmp_path / "away" / "nfe=1",
        4: tmp_path / "samples" / "nfe=4",
    }
    other = Path(shutil.copytree(run, tmp_path / "runs" / "other"))
    (other / "last.ckpt").write_text("other weights")
    (other / "metrics.jsonl").unlink()
    note_sampling(tmp_path / "samples" / "nfe=4", {"checkpoint": other / "last.ckpt", **identity_of(other / "last.ckpt")})
    assert list(read_run(run).samples) == [1] and list(read_run(other).samples) == [4]


def test_a_write_up_is_of_images(run, monkeypatch, capsys):
    write_json(run / "model_config.json", {"method": "ddpm", "challenge": "toy2d"})
    assert "a write-up shows images, and its samples are none" in fails(writeup, monkeypatch, capsys, run)


def test_curves_are_of_one_average(run):
    """At the end of a run each average is measured at the same step; the curve is that of the first."""
    rows = [{"step": 9, "images_seen": 9, "ema_half_life": half_life, "fid_nfe1": half_life} for half_life in (0.05, 0.1)]
    (run / "log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [{"step": 9, "images_seen": 9, "loss": 1.0}, *rows])
    )
    assert read_run(run).curves() == {"fid_nfe1": [(9, 0.05)], "loss": [(9, 1.0)]}


def test_a_method_of_ones_own():
    """What custom_model.py extends is described where it is a method; else its author describes all."""
    assert own_text(custom_model.CustomGenerativeModel)[1].startswith("[[what your method does, in a paragraph; it extends Rec")
    own = type("Own", (Method,), {"__module__": "custom_model"})
    assert own_text(own) == ("[[the papers it follows]]", "[[what your method does, in a paragraph]]")


@pytest.mark.parametrize("heading", ["References", "5References", "R EFERENCES", "VI. BIBLIOGRAPHY", "6. References:"])
def test_headings_of_references(tmp_path, heading):
    lines = [heading if line == "References" else line for line in LINES]
    assert problems_of(plain_pdf(tmp_path / "a.pdf", [lines])) == []


def test_markdown():
    blocks = parse("# T\nTeam\n\n## Method\none\ntwo <!-- no -->\n\n![c](curves)\n- a\n  b\n2. d")
    assert [(block.kind, block.text, block.name) for block in blocks] == [
        ("title", "T", ""),
        ("text", "Team", ""),
        ("heading", "Method", ""),
        ("text", "one two", ""),
        ("picture", "c", "curves"),
        ("item", "a b", "\u2022"),
        ("item", "d", "2."),
    ]
    assert markup("**a < b** and 2*3*4, *x*") == "<b>a &lt; b</b> and 2*3*4, <i>x</i>"
    assert markup("a ₀") == 'a <font name="Other">₀</font>'
    assert markup("[x](javascript:alert)") == "[x](javascript:alert)"


def test_packages_are_optional(run, tmp_path, monkeypatch, capsys):
    pdf = plain_pdf(tmp_path / "a.pdf", [LINES])
    monkeypatch.setitem(sys.modules, "pypdf", None)
    assert "write-ups need pypdf: pip install -r requirements-writeup.txt" in fails(
        writeup, monkeypatch, capsys, "--check", pdf
    )
    monkeypatch.setitem(sys.modules, "reportlab.platypus", None)
    assert "write-ups need reportlab: pip" in fails(writeup, monkeypatch, capsys, run)


def test_one_of_run_and_check(run, monkeypatch, capsys):
    for flags in ([], [run, "--check", "a.pdf"]):
        assert call(writeup, monkeypatch, *flags) == 2
        assert "expected the folder of a run, or --check PDF" in capsys.readouterr().err
