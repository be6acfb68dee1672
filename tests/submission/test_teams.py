"""Whose submissions are whose: names by hand, exports of Moodle and Canvas, tables of teams, and names that clash."""

import os
import re
import struct
import unicodedata
import zipfile
from pathlib import Path
from zipfile import ZipInfo

import pytest

from src.common.cli import UserError
from src.submission import bounds
from src.submission.board.leaderboard import text
from src.submission.board.teams import Label, display_name, find_submissions, folder_name, read_teams

KOREAN = "딥러닝 3조 김철수"


def lay(folder: Path, *names: str) -> Path:
    """Zip files and, for names that end in a slash, folders."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(name.encode(errors="surrogateescape"))
    return folder


def teams(folder: Path, table: Path | None = None) -> dict[str, str]:
    """Team -> its file."""
    found = find_submissions(folder, table)
    assert len({folder_name(one.team).casefold() for one in found}) == len(found)
    assert all(text(one.team, bounds.NAME_LENGTH) == one.team for one in found), "the board shows them as they are"
    return {one.team: one.path.name for one in found}


def test_what_is_left_out(tmp_path, capsys):
    clutter = ["._a.zip", ".hidden.zip", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/"]
    lay(tmp_path, "a.zip", "notes.txt", "b.rar", *clutter)
    (tmp_path / "link.zip").symlink_to(tmp_path / "a.zip")
    assert teams(tmp_path) == {"a": "a.zip"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": left out")[0] for line in lines] == ["“b.rar”", "“link.zip”", "“notes.txt”"]


def test_none(tmp_path):
    with pytest.raises(UserError, match="holds no submission"):
        find_submissions(lay(tmp_path / "empty", "__MACOSX/"))
    with pytest.raises(UserError, match="no file or folder"):
        find_submissions(tmp_path / "absent")


def test_one_submission(tmp_path):
    lay(tmp_path, "a.zip", "b/", "Kim_12_assignsubmission_file_/")
    (tmp_path / "b" / "custom_model.py").touch()
    lay(tmp_path / "Kim_12_assignsubmission_file_", "x.zip")
    for name, team in {"a.zip": "a", "b": "b", "Kim_12_assignsubmission_file_": "Kim"}.items():
        assert teams(tmp_path / name) == {team: name}


# ------------------------------------------------------------------------------------------------------------ clashes


def test_a_clash_stops_nobody(tmp_path, capsys):
    """The zip file has the name; the others have a hash that stays the same whatever else lies there."""
    lay(tmp_path, "team1/", "team1.zip", "TEAM1.zip", "other.zip")
    found = teams(tmp_path)
    marked = {file: team for team, file in found.items()}
    assert marked["other.zip"] == "other" and len(found) == 4
    assert marked["TEAM1.zip"] == "TEAM1", "the first by name"
    assert marked["team1.zip"].startswith("team1 #") and marked["team1"].startswith("team1 #")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(
        "the name “team1” is that of “TEAM1.zip” already, or looks like it, graded as “team1 #" in line for line in lines
    )
    (tmp_path / "other.zip").unlink()
    assert marked["team1"] in teams(tmp_path)


def test_composed_and_decomposed_names(tmp_path):
    """macOS hands out decomposed names: the same to the eye, and on some file systems."""
    other = unicodedata.normalize("NFD", KOREAN)
    lay(tmp_path, f"{KOREAN}.zip", f"{other}.zip")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell the two apart")
    first, second = teams(tmp_path)
    assert first == KOREAN and second.startswith(f"{KOREAN} #")
    assert display_name(other) == KOREAN


@pytest.mark.parametrize("letter", ["x", "가", "🙂"])
def test_names_as_long_as_a_file_system_takes(letter, tmp_path):
    count = 251 // len(letter.encode())
    names = [letter * (count - 1) + end for end in "ab"]
    lay(tmp_path, *(f"{name}.zip" for name in names))
    found = teams(tmp_path)
    assert len(found) == 2 and all(name.startswith(letter * 40) and "… #" in name for name in found)
    for name in found:
        assert len(folder_name(name).encode()) <= bounds.FOLDER_BYTES
        (tmp_path / f".{folder_name(name)}.json.{2**22}.partial").touch()


@pytest.mark.parametrize("name", ["a/b", "../x", "..", ".hidden", "C:x", 'a"<b>', "a\nb", "a\u202eb", "end. ", "\udcff", ""])
def test_folders_of_unsafe_names(name, tmp_path):
    safe = folder_name(name)
    assert safe != name and not set(safe) & set('/\\:<>"\n\u202e') and not safe.startswith(".") and safe.strip(" .") == safe
    assert (tmp_path / safe).parent == tmp_path and safe != folder_name(f"{name}?")
    (tmp_path / safe).mkdir()


def test_names_in_bytes_of_another_system(tmp_path, capsys):
    """Unpacked on Linux, zips of Korean Windows leave names that are no UTF-8."""
    name = os.fsdecode(KOREAN.encode("cp949") + b".zip")
    try:
        lay(tmp_path, name, f"{KOREAN}.zip")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    found = find_submissions(tmp_path)
    assert {one.team.partition(" #")[0] for one in found} == {KOREAN} and len(found) == 2
    assert KOREAN in capsys.readouterr().out


ALIKE = {  # to the eye the same
    "Hangul filler": ("team", "team\u3164"),
    "half-width filler": ("te am", "te\uffa0am"),
    "blank of Braille": ("team", "team\u2800"),
    "spaces without width": ("team", "te\u200bam\u2060\ufeff"),
    "soft hyphen": ("team", "te\u00adam"),
    "joiner": ("김철수", "김\u200d철수"),
    "joiner of nothing": ("team", "te\u200cam"),
    "selector": ("team", "team\ufe0f"),
    "grapheme joiner": ("team", "t\u034feam"),
    "Cyrillic": ("Apex Corp", "\u0410\u0440\u0435\u0445 \u0421\u043e\u0433\u0440"),
    "one Cyrillic letter": ("victims", "v\u0456ctims"),
    "Cyrillic with an accent": ("no\u00ebl", "no\u0451l"),
    "Greek": ("KOBE", "\u039a\u039f\u0392\u0395"),
    "wide": ("team 1", "\uff54\uff45\uff41\uff4d \uff11"),
    "mathematical": ("team", "\U0001d42d\U0001d41e\U0001d41a\U0001d426"),
    "a capital I for an l": ("Mallory", "MaIlory"),
    "dash": ("team-1", "team\u20131"),
    "ligature": ("final", "\ufb01nal"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_no_two_names_look_the_same(kind, tmp_path, capsys):
    """Whichever comes first keeps the name."""
    names = lay(tmp_path / "all", *(f"{name}.zip" for name in ALIKE[kind]))
    first, second = teams(names)
    seen = {text(name, bounds.NAME_LENGTH) for name in ALIKE[kind]}
    assert "#" not in first and second.partition(" #")[0] in seen and " #" in second
    assert "or looks like it, graded as" in capsys.readouterr().out


HONEST = """김철수|박영희 3조|小组四|チーム・一|葛󠄀城|فريق النجوم|می‌خواهم|Команда 7|Зимний лес|Ομάδα|Łukasz Żółć|équipe|equipe|Việt Nam
क्‍षमा|👨‍👩‍👧|❤️‍🔥 team|👩🏽‍💻|3️⃣|team 1|team 2|team l1|a-b|a_b|O'Neil|ß|x²|Ⅳ|ｗｉｄｅ|équipe n°1|v1.2 final"""  # noqa: E501, RUF001


