"""Whether a PDF is the write-up that a course asks for, whatever made it.

It is read, not looked at: items are found by their headings, captions and words, as they stand before the heading
"References". A text that has the words without the thing passes; a person reads it anyway.
"""

import importlib
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.cli import UserError

MAX_PAGES = 2  # before the references
A4 = (595.3, 841.9)  # points
MIN_SIZE = 9.0  # points; a little less is let pass, because TeX's points are smaller than PDF's
SMALL_SHARE = 0.1  # of the characters that may be smaller: superscripts, words in figures
MOST_PAGES, MOST_BYTES = 30, 50_000_000  # beyond this a file is not read

LINE = re.IGNORECASE | re.MULTILINE
NUMBERING = r"^\s*(?:\d+(?:\.\d+)*\.?\s*|[IVX]+\.\s*|[A-Z]\.\s*)?"  # the space after it is lost in some PDFs
REFERENCES = re.compile(
    NUMBERING + r"(?:r ?eferences|b ?ibliography|c ?itations)\s*:?\s*$", LINE
)  # small capitals: R EFERENCES
CAPTION = r"\b(?:figure|fig\.?)\s*\d+\s*[:.|](?:(?!\b(?:figure|fig\.?|table)\s*\d+\s*[:.|]).){0,300}?"
NUMBER = r"\d[\d.,]*\s*"
ITEMS = {  # name -> the patterns of which one must be in the text, and what to do
    "technical description": (
        [NUMBERING + r"(?:(?:our |the |proposed )?(?:m ?ethod|a ?pproach)\w*|technical description)\b.{0,60}$"],
        "a section 'Method' with a paragraph on it",
    ),
    "training details: batch size": ([r"\bbatch"], "say the batch size"),
    "training details: number of steps": ([r"\b(?:iterations|steps|epochs)\b"], "say for how many steps it was trained"),
    "training details: learning rate": ([r"\blearning\s+rate\b"], "say the learning rate"),
    "total training time": (
        [
            rf"\btraining\s+time\b[^\d\[]{{0,40}}{NUMBER}(?:hours?|hrs?|h|minutes?|min|days?|d|seconds?|sec|s)\b",
            rf"\btrained\s+(?:for|in)\b[^.]{{0,60}}?{NUMBER}(?:hours?|hrs?|h|minutes?|min|days?)\b",
        ],
        "write 'Total training time: ... hours'",
    ),
    "loss curves": ([CAPTION + r"(?:\bloss|training curve)"], "a figure whose caption names the loss"),
    "samples from early training": (
        [CAPTION + r"(?:\bearly\b|\bduring training\b|\bfirst (?:[\w,]+ )?(?:steps|iterations|epochs)\b)"],
        "a figure of about 8 images whose caption says that they are early",
    ),
    "results: FID": ([r"\bFID\b"], "give the FID"),
}
PLACE = re.compile(r"\[\[.*?\]\]|\[\[", re.DOTALL)


