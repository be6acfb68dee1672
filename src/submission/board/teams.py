"""Which submissions lie in a folder and whose they are: zip files and folders named by hand, or exports of Moodle and Canvas.

A team's name is what the board shows; its folder in board/teams/ has a name made from it that every file system takes.
"""

import csv
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.common.cli import UserError
from src.submission import bounds
from src.submission.board.leaderboard import text
from src.submission.failures import quoted
from src.submission.handin.archive import MARKER, content_hash, is_clutter, open_zip, readable

# a platform writes this before the name that a person gave the file, in which anything may stand
MOODLE = re.compile(r"(?P<person>.*?)_(?P<number>[0-9]{1,20})_assignsubmission_(?P<part>[a-z]+)(_.*)?", re.DOTALL)
CANVAS = re.compile(  # kim_1234_5678_assignsubmission_file is of Moodle, whose persons may be called kim_1234
    r"(?P<person>[^_]+)_(?P<late>LATE_)?(?P<number>[0-9]{4,20})_[0-9]{4,}_(?(late)|(?!assignsubmission_)).+", re.DOTALL
)
NOBODY = {"", "anon", "anonymous", "participant"}  # instead of a person where an export hides names
# letters of Cyrillic, Greek, Armenian and Latin after what they are taken for, capitals apart from small ones; and marks
LOOKALIKES = """
A АΑ B ВΒ C С E ЕΕ H НΗ J ЈͿ K КΚ M МΜ N Ν O ОΟՕ P РΡ Q Ԛ S ЅՏ T ТΤ U Ս V Ѵ W Ԝ X ХΧ Y УҮΥ Z Ζ a аαɑ c с d ԁ e е g ɡց h һհ
i іιı j јϳ k кκ l IІΙӀӏ|ǀ n ո o оοօ p рρ q ԛզ r г s ѕ u υս v νѵ w ԝ x хχ y уүγ - ‐‒–—―− ' ’‘ʼ
"""  # noqa: RUF001
SEEN_AS = {ord(letter): seen for seen, letters in zip(*[iter(LOOKALIKES.split())] * 2, strict=True) for letter in letters}
UNSEEN = re.compile("[\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # of what leaderboard.text leaves


@dataclass(frozen=True)
class TeamSubmission:
    """A zip file or folder, the name of its team on the board, and remarks on it there."""

    team: str
    path: Path
    remarks: tuple[str, ...] = ()


def find_submissions(path: Path, teams_file: Path | None = None) -> list[TeamSubmission]:
    """The submissions of a folder, or the one that path is, each with a name of its own; what is left out is printed.

    Args:
        path: a folder of zip files and folders, one per team; or one submission.
        teams_file: see read_teams; its names win over those of files.

    A submission whose name another has, or one that looks the same, gets it with a mark: the person's number in the export, or
    a hash of its file's name.

    Raises UserError where there is no submission, or path is an export that is still packed.
    """
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    path = path.resolve()
    given = {} if teams_file is None else read_teams(teams_file)
    single = path.is_file() or (path / MARKER).is_file() or bool(MOODLE.fullmatch(_name(path)))
    if single and _is_export(path):
        raise UserError(f"{path} is an export of many submissions: unpack it and give the folder")
    found: dict[str, TeamSubmission] = {}
    matched, unmatched = set(), []
    for entry in [path] if single else _entries(path):
        label, shown = Label.read(_name(entry)), quoted(_name(entry))
        if why := _why_left_out(entry, label):
            print(f"{shown}: left out, {why}")
            continue
        keys = [key for key in label.keys if key in given]
        matched.update(keys)
        unmatched += [] if keys else [shown]
        team = display_name(given[keys[0]] if keys else label.team)
        first = next((found[key] for key in _keys(team) if key in found), None)
        if first and keys and content_hash(first.path) == content_hash(entry):
            print(f"{shown}: left out, team {quoted(team)} has handed in the same as {quoted(_name(first.path))}")
            continue
        name = next(name for name in _names(team, label.number, entry) if found.keys().isdisjoint(_keys(name)))
        if first:
            taken = f"the name {quoted(team)} is that of {quoted(_name(first.path))} already, or looks like it"
            print(f"{shown}: {taken}, graded as {quoted(name)}")
        late = ("handed in late, as the export's file name says",) if label.late else ()
        found |= dict.fromkeys(_keys(name), TeamSubmission(name, entry, late))
    if not found:
        raise UserError(f"{path} holds no submission: expected zip files or folders")
    if given and not single and (absent := [key for key in given if key not in matched]):
        print(f"{teams_file}: no submission has the file, name or id {', '.join(absent)}")
    if given and not single and unmatched:
        print(f"{teams_file}: does not name {', '.join(unmatched)}; their own names are used")
    return list(dict.fromkeys(found.values()))


def read_teams(file: Path) -> dict[str, str]:
    """The teams of a table of two columns: a submission's file, person or id as the export names it, and its team.

    Between the columns stands a comma, semicolon or tab; a first line whose second word is "team" is a heading. The keys are
    without regard to case, as in Label.keys. Raises UserError where the file is absent or not of that form.
    """
    if not file.is_file():
        raise UserError(f"--teams {file}: no such file")
    content = readable(file.read_bytes()).removeprefix("\ufeff")
    separator = max(",;\t", key=content.lstrip().partition("\n")[0].count)
    teams: dict[str, str] = {}
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if not cells or (not teams and [cell.casefold() for cell in cells[1:]] == ["team"]):
                continue
            if len(cells) != 2 or not cells[0]:
                raise UserError(f"{file}, line {rows.line_num}: expected two columns, a file, name or id and its team")
            if teams.setdefault(_fold(cells[0]), cells[1]) != cells[1]:
                raise UserError(f"{file}, line {rows.line_num}: {cells[0]} has another team above")
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.line_num}: no table of commas or semicolons ({error})") from error
    return teams


