"""The board: ranks, files, hostile names; and the page in a browser."""

import csv
import html
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from src.challenges import Published
from src.submission.board.leaderboard import no_formula, text, write_board
from src.submission.board.measure import seed_statistics

REFERENCES = [
    Published("Baseline", "published", {1: 293.4, 2: 233.8, 4: 114.3}),
    Published("Floor", "1,000 real images", {1: 18.2, 2: 18.2, 4: 18.2}),
]
SCRIPT, LONG, TURNED = "<script>window.hacked=1</script>", "x" * 10000, "good \u202emaet dab\u202c \u200f team"

PLAN = ["x0 = normal(batch, 3, 64, 64)", "y1 = network(x0, 999)", "x1 = x0 - 0.999 * y1"]
HOSTILE = ["</pre></details><script>window.hacked=1</script>", TURNED, LONG, "\u05d0\u05d1 = network(x0, 999)", "a\nb\x00", ""]


def result(team, fids, status="graded", reason=None, lines=PLAN, own_code=None, **others):
    """A result as the grader writes it: fids are NFE -> FID."""
    nfe = {
        str(n): {
            "fid": fid,
            "fid_spread": 0.3,
            "fid_seeds": [fid - 0.3, fid + 0.3],
            "fid_public": fid + 0.25,
            "kid": -0.0004,
            "kid_spread": 0.0002,
            "calls": n,
            "plan": {"operations": len(lines), "calls": n, "numbers": 12, "lines": lines} if own_code is None else None,
            "own_code": own_code,
            "samples": f"teams/{n}.png",
        }
        for n, fid in fids.items()
    }
    settings = {"seeds": 2, "num_images": 1000, "seconds": 9.0, "sandbox": "bubblewrap", "graded_at": "2026-11-21T20:00:00"}
    names = {"team": team, "submission": f"{team[:20]}.zip", "sha256": "0123456789abcdef" * 4, "method": "shortcut"}
    return {**names, "status": status, "reason": reason, "nfe": nfe, **settings, **others}


