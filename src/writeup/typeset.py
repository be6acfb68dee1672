"""A write-up in Markdown as a PDF: A4, two columns, fonts embedded.

Of Markdown it knows `# title`, `## heading`, paragraphs, lists (`- ` and `1. `), **bold**, *italic*, `code`, [text](address)
and, on a line of their own, pictures: ![caption](name), where a name is curves, early, results, samples or a file. What stands
between the title and the first heading is set below the title. Figures and tables number themselves.
"""

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from src.common.cli import UserError
from src.common.figures import matplotlib
from src.common.files import write_whole
from src.writeup.check import A4, need

SIDE, TOP, BOTTOM, GAP = 51.0, 51.0, 54.0, 20.0  # points
COLUMN = (A4[0] - 2 * SIDE - GAP) / 2
BODY, SMALL = 10.0, 9.0  # points
FONTS = {  # of matplotlib, so that every machine has them
    "Text": "STIXGeneral",
    "Text-Bold": "STIXGeneralBol",
    "Text-Italic": "STIXGeneralItalic",
    "Text-BoldItalic": "STIXGeneralBolIta",
    "Code": "DejaVuSansMono",
    "Other": "DejaVuSans",  # for letters that the first ones lack
}
STYLES = tuple(FONTS)[:4]  # of Text
PICTURE = re.compile(r"^!\[(.*)\]\((.*)\)$")
Drawing = Callable[[], list[Any]]  # -> flowables of a figure or table


@dataclass
class Block:
    """A piece of a write-up."""

    kind: str  # title, heading, text, item or picture
    text: str
    name: str = ""  # of a picture, or what stands before an item


def parse(markdown: str) -> list[Block]:
    """The blocks of a write-up, in order. Lines of a paragraph are joined; a comment <!-- ... --> is left out."""
    blocks: list[Block] = []
    joins = False  # whether the next line goes on with the last block
    for line in re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL).splitlines():
        line = line.strip()
        if match := PICTURE.match(line):
            blocks.append(Block("picture", match[1], match[2]))
        elif match := re.match(r"(#+)\s+(.*)", line):
            blocks.append(Block("title" if match[1] == "#" else "heading", match[2]))
        elif match := re.match(r"(?:[-*]|(\d+)\.)\s+(.*)", line):
            blocks.append(Block("item", match[2], f"{match[1]}." if match[1] else "\u2022"))
        elif line and joins:
            blocks[-1].text += f" {line}"
            continue
        elif line:
            blocks.append(Block("text", line))
        joins = bool(line) and blocks[-1].kind in ("text", "item")
    return blocks


@cache
def fonts() -> dict[str, set[int]]:
    """Register the fonts; name -> the letters it has."""
    metrics, ttfonts = need("reportlab.pdfbase.pdfmetrics"), need("reportlab.pdfbase.ttfonts")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    letters = {}
    for name, file in FONTS.items():
        font = ttfonts.TTFont(name, folder / f"{file}.ttf")
        metrics.registerFont(font)
        letters[name] = set(font.face.charToGlyph)
    metrics.registerFontFamily("Text", *STYLES)
    for name in ("Code", "Other"):  # one face for all
        metrics.registerFontFamily(name, name, name, name, name)
    return letters


def missing_letters(text: str) -> str:
    """The letters of the text that no font here has."""
    letters = {letter for letter in fonts()["Text"] | fonts()["Other"] if letter < 0x10000}  # reportlab takes no others
    return "".join(dict.fromkeys(c for c in text if not c.isspace() and ord(c) not in letters))


def markup(text: str) -> str:
    """A text with **, *, ` and links as reportlab's markup. Letters that a style's font lacks are set in another one."""
    pieces = []
    for piece in re.split(r"(`[^`]+`|\*\*.+?\*\*|(?<!\w)\*[^*\s][^*]*\*(?!\w)|\[[^\[\]]+\]\(https?://[^()\s]+\))", text):
        if re.fullmatch(r"`[^`]+`", piece):
            pieces.append(f'<font name="Code" size="{SMALL:g}">{with_other_font(piece[1:-1], ("Code",))}</font>')
        elif re.fullmatch(r"\*\*.+\*\*", piece):
            pieces.append(f"<b>{markup(piece[2:-2])}</b>")
        elif re.fullmatch(r"\*[^*\s][^*]*\*", piece):
            pieces.append(f"<i>{markup(piece[1:-1])}</i>")
        elif match := re.fullmatch(r"\[([^\[\]]+)\]\((https?://[^()\s]+)\)", piece):
            pieces.append(f'<a href="{html.escape(match[2])}" color="#1a4f8a">{with_other_font(match[1])}</a>')
        else:
            pieces.append(with_other_font(piece))
    return "".join(pieces)


def with_other_font(text: str, names: Iterable[str] = STYLES) -> str:
    """The text, escaped, with runs of letters that one of these fonts lacks set in the other font."""
    own = set.intersection(*(fonts()[name] for name in names))
    runs = ((plain, html.escape("".join(run))) for plain, run in groupby(text, key=lambda letter: ord(letter) in own))
    return "".join(run if plain else f'<font name="Other">{run}</font>' for plain, run in runs)