def display_name(name: str) -> str:
    """A team's name as the board shows it: one line without control characters. What is cut there ends in a hash of it all."""
    whole = text(name, 10 * bounds.NAME_LENGTH) or "(no name)"
    return whole if len(whole) <= bounds.NAME_LENGTH else _marked(whole, _short_hash(name))


def folder_name(team: str) -> str:
    """The name of a team's folder: the team's, without what file systems refuse, of at most FOLDER_BYTES bytes in UTF-8.

    One that is not the team's to the letter ends in a hash of it, so that it is not another team's.
    """
    name = unicodedata.normalize("NFC", team)
    safe = "".join("_" if letter in '<>:"/\\|?*' or not letter.isprintable() else letter for letter in name).strip(" .")
    if safe and safe == team and len(safe.encode()) <= bounds.FOLDER_BYTES:
        return safe
    mark = f"-{_short_hash(team)}"
    cut = safe.encode()[: bounds.FOLDER_BYTES - len(mark)].decode(errors="ignore")
    return (cut or "team") + mark


@dataclass(frozen=True)
class Label:
    """What the name of a file or folder says of it: its team, and in an export a person's number and whether it came late.

    keys: what a table of teams may call it, the surest first. part: of a submission to Moodle; files are "file".
    """

    team: str
    keys: tuple[str, ...]
    number: str = ""
    part: str = "file"
    late: bool = False

    @classmethod
    def read(cls, name: str) -> "Label":
        stem = name[:-4] if name.lower().endswith(".zip") else name
        files = (_fold(name), _fold(stem))
        match = CANVAS.fullmatch(stem) or MOODLE.fullmatch(stem)
        if match is None:
            return cls(stem, files)
        parts = match.groupdict()
        number, person = parts["number"], parts["person"].strip()
        team = number if person.casefold() in NOBODY else person
        return cls(team, (*files, number, _fold(person)), number, parts.get("part", "file"), bool(parts.get("late")))


def _name(path: Path) -> str:
    """The name of a file or folder as text, also where another system's bytes stand in it."""
    return readable(os.fsencode(path.name))


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden files and clutter; folders last, so that a zip file goes before its like."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and not is_clutter(entry.name)]
    return sorted(entries, key=lambda entry: (entry.is_dir(), entry.name))


def _why_left_out(entry: Path, label: Label) -> str:
    """Why an entry is no submission; empty where it is one."""
    if entry.is_symlink() or not (entry.is_dir() or (entry.is_file() and entry.suffix.lower() == ".zip")):
        return "it is no zip file and no folder"
    if label.part != "file":
        return "it holds no files that were handed in"
    if _is_export(entry):
        return f"it is an export of many submissions: give {'it' if entry.is_dir() else 'what is in it'} as a folder of its own"
    return ""


def _is_export(path: Path) -> bool:
    """Whether a folder or zip file holds what exports name after two persons or more, and no submission of its own."""
    try:
        if path.is_dir():
            names = {entry.name for entry in itertools.islice(path.iterdir(), 2 * bounds.ARCHIVE_FILES)}
        else:
            with open_zip(path) as archive:
                names = {part for name in archive.namelist() for part in name.split("/")}
    except Exception:  # a stranger's bytes may raise anything; what is wrong with them is said when they are unpacked
        return False
    persons = {label.number for label in map(Label.read, names) if label.number}
    return len(persons) > 1 and MARKER not in names


def _names(team: str, number: str, entry: Path) -> Iterator[str]:
    """Names for a submission, the best first, without end."""
    yield team
    if number:
        yield _marked(team, number)
    for turn in itertools.count():
        yield _marked(team, _short_hash(f"{entry.name}{turn or ''}"))


def _marked(name: str, mark: str) -> str:
    """A name with a mark at its end, no longer than the board shows."""
    return f"{text(name, bounds.NAME_LENGTH - len(mark) - 2)} #{mark}"


def _keys(team: str) -> tuple[str, str]:
    """Its folder, on file systems without upper and lower case, and what its name looks like: no two teams may share one."""
    seen = unicodedata.normalize("NFKD", UNSEEN.sub("", team)).translate(SEEN_AS)
    return folder_name(team).casefold(), unicodedata.normalize("NFC", seen.casefold())


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:6]