RESULTS = [
    result("Alpha", {1: 50.0, 2: 40.0, 4: 30.0}),
    result("Tie one", {1: 60.004, 2: 41.0, 4: 31.0}),
    result("Tie two", {1: 59.996, 2: 42.0, 4: 9.5}),
    result("Beta", {2: 39.0, 4: 32.0}, "failed", "too_many_calls: 3 calls per image at NFE 1"),
    result(SCRIPT, {1: 70.0, 2: 70.0, 4: 70.0}, lines=HOSTILE, method="<img src=x onerror='window.hacked=1'>"),
    result(LONG, {1: 80.0}),
    result(TURNED, {1: 90.0}),
    result("=1+1", {1: 100.0}),
    result("Own one", {4: 5.0}, own_code=f"it reads an image: \u201c{SCRIPT}\u201d \u202e{LONG}"),
    result("Own two", {4: 31.0}, own_code="\u202e"),
    result("Gone", {}, "failed", 'unsafe_archive: ../../"><script>window.hacked=1</script>', method=None),
]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    (folder / "teams").mkdir()
    for nfe in (1, 2, 4):
        pixels = np.random.default_rng(nfe).integers(0, 256, (128, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "teams" / f"{nfe}.png")
    write_board(RESULTS, folder, REFERENCES, "Faces")
    return folder


@pytest.fixture(scope="module")
def entries(board):
    return json.loads((board / "leaderboard.json").read_text())["entries"]


def test_ranks(entries):
    """Equal FIDs, to the two decimals that are shown, share a rank; a team without one NFE is ranked at the others."""
    ranks = {(entry["team"], entry["nfe"]): entry["rank"] for entry in entries}
    assert [ranks[name, 1] for name in ("Alpha", "Tie one", "Tie two")] == [1, 2, 2]
    assert ranks[SCRIPT, 1] == 4 and ranks["Tie two", 4] == 1
    assert ("Beta", 1) not in ranks and ranks["Beta", 2] == 1 and ranks["Beta", 4] == 4
    assert not any(team == "Gone" for team, _ in ranks)


def test_what_its_own_code_sampled_is_ranked_apart(board, entries):
    """Also where the reason is nothing but marks; and nobody else's rank is another for it."""
    apart = {entry["team"]: entry for entry in entries if entry["own_code"] is not None}
    assert [(name, entry["rank"], entry["operations"]) for name, entry in apart.items()] == [
        ("Own one", 1, None),
        ("Own two", 2, None),
    ]
    assert apart["Own one"]["own_code"].startswith(f"it reads an image: \u201c{SCRIPT}\u201d xxx")
    assert len(apart["Own one"]["own_code"]) == 240 and apart["Own two"]["own_code"] == "no reason was given"
    others = {entry["team"]: entry["rank"] for entry in entries if entry["nfe"] == 4 and entry["own_code"] is None}
    assert others == {"Tie two": 1, "Alpha": 2, "Tie one": 3, "Beta": 4, SCRIPT: 5}
    page = (board / "leaderboard.html").read_text(encoding="utf-8")
    first, second = page.split('id="nfe4"')[1].split("</section>")[0].split("<h3>")
    assert "Own one" not in first and "Own two" in second and "Alpha" not in second and "not proved" in second
    assert page.count("<h3>") == 1, "none where there is nobody"


def shown_plans(folder):
    """Each plan of the board's page, its lines as they are read."""
    page = (folder / "leaderboard.html").read_text(encoding="utf-8")
    plans = re.findall(r'<pre tabindex="0">(.*?)</pre>', page, re.DOTALL)
    lines = [re.findall(r'<bdi dir="ltr">(.*?)</bdi>', plan) for plan in plans]
    assert [plan.count("<") for plan in plans] == [2 * len(each) for each in lines], "all else is text"
    return [[html.unescape(line) for line in each] for each in lines]


def test_plans(tmp_path):
    """Shown line by line, each cut and without marks; a long one says what is left out."""
    many = [f"x{i} = x{i - 1} + 1" for i in range(10_000)]
    teams = {"A": PLAN, "B": HOSTILE, "C": many, "D": many[:400], "E": []}
    write_board([result(name, {4: 9.0 + i}, lines=lines) for i, (name, lines) in enumerate(teams.items())], tmp_path)
    honest, hostile, cut, whole = shown_plans(tmp_path)
    assert honest == PLAN and whole == many[:400]
    assert hostile == [HOSTILE[0], "good maet dab team", "x" * 159 + "\u2026", HOSTILE[3], "a b", ""]
    assert cut == [*many[:399], "\u2026 9,601 more lines are in the team's result.json"]
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "Plan: 3 operations, 12 numbers" in page and "Plan: 10,000 operations" in page and page.count("<details>") == 4
    rows = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text(encoding="utf-8"))))
    assert [(row["operations"], row["numbers"], row["own_code"]) for row in rows][:2] == [("3", "12", ""), ("6", "12", "")]


def test_old_results(tmp_path):
    """Without plans they are ranked with the others; a spread of one seed, which was 0, is none."""
    old = [result("Three", {4: 30.0}), result("One", {4: 31.0}, seeds=1)]
    for values in (each["nfe"]["4"] for each in old):
        for name in ("plan", "own_code", "kid_spread"):
            del values[name]
        values.update(kid_error=0.0004, network_share=0.9998)
    old[1]["nfe"]["4"].update(fid_seeds=[31.0], fid_spread=0.0, kid_error=0.0)
    write_board([*old, result("New", {4: 30.5})], tmp_path)
    entries = json.loads((tmp_path / "leaderboard.json").read_text())["entries"]
    names = ("team", "rank", "fid_spread", "kid_spread", "operations", "own_code")
    assert [tuple(entry[name] for name in names) for entry in entries] == [
        ("Three", 1, 0.3, 0.0004, None, None),
        ("One", 3, None, None, None, None),
        ("New", 2, 0.3, 0.0002, 3, None),
    ]
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert page.count("<small>\u00b1") == 4 and page.count("<details>") == 1 and "0.00</small>" not in page
    assert "etwork_share" not in page and "From network" not in page