def test_honest_names_are_untouched(tmp_path, capsys):
    """Of all scripts, side by side; and so are the names of their folders."""
    names = [unicodedata.normalize("NFC", name) for name in re.split(r"[|\n]", HONEST)]
    found = set(teams(lay(tmp_path / "all", *(f"{name}.zip" for name in names[2:]), f"{names[0]}.ZIP", f"{names[1]}/")))
    assert found == set(names) and capsys.readouterr().out == ""
    assert {folder_name(name) for name in names if name.isascii()} == {name for name in names if name.isascii()}


def test_a_name_cannot_speak_for_the_staff(tmp_path, capsys):
    lay(tmp_path, "a.zip", "notes\u201d: graded by the staff; \u201c" + 10 * "please read on " + ".txt")
    assert teams(tmp_path) == {"a": "a.zip"}
    line = capsys.readouterr().out
    assert line.startswith('\u201cnotes": graded by the staff; "') and line.endswith(
        "...\u201d: left out, it is no zip file and no folder\n"
    )
    assert line.count("\u201d") == line.count("\u201c") == 1 and len(line) < 120


# ------------------------------------------------------------------------------------------------------------ exports


def test_moodle(tmp_path, capsys):
    """A folder or a file for each person. Two persons of one name keep it, the second with the number."""
    lay(
        tmp_path,
        "김철수_1234567_assignsubmission_file_/",
        "김철수_1234568_assignsubmission_file_/",
        "Group A-Anna_Lee_77_assignsubmission_file/",
        "J. Doe_88_assignsubmission_file_model v1.2.zip",
        "J. Doe_88_assignsubmission_file_report.pdf",
        "J. Doe_88_assignsubmission_onlinetext_/",
        "Participant_99_assignsubmission_file_/",
        "_100_assignsubmission_file_/",
    )
    assert set(teams(tmp_path)) == {"김철수", "김철수 #1234568", "Group A-Anna_Lee", "J. Doe", "99", "100"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "onlinetext_”: left out, it holds no files" in "\n".join(lines)


def test_canvas(tmp_path, capsys):
    lay(
        tmp_path,
        "kimchulsoo_12345_67890_my original_name-1.zip",
        "leeyoung_LATE_12346_67891_submission.zip",
        "anon_12347_67892_submission.zip",
        "team_1_2_final.zip",
    )
    found = {one.team: one.remarks for one in find_submissions(tmp_path)}
    late = found.pop("leeyoung")
    assert found == {"kimchulsoo": (), "12347": (), "team_1_2_final": ()}
    assert len(late) == 1 and "late" in late[0] and capsys.readouterr().out == ""
    hidden = Label.read("mallory_LATE_12345_67890_assignsubmission_file_x.zip")  # called as Moodle's files are
    assert (hidden.team, hidden.late) == ("mallory", True)


OTHERS = "Victim Lee_777_assignsubmission_file_x.zip"
PREFIXES = {  # of a platform, before the name that a person gave the file: whose it is, number, late
    "Mallory_123_assignsubmission_file_": ("Mallory", "123", False),
    "Mallory_1234567_assignsubmission_file_": ("Mallory", "1234567", False),
    "Anna_Lee_2024_77_assignsubmission_file_": ("Anna_Lee_2024", "77", False),
    "김철수_20241234_1234567_assignsubmission_file_": ("김철수_20241234", "1234567", False),
    "mallory_12345_67890_": ("mallory", "12345", False),
    "mallory_LATE_12345_67890_": ("mallory", "12345", True),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "given", ["x.zip", OTHERS, f"_{OTHERS}", "victim_77777_88888_x.zip", f"a_{OTHERS}{OTHERS}", "v1_2_3.zip"]
)
def test_a_file_name_never_names_another(prefix, given):
    """What a person has called the file is none of the platform's words."""
    label = Label.read(prefix + given)
    assert (label.team, label.number, label.late, label.part) == (*PREFIXES[prefix], "file")


def test_an_export_that_is_packed(tmp_path, capsys):
    """Alone it is an error; among submissions it is left out, and so is a folder of it."""
    persons = ("kim_12345_67890_x.zip", "lee_12346_67891_x.zip")
    with zipfile.ZipFile(tmp_path / "submissions.zip", "w") as archive:
        for person in persons:
            archive.writestr(person, b"")
    with pytest.raises(UserError, match="export of many submissions: unpack it"):
        find_submissions(tmp_path / "submissions.zip")
    lay(tmp_path / "unpacked", *persons)
    lay(tmp_path, "team.zip")
    assert teams(tmp_path) == {"team": "team.zip"}
    assert capsys.readouterr().out.count("left out, it is an export of many submissions") == 2
    assert set(teams(tmp_path / "unpacked")) == {"kim", "lee"}


@pytest.mark.parametrize("count", [1_000, 300_000])
def test_a_zip_of_very_many_members_is_not_listed(count, tmp_path, monkeypatch):
    """An export of so many would be one; what has more bytes of names than any submission is left to who unpacks it."""
    file, made = tmp_path / "a.zip", []
    file.write_bytes(zip_directory(count))
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *given: made.append(given) or ZipInfo(*given))
    if count > 10_000:
        assert teams(tmp_path) == {"a": "a.zip"} and not made
    else:
        with pytest.raises(UserError, match="holds no submission"):
            teams(tmp_path)


