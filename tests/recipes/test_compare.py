"""What the recipes share that compare methods: options of the command line, and rows of a table that stands already."""

import pytest

from recipes.shared import compare as compare
from recipes.shared.bench import TEACHER, Entry, with_all_methods, with_options
from src.challenges import get_challenge
from src.common.cli import UserError
from src.common.files import save_json
from src.methods import METHODS, get_method, register

FACES, PLANE = get_challenge("simpsons32"), get_challenge("toy2d")


def read(*words, challenge=FACES):
    return compare.read_options(words, words[0], ["edm", "ld3", "flow_map", "ctm"], challenge)


def test_options_have_the_types_of_their_flags():
    assert read("edm", "P_mean=-0.5", "solver=euler") == {"P_mean": -0.5, "solver": "euler"}
    assert read("ld3", "decoupled=false", "nfe_list=2,3") == {"decoupled": False, "nfe_list": (2, 3)}
    assert compare.row_name("ld3", read("ld3", "nfe_list=2,3", "r=1")) == "ld3,nfe_list=2+3,r=1.0"


@pytest.mark.parametrize(
    "words, message",
    [
        (("edn", "P_mean=1"), "--options edn: expected one of edm, .*did you mean edm"),
        (("edm", "P_men=1"), "expected KEY=VALUE with an option of edm, got 'P_men=1'; did you mean P_mean"),
        (("edm", "euler"), "got 'euler'; python train.py --method edm --help lists them"),
        (("ld3", "decoupled=2"), "expected decoupled=true or decoupled=false, got 'decoupled=2'"),
        (("flow_map", "diagonal_share=3"), "--options flow_map: expected diagonal_share from 0 to 1, got 3"),
        (("ctm", "N=2"), "--options ctm: expected solver_steps from 1 to N"),
    ],
)
def test_a_wrong_word_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        read(*words)


def test_a_value_of_another_type_is_one_line(capsys):
    with pytest.raises(SystemExit):
        read("edm", "P_mean=high")
    assert "argument --P_mean: " in capsys.readouterr().err


TABLE = """# A table

`python -m recipes.mini`, once. 64 images.

Measured before, `b`: `python -m recipes.mini`, long ago.

| FID, 8 vs 8 | NFE 1 |
|---|---|
| `a` | 3.5 |
| `b` | 12.5 |
| `c` | 7 |
"""


def test_rows_of_a_table_that_stands(tmp_path, capsys):
    """Each with the words on how it was measured, however often the table has been added to."""
    file = tmp_path / "t.md"
    assert compare.earlier_rows(file, "FID, 8 vs 8", []) == {}
    file.write_text(TABLE)
    found = compare.earlier_rows(file, "FID, 8 vs 8", ["c", "d"])
    assert {name: line for name, (line, _) in found.items()} == {"a": "| `a` | 3.5 |", "b": "| `b` | 12.5 |"}
    said = compare.source_lines({name: source for name, (_, source) in found.items()})
    assert said[1] == "Measured before, `a`: `python -m recipes.mini`, once. 64 images."
    assert compare.sources(said) == {
        "a": "`python -m recipes.mini`, once. 64 images.",
        "b": "`python -m recipes.mini`, long ago.",
    }
    assert sorted(["| `b` | 12.5 |", "| `a` | 3.5 ± 1 |", "| `c` | nan |"], key=compare.first_number)[:2][0].startswith("| `a`")
    assert not capsys.readouterr().out
    assert compare.earlier_rows(file, "FID, 9 vs 9", []) == {} and "FID, 9 vs 9" in capsys.readouterr().out


def test_a_method_of_ones_own_gets_the_teacher_that_it_needs():
    try:
        register("taught")(type("Taught", (get_method("cmt"),), {}))
        register("plain")(type("Plain", (get_method("edm"),), {}))
        entries = with_all_methods({})
    finally:
        METHODS.remove("taught")
        METHODS.remove("plain")
    assert entries["taught"].teacher == TEACHER and entries["plain"] == Entry() and entries["reflow"].pairs == "rectified_flow"


def test_rows_with_options_of_their_own(tmp_path):
    """They extend the row's; those of earlier commands are known again by what stands in their folders."""
    entries = {
        "edm": Entry(options={"solver": "euler"}),
        "late": Entry("cmt", {"nfe": 8}, share=0.5, after="edm"),
        "no": Entry(row=False),
    }
    found, asked = with_options(entries, [["late", "points=4"], ["edm", "P_mean=1"]], FACES, tmp_path)
    assert asked == ["late,points=4", "edm,P_mean=1.0"] and found["edm"] == entries["edm"]
    assert found[asked[0]] == Entry("cmt", {"nfe": 8, "points": 4}, share=0.5, after="edm")
    assert found[asked[1]] == Entry("edm", {"solver": "euler", "P_mean": 1.0})
    for name, method in (("edm,P_mean=2.0", "edm"), ("gone,x=1", "gone")):
        (tmp_path / name).mkdir()
        save_json({"method": method, "options": {"P_mean": 2.0}}, tmp_path / name / "entry.json")
    found, asked = with_options(entries, [], FACES, tmp_path)
    assert asked == [] and found == {**entries, "edm,P_mean=2.0": Entry("edm", {"P_mean": 2.0})}
    with pytest.raises(UserError, match="expected one of edm, late"):
        with_options(entries, [["no", "P_mean=1"]], FACES, tmp_path)