def test_spreads_of_seeds():
    """The standard deviation of N - 1, and none of one seed."""
    three = seed_statistics([{"fid": fid, "kid": fid / 1000} for fid in (10.0, 12.0, 14.0)])
    assert three["fid"] == 12.0 and three["fid_spread"] == 2.0 and three["kid_spread"] == pytest.approx(0.002)
    one = seed_statistics([{"fid": 10.0, "kid": 0.01}])
    assert one == {"fid": 10.0, "fid_spread": None, "fid_seeds": [10.0], "kid": 0.01, "kid_spread": None}


def test_json_and_csv_agree(board, entries):
    content = json.loads((board / "leaderboard.json").read_text())
    assert content["updated"] == "2026-11-21T20:00:00" and content["references"][0]["fid"]["1"] == 293.4
    assert [(failure["team"], failure["code"]) for failure in content["failures"]] == [
        ("Beta", "too_many_calls"),
        ("Gone", "unsafe_archive"),
    ]
    table = (board / "leaderboard.csv").read_text(encoding="utf-8")
    assert table[0] == "\ufeff", "Excel takes it for UTF-8 then"
    rows = list(csv.DictReader(io.StringIO(table[1:])))
    assert len(rows) == len(entries) + 2
    for row, entry in zip(rows, entries, strict=False):
        assert (int(row["nfe"]), int(row["rank"]), float(row["fid"])) == (entry["nfe"], entry["rank"], entry["fid"])
        assert row["kid"] == "-0.0004", "a negative number stays a number"
    assert [row["reason"] for row in rows[-2:]] == [failure["reason"] for failure in content["failures"]]
    assert next(row["team"] for row in rows if "1+1" in row["team"]) == "'=1+1"


@pytest.mark.parametrize("value", ["=1", "+1", "-1", "@a", "|a", "%a", "\uff1d1", "\uff20a"])
def test_spreadsheets_see_no_formula(value):
    """At the start of a cell, and behind a semicolon, where Excel cuts cells in half of Europe."""
    assert no_formula(value) == f"'{value}" and no_formula(f"a;{value}") == f"a;'{value}"
    assert no_formula(f"\t{value}") == f"\t'{value}" and no_formula("\ta") == "'\ta"
    assert no_formula(" =1; +2;b;=3") == " '=1; '+2;b;'=3"
    assert no_formula(float(-1)) == -1.0 and no_formula("a=1; b-2") == "a=1; b-2"


def test_remarks_and_failures_of_single_nfes(tmp_path):
    """A failure at one NFE has a row of its own and leaves the other ranks; a remark costs nothing."""
    some = {"failures": {"4": "wrong_output: not finite"}, "remarks": ["2 networks", "<b>x</b>"]}
    write_board([result("A", {1: 50.0, 2: 40.0}, **some), result("B", {1: 60.0})], tmp_path, ())
    content = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [(row["team"], row["nfe"], row["rank"]) for row in content["entries"]] == [("A", 1, 1), ("A", 2, 1), ("B", 1, 2)]
    assert [(row["team"], row["code"], row["reason"]) for row in content["failures"]] == [("A", "wrong_output", "not finite")]
    assert [(row["team"], row["remark"]) for row in content["remarks"]] == [("A", "2 networks"), ("A", "<b>x</b>")]
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;x&lt;/b&gt;" in page and 'id="remarks"' in page and 'id="failures"' in page
    both = {"failures": {"1": "crashed: a", "2": "crashed: a"}, "remarks": ["\u202e"]}
    write_board([result("C", {}, "failed", "crashed: a", **both)], tmp_path, ())
    rows = json.loads((tmp_path / "leaderboard.json").read_text())
    assert len(rows["failures"]) == 1 and rows["remarks"] == [], "one reason once, and nothing of a remark that is none"
    assert "emark" not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


def test_names_are_one_short_line():
    assert text(LONG, 60) == "x" * 59 + "\u2026"
    assert text(TURNED, 60) == "good maet dab team"
    assert text(" a\n\tb\x00\x1b[31m\ufeff ", 60) == "a b[31m"
    assert text("e" + "\u0301" * 500 + "x", 60) == "\u00e9\u0301\u0301x"
    assert text("\u05d0\u05d1", 60) == "\u05d0\u05d1" and text(None, 60) == ""