def zip_directory(count: int) -> bytes:
    """A zip file of so many empty members, each of them another person's in an export."""
    names = [b"p_%06d_12345_x" % number for number in range(count)]
    entries = [
        struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *[20, 3, 20, 0], *[0] * 7, len(name), *[0] * 6) + name for name in names
    ]
    directory = b"".join(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), 0, 0)
    return directory + end


# ------------------------------------------------------------------------------------------------------ tables of teams


def test_a_table_wins(tmp_path, capsys):
    """Whatever it calls a submission: file, name without .zip, person or number."""
    folder = lay(
        tmp_path / "all",
        "a.zip",
        "B team.zip",
        "김철수_1234567_assignsubmission_file_/",
        "lee_12346_67891_x.zip",
        "lee_12347_67892_x.zip",
        "own.zip",
    )
    table = tmp_path / "teams.csv"
    table.write_text("file;team\nA.zip;가\nb TEAM;Team, two\n\n김철수;Three\n12346;Four\nnobody;Five\nlee;Six\n", "utf-8-sig")
    found = teams(folder, table)
    assert {team: name[:5] for team, name in found.items()} == {
        "가": "a.zip",
        "Team, two": "B tea",
        "Three": "김철수_1",
        "Four": "lee_1",
        "Six": "lee_1",
        "own": "own.z",
    }
    out = capsys.readouterr().out
    assert "no submission has the file, name or id nobody\n" in out and "does not name “own.zip”; their own names" in out
    assert out.count("\n") == 2
    assert teams(folder / "a.zip", table) == {"가": "a.zip"} and capsys.readouterr().out == "", "of one, no word of the others"