def need(module: str) -> Any:
    """Import an optional package. Raises UserError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"write-ups need {module.split('.')[0]}: pip install -r requirements-writeup.txt") from error


def check_writeup(pdf: Path, nfes: Sequence[int]) -> list[str]:
    """What is wrong with a write-up, a line each; empty where nothing is.

    Looked at are: at most two A4 pages before the references, every item of ITEMS, results at every NFE of nfes, pictures,
    references to papers and code, text that can be read out, embedded fonts, at most a tenth of the characters below 9 points,
    no [[place]] left to fill in.

    Raises UserError where there is no such file or pypdf is not installed.
    """
    pypdf = need("pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it thinks of odd bytes is none of the findings
    if not pdf.is_file():
        raise UserError(f"no file {pdf}")
    if pdf.stat().st_size > MOST_BYTES:
        return [f"size: {pdf.stat().st_size / 1e6:.0f} MB, expected at most {MOST_BYTES / 1e6:.0f}"]
    try:
        reader = pypdf.PdfReader(pdf)
        if reader.is_encrypted:
            return ["encrypted: expected a PDF that opens without a password"]
        if len(reader.pages) > MOST_PAGES:
            return [f"pages: {len(reader.pages)}, expected {MAX_PAGES} and references"]
        pages = list(map(read_page, reader.pages))
    except (pypdf.errors.PyPdfError, zlib.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return [f"unreadable: {' '.join(str(error).split()) or type(error).__name__}"[:200]]
    content, before, after = divide(pages)
    return check_pages(pages, content) + check_text(before, nfes) + check_references(after)


@dataclass
class Page:
    """What a page of a PDF has.

    Args:
        text: with plain letters instead of ligatures and styled ones, and words joined that a line's end divides.
        sizes: of the pieces of text, (points, characters).
        loose_fonts: the names of its fonts that the file does not hold, so that another machine shows another one.
        pictures: the number of images and forms (drawings).
        box: width and height, points.
    """

    text: str
    sizes: list[tuple[float, int]]
    loose_fonts: set[str]
    pictures: int
    box: tuple[float, float]


def read_page(page: Any) -> Page:
    sizes: list[tuple[float, int]] = []
    used = set()

    def visit(text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        count = len("".join(text.split()))
        if count and size:
            scale = abs((tm[0] * tm[3] - tm[1] * tm[2]) * (cm[0] * cm[3] - cm[1] * cm[2])) ** 0.5
            sizes.append((abs(size) * scale, count))
            used.add(font_name(font or {}))

    text = unicodedata.normalize("NFKC", page.extract_text(visitor_text=visit))
    loose = {font_name(font) for font in resources(page, "/Font") if not is_embedded(font)} & used
    pictures = sum(item.get("/Subtype") in ("/Image", "/Form") for item in resources(page, "/XObject"))
    box = float(page.mediabox.width), float(page.mediabox.height)
    return Page(re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", text), sizes, loose, pictures, box)


def divide(pages: list[Page]) -> tuple[int, str, str]:
    """Pages before the references, the text before them, the text after; without that heading all is before.

    A page that begins with the heading, but for a running title, is no page before them.
    """
    texts = [page.text for page in pages]
    for number in reversed(range(len(texts))):
        headings = list(REFERENCES.finditer(texts[number]))
        if headings:
            above, below = texts[number][: headings[-1].start()], texts[number][headings[-1].end() :]
            content = number + (len(above.strip()) > 60 or pages[number].pictures > 0)
            return content, "\n".join([*texts[:number], above]), "\n".join([below, *texts[number + 1 :]])
    return len(texts), "\n".join(texts), ""


def look_up(entries: Any, key: str) -> Any:
    """What stands under this key, wherever in the file that is (get follows no reference); an empty dictionary for nothing."""
    try:
        return entries[key]
    except KeyError:
        return {}


def resources(page: Any, kind: str) -> Iterator[Any]:
    """The resources of a page of this kind (/Font, /XObject), those of the forms drawn on it included, each form once."""
    waiting, seen = [page], set()
    while waiting:
        own = look_up(waiting.pop(), "/Resources")
        yield from (value.get_object() for value in look_up(own, kind).values())
        for item in (value.get_object() for value in look_up(own, "/XObject").values()):
            if item.get("/Subtype") == "/Form" and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)


def font_name(font: Any) -> str:
    return str(font.get("/BaseFont", "without a name")).lstrip("/")


def is_embedded(font: Any) -> bool:
    inner = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
    descriptor = look_up(inner, "/FontDescriptor")
    return font.get("/Subtype") == "/Type3" or any(f"/FontFile{kind}" in descriptor for kind in ("", "2", "3"))


def check_pages(pages: list[Page], content: int) -> list[str]:
    """How many pages there are before the references, how large all are, and whether there are pictures and fit letters."""
    problems = []
    if content > MAX_PAGES:
        problems.append(f"pages: {content} before the references, expected at most {MAX_PAGES}")
    for number, (width, height) in enumerate((page.box for page in pages), start=1):
        if max(abs(width - A4[0]), abs(height - A4[1])) > 3:
            problems.append(f"paper: page {number} is {width:.0f}x{height:.0f} points, expected A4, 595x842")
    if not any(page.pictures for page in pages[:content]):
        problems.append("pictures: none found; loss curves and samples must be shown")
    if loose := sorted(set().union(*(page.loose_fonts for page in pages))):
        problems.append(f"fonts: not embedded: {', '.join(loose)[:200]}")
    sizes = [size for page in pages[:content] for size in page.sizes]
    small = sum(count for size, count in sizes if size < MIN_SIZE - 0.1) / max(sum(count for _, count in sizes), 1)
    if small > SMALL_SHARE:
        smallest = min(size for size, _ in sizes)
        problems.append(f"fonts: {small:.0%} of the characters are below {MIN_SIZE:g} points, the smallest {smallest:.1f}")
    return problems


def check_text(text: str, nfes: Sequence[int]) -> list[str]:
    """Whether there is text at all, its characters are letters, every item is in it, and no place is left to fill in."""
    problems = []
    letters = "".join(text.split())
    strange = sum(letter == "\ufffd" or "\ue000" <= letter <= "\uf8ff" or letter < " " for letter in letters)
    if len(letters) < 500:
        problems.append(f"text: only {len(letters)} characters can be read out (a scan, or nearly nothing written)")
    elif strange > 0.05 * len(letters) or text.count("(cid:") > 20:
        problems.append("text: its characters cannot be read out (fonts without a Unicode map)")
    problems += places_left(text)
    for name, (patterns, what) in ITEMS.items():
        if not any(re.search(pattern, text, LINE | re.DOTALL if pattern.startswith(CAPTION) else LINE) for pattern in patterns):
            problems.append(f"{name}: not found; {what}")
    all_nfes = " and ".join(filter(None, (", ".join(map(str, nfes[:-1])), str(nfes[-1]))))
    missing = [nfe for nfe in nfes if str(nfe) not in nfes_in(text)]
    return problems + [f"results: NFE {nfe} not found; give the FID at NFE {all_nfes}" for nfe in missing]


def places_left(text: str) -> list[str]:
    return [f"not filled in: {' '.join(place.split())[:80]}" for place in PLACE.findall(text)]


def nfes_in(text: str) -> set[str]:
    """The numbers that stand after NFE: `NFE 1`, `NFE = 2`, `NFE 1/2/4`, `NFE 1, 2 and 4`, `NFE in {1, 2, 4}`; also `1 NFE`."""
    found = set(re.findall(r"\b(\d+)[- ](?:step )?NFEs?\b", text, re.IGNORECASE))
    after = r"\bNFEs?\b[\s=:(\[{∈|]*(?:of |in |is )?[\s(\[{]*(\d+(?:(?:\s|,|/|and|&|\|)+\d+\b(?!\.\d))*)"
    return found.union(*(re.findall(r"\d+", numbers) for numbers in re.findall(after, text)))


def check_references(text: str) -> list[str]:
    if not text.strip():
        return ["citations: no section 'References' at the end"]
    problems = []
    if not re.search(r"arxiv|doi|\b(?:19|20)\d\d\b", text, re.IGNORECASE):
        problems.append("citations of papers: the references name none (no year, arXiv or doi)")
    if not re.search(r"github|gitlab|huggingface|\bcode\b|\bsoftware\b|\brepository\b", text, re.IGNORECASE):
        problems.append("citations of code: the references name none; say 'Code: ...', if only of the kit")
    return problems + places_left(text)