def test_the_page_is_closed(board):
    """All text of submissions is escaped, and nothing is loaded from elsewhere."""
    page = (board / "leaderboard.html").read_text(encoding="utf-8")
    assert SCRIPT not in page and "&lt;script&gt;window.hacked=1&lt;/script&gt;" in page and "<img src=x" not in page
    assert "x" * 60 not in page.split("base64,")[0] and "\u202e" not in page and "\u200f" not in page
    assert "http:" not in page and "https:" not in page and page.count("<script>") == 1
    assert "default-src 'none'" in page and "unsafe" not in page.split("<body>")[0]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "teams/none.png", "teams/text.png", "teams/cut.png", None])
def test_pictures_that_cannot_be_shown(tmp_path, path):
    """No file outside the board's folder is read; damaged ones cost the picture, not the board."""
    folder = tmp_path / "board"
    (folder / "teams").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "teams" / "text.png").write_text("<svg onload='alert(1)'/>")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "teams" / "cut.png")
    (folder / "teams" / "cut.png").write_bytes((folder / "teams" / "cut.png").read_bytes()[:3000])
    broken = result("Alpha", {1: 50.0})
    broken["nfe"]["1"]["samples"] = path
    write_board([broken], folder)
    page = (folder / "leaderboard.html").read_text(encoding="utf-8")
    assert "no picture" in page and "data:image" not in page.split("<body>")[1].split("<script>")[0]


def test_odd_results(tmp_path):
    """A board of nothing, and numbers that are none."""
    write_board([], tmp_path)
    assert "0 teams" in (tmp_path / "leaderboard.html").read_text()
    odd = result("", {1: math.nan, 2: math.inf, 4: 5.0}, seeds=None)
    odd["nfe"]["4"].update(kid=math.nan, calls=None, fid_spread=None, fid_seeds=None)
    write_board([odd], tmp_path)
    (entry,) = json.loads((tmp_path / "leaderboard.json").read_text())["entries"]
    assert entry["team"] == "(no name)" and (entry["nfe"], entry["kid"], entry["calls"]) == (4, None, None)


# --------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def page(browser, board):
    """The board, as loaded anew on a wide screen."""
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.width(1280)
    browser.open(board / "leaderboard.html")
    return browser


def column(page, css):
    """The texts of a column of the first table, from above."""
    return page.evaluate(
        f"[...document.querySelectorAll('#nfe1 tbody tr')].map(row => row.querySelector('{css}').innerText.trim())"
    )