def test_partners(tmp_path, capsys):
    """Both hand in: the same files count once, others are graded beside."""
    folder = lay(tmp_path / "all", "kim_12345_67890_x.zip", "lee_12346_67891_x.zip", "park_12347_67892_x.zip")
    (folder / "lee_12346_67891_x.zip").write_bytes((folder / "kim_12345_67890_x.zip").read_bytes())
    table = tmp_path / "teams.csv"
    table.write_text("kim,One\nlee,One\npark,One\n")
    assert teams(folder, table) == {"One": "kim_12345_67890_x.zip", "One #12347": "park_12347_67892_x.zip"}
    out = capsys.readouterr().out
    assert "“lee_12346_67891_x.zip”: left out, team “One” has handed in the same as “kim" in out and out.count("\n") == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("separator", ",;\t")
def test_tables(encoding, separator, tmp_path):
    table = tmp_path / "teams.csv"
    lines = ["학번,팀", '20241234,"세 번째, 조"', " a.zip , 하나,", ",,"]
    heading = lines[0].replace(",", separator)
    quoted = f'20241234{separator}"세 번째{separator} 조"'
    table.write_bytes("\r\n".join([heading, quoted, *(line.replace(",", separator) for line in lines[2:])]).encode(encoding))
    assert read_teams(table) == {"학번": "팀", "20241234": f"세 번째{separator} 조", "a.zip": "하나"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.zip\n", "line 1: expected two columns"),
        ("x,team\na,b,c\n", "line 2: expected two columns"),
        (",b\n", "line 1: expected two columns"),
        ("a.zip,One\nA.ZIP,Two\n", "line 2: A.ZIP has another team above"),
    ],
)
def test_tables_with_mistakes(content, message, tmp_path):
    (tmp_path / "teams.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_teams(tmp_path / "teams.csv")
    with pytest.raises(UserError, match="no such file"):
        read_teams(tmp_path / "none.csv")