def styles() -> dict[str, Any]:
    """Name -> paragraph style."""
    fonts()
    lib, enums = need("reportlab.lib.styles"), need("reportlab.lib.enums")

    def style(name: str, size: float, **options: Any) -> Any:
        options = {"fontName": "Text", "leading": 1.18 * size, "splitLongWords": 1, **options}
        return lib.ParagraphStyle(name, fontSize=size, **options)

    return {
        "title": style("title", 17, fontName="Text-Bold", alignment=enums.TA_CENTER, spaceAfter=6),
        "authors": style("authors", 11, alignment=enums.TA_CENTER, spaceAfter=2),
        "heading": style("heading", 12, fontName="Text-Bold", spaceBefore=9, spaceAfter=3, keepWithNext=1),
        "text": style("text", BODY, alignment=enums.TA_JUSTIFY, spaceAfter=5),
        "ragged": style("ragged", BODY, spaceAfter=5),
        "item": style("item", BODY, leftIndent=12, bulletFontSize=BODY, bulletFontName="Text", spaceAfter=2),
        "reference": style("reference", SMALL, leftIndent=16, bulletFontSize=SMALL, bulletFontName="Text", spaceAfter=2),
        "caption": style("caption", SMALL, spaceBefore=3, spaceAfter=9),
        "cell": style("cell", SMALL, alignment=enums.TA_CENTER),
        "row": style("row", SMALL, alignment=enums.TA_RIGHT),
    }


def typeset(blocks: list[Block], drawings: dict[str, Drawing], folder: Path, pdf: Path) -> None:
    """Write the blocks as a PDF. drawings: name -> what draws it; other pictures are files in folder.

    A drawing that gives nothing is left out with its caption. Raises UserError where a picture is absent or a piece is larger
    than a column.
    """
    platypus, errors = need("reportlab.platypus"), need("reportlab.platypus.doctemplate")
    head, body = flowables(blocks, drawings, folder)
    width, height = A4
    heights = [piece.wrap(width - 2 * SIDE, height)[1] for piece in head]
    depth = sum(heights) + sum(piece.getSpaceAfter() for piece in head) + 14 if head else 0
    if depth > height / 2:
        raise UserError(f"{folder / 'writeup.md'}: the title and authors take more than half a page")

    def page(name: str, below: float, **options: Any) -> Any:
        paddings = dict.fromkeys(("leftPadding", "rightPadding", "topPadding", "bottomPadding"), 0)
        size = {"width": COLUMN, "height": height - TOP - BOTTOM - below, "showBoundary": 0, **paddings}
        frames = [platypus.Frame(left, BOTTOM, **size) for left in (SIDE, SIDE + COLUMN + GAP)]
        return platypus.PageTemplate(name, frames, **options)

    def number(canvas: Any, document: Any) -> None:
        canvas.setFont("Text", SMALL)
        canvas.drawCentredString(width / 2, BOTTOM / 2, str(document.page))

    def first(canvas: Any, document: Any) -> None:
        number(canvas, document)
        top = height - TOP
        for piece, used in zip(head, heights, strict=True):
            piece.drawOn(canvas, SIDE, top - used)
            top -= used + piece.getSpaceAfter()

    options = {"title": next((block.text for block in blocks if block.kind == "title"), "")[:200], "initialFontName": "Text"}
    with write_whole(pdf) as unfinished:
        document = platypus.BaseDocTemplate(str(unfinished), pagesize=A4, invariant=1, **options)
        document.addPageTemplates(
            [page("first", depth, onPage=first, autoNextPageTemplate="later"), page("later", 0, onPage=number)]
        )
        try:
            document.build(body)
        except errors.LayoutError as error:
            raise UserError(f"{folder / 'writeup.md'}: a piece fits no column: {' '.join(str(error).split())[:200]}") from error


def flowables(blocks: list[Block], drawings: dict[str, Drawing], folder: Path) -> tuple[list[Any], list[Any]]:
    """What stands over both columns, the title and authors, and what flows through them."""
    platypus, style = need("reportlab.platypus"), styles()
    head, body, section = [], [], None
    numbers = {"Figure": 0, "Table": 0}
    for block in blocks:
        if block.kind == "picture":
            pieces = drawings[block.name]() if block.name in drawings else [picture(folder / block.name)]
            if pieces:
                kind = "Table" if block.name == "results" else "Figure"
                numbers[kind] += 1
                text = platypus.Paragraph(f"<b>{kind} {numbers[kind]}:</b> {markup(block.text)}", style["caption"])
                body.append(platypus.KeepTogether([platypus.Spacer(1, 4), *pieces, text]))
            continue
        kind, place = block.kind, body
        if kind == "title":
            place = head
        elif kind == "heading":
            section = block.text.strip().lower()
        elif kind == "item":
            kind = "reference" if section == "references" else "item"
        elif section is None:
            kind, place = "authors", head
        elif any(len(code) > 40 for code in re.findall("`([^`]+)`", block.text)):
            kind = "ragged"
        place.append(platypus.Paragraph(markup(block.text), style[kind], bulletText=block.name or None))
    return head, body


def picture(path: Path) -> Any:
    """A picture file as wide as a column, or less, at most half a page high."""
    if not path.is_file():
        raise UserError(f"no picture {path}")
    try:
        image = need("reportlab.platypus").Image(path)
    except OSError as error:
        raise UserError(f"{path}: not a picture ({error})") from error
    scale = min(COLUMN / image.imageWidth, A4[1] / 2 / image.imageHeight)
    image.drawWidth, image.drawHeight = scale * image.imageWidth, scale * image.imageHeight
    return image