def test_it_loads_without_errors(page, board):
    problems = [event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert not problems
    urls = [event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    assert urls and all(url == (board / "leaderboard.html").as_uri() or url.startswith("data:image/webp") for url in urls)
    assert page.evaluate("document.querySelectorAll('table').length") == 5
    assert page.evaluate("document.querySelectorAll('table caption').length") == 5


def test_names_are_text_and_no_script_but_ours_runs(page):
    names = column(page, ".name bdi")
    assert SCRIPT in names and "good maet dab team" in names and max(map(len, names)) == 60
    assert page.evaluate("typeof window.hacked") == "undefined"
    page.evaluate("(s => { s.textContent = 'window.hacked = 1'; document.body.append(s) })(document.createElement('script'))")
    assert page.evaluate("typeof window.hacked") == "undefined", "the policy refuses what was put in later"
    answer = "fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')"
    assert page.evaluate(answer) == "refused"


def test_sorting(page):
    """By FID at first; by a heading's column when it is pressed, the other way when pressed again; no value comes last."""
    press = "document.querySelectorAll('#nfe1 thead button')[{}].click()"
    own = page.evaluate("document.querySelector('#nfe1 [data-label=\"FID, public seed\"]').innerText")
    assert "50.25" in own, "the figure that the team has measured itself"
    sorts = "[...document.querySelectorAll('#nfe1 th[aria-sort]')].map(th => th.ariaSort)"
    assert column(page, ".name bdi")[:3] == ["Floor", "Alpha", "Tie two"] and column(page, ".name bdi")[-1] == "Baseline"
    page.evaluate(press.format(0))
    assert column(page, ".rank") == ["1", "2", "2", "4", "5", "6", "7", "\u2013", "\u2013"]
    page.evaluate(press.format(0))
    assert column(page, ".rank") == ["7", "6", "5", "4", "2", "2", "1", "\u2013", "\u2013"]
    assert page.evaluate(sorts) == ["descending", *["none"] * 5]
    page.evaluate(press.format(1))
    names = column(page, ".name bdi")
    assert sorted(names, key=str.casefold)[2:] == names[2:] and page.evaluate(sorts)[1] == "ascending"
    assert page.evaluate("document.querySelectorAll('#nfe2 th[aria-sort]')[2].ariaSort") == "ascending", "other tables stay"
    page.evaluate("document.querySelector('#nfe1 thead button').focus()")
    page.press("Enter")
    assert column(page, ".rank")[0] == "1" and column(page, ".rank")[-1] == "\u2013"


def test_pictures(page):
    """Every picture is drawn; one that is pressed opens enlarged, and Escape closes it."""
    sizes = page.evaluate(
        "[...document.querySelectorAll('button.sheet img')].map(i => [i.naturalWidth, i.naturalHeight, i.alt])"
    )
    assert len(sizes) == 7 + 5 + 7 and all(size[:2] == [512, 128] and size[2] for size in sizes)
    page.evaluate("document.querySelector('button.sheet').click()")
    assert page.evaluate("document.querySelector('dialog').open && document.querySelector('dialog img').offsetWidth > 600")
    page.press("Escape")
    assert page.evaluate("document.querySelector('dialog').open") is False


OPEN = "for (const each of document.querySelectorAll('details')) each.open = true"


def test_plans_are_opened_by_key(page):
    """No script is needed; every line stands alone, left to right."""
    page.evaluate("document.querySelector('summary').focus()")
    assert page.evaluate("document.querySelector('pre').checkVisibility()") is False
    page.press("Enter")
    assert page.evaluate("document.querySelector('pre').checkVisibility()") is True
    assert page.evaluate("document.querySelector('pre').innerText") == "\n".join(PLAN)
    styles = "[...document.querySelectorAll('pre bdi')].map(e => getComputedStyle(e)).map(s => s.unicodeBidi + s.direction)"
    assert set(page.evaluate(styles)) == {"isolateltr"}


OVERFLOW = """[...document.querySelectorAll('body *')]
  .filter(e => e.getClientRects().length && !e.closest('dialog, pre bdi'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
  .map(e => e.outerHTML.slice(0, 99))"""


@pytest.mark.parametrize("width", [360, 700, 970, 1280])
def test_width(page, width):
    """Nothing sticks out sideways, long plans scroll inside themselves, and columns can be sorted, on a phone too."""
    page.width(width)
    page.evaluate(OPEN)
    long = page.evaluate("[...document.querySelectorAll('pre')].filter(e => e.scrollWidth > e.clientWidth).length")
    assert long >= 3 and page.evaluate("Math.min(...[...document.querySelectorAll('pre')].map(e => e.clientWidth))") > 150
    assert page.evaluate("innerWidth") == width and page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate("Math.min(...[...document.querySelectorAll('thead button')].map(b => b.offsetHeight))") >= 16
    page.evaluate("document.querySelector('#nfe1 thead button').click()")
    assert column(page, ".rank")[0] == "1"


CONTRAST = """(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const light = (color) => {
    const [red, green, blue] = numbers(color).map((value) => linear(value / 255));
    return .2126 * red + .7152 * green + .0722 * blue;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (numbers(color)[3] ?? 1) > 0 ? color : ground(element.parentElement);
  };
  return [...document.querySelectorAll('h1, h2, h3, p, a, caption, th button, td, small, bdi, code, summary')]
    .filter(e => e.offsetWidth && !e.closest('dialog'))
    .map(e => [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a))
    .map(([a, b]) => (a + .05) / (b + .05));
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    """All text has the 4.5 to 1 of WCAG AA against its ground, in both schemes."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.evaluate(OPEN)
    ratios = page.evaluate(CONTRAST)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 27)"
    assert dark == (scheme == "dark") and len(ratios) > 100 and min(ratios) >= 4.5
