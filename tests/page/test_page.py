"""The page itself: as Streamlit runs it, and as Chromium shows it."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.common.checkpoints import save_model
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.page import __main__ as starter
from src.page import app, distillation, pictures
from src.page import page as page_file
from src.runs.folder import Run
from tests.browser import Browser
from tests.helpers import TINY, add_measured, fails, random_images, slow_but, tiny_model

needs_streamlit = pytest.mark.skipif(
    importlib.util.find_spec("streamlit") is None, reason="no Streamlit: pip install -r requirements-page.txt"
)
WHAT_TO_DO = "error: the page needs Streamlit: pip install -r requirements-page.txt"
TABS = [
    "Samples",
    "From noise to image",
    "More calls",
    "Between two seeds",
    "The run",
    "Nearest training image",
    "On the plane",
    "Score distillation",
]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--results", "absent"], "--results absent: expected a folder, and there is no such folder"),
        (["--checkpoints", __file__], f"--checkpoints {__file__}: expected a folder, and that is a file"),
        (["--results=~/absent"], "--results HOME/absent: expected a folder, and there is no such folder"),
        (["--port", "70000"], "--port 70000: expected a number of at most 65535"),
        (["results/run"], "unrecognized arguments: results/run (see --help)"),
    ],
)
def test_wrong_flags_are_one_line(flags, line, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fails(starter, monkeypatch, capsys, *flags) == f"error: {line.replace('HOME', str(tmp_path))}"


def test_without_streamlit_it_is_told_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    assert fails(starter, monkeypatch, capsys) == fails(app, monkeypatch, capsys) == WHAT_TO_DO


@needs_streamlit
def test_run_by_python_alone_it_is_told_how_to_start_it(monkeypatch, capsys):
    assert "start it by python -m src.page, or streamlit run" in fails(app, monkeypatch, capsys)


@pytest.fixture
def page(shipped, results, monkeypatch):
    """The page over the tiny models: page(path) is run with that path typed in, or as it is at first."""
    from streamlit.testing.v1 import AppTest

    def run(typed: Path | None = None, checkpoints: Path = shipped, runs: Path = results, flags: tuple[str, ...] = ()):
        argv = [app.__file__, "--checkpoints", checkpoints, "--results", runs, "--device", "cpu", *flags]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        test = AppTest.from_file(app.__file__, default_timeout=60)
        if typed is not None:
            test.session_state["kept_checkpoint"], test.session_state["kept_path"] = "another path ...", str(typed)
        return test.run()

    return run


def said(test) -> str:
    """The one line with which the page says what is wrong."""
    assert not test.exception, test.exception
    (line,) = test.error
    assert "\n" not in line.value
    return line.value


@needs_streamlit
def test_bad_checkpoints_are_one_line(page, shipped, results, tmp_path):
    absent = tmp_path / "absent"
    assert said(page(checkpoints=absent, runs=absent)).startswith(
        f"no model in {absent} and no run in {absent}: train one, such as by `python train.py --challenge mnist --preset small`"
    )
    assert said(page(absent.with_suffix(".ckpt"))) == f"no checkpoint at {absent}.ckpt"
    assert said(page(tmp_path)) == f"no checkpoint at {tmp_path / 'last.ckpt'}"
    assert said(page("~no_such_user/run")) == "no checkpoint at ~no_such_user/run"
    good = (shipped / "plain" / "best_model.pt").read_bytes()
    file = tmp_path / "model.pt"
    file.write_bytes(good[: len(good) // 2])
    assert said(page(file)).startswith(f"{file}: damaged or not a checkpoint")
    file.write_bytes(good)
    (tmp_path / "model_config.json").write_text('{"method": "shortcut", "challenge": "simpsons32"}')
    assert said(page(file)).startswith(f"{file} does not fit the model of {tmp_path / 'model_config.json'}")
    (tmp_path / "model_config.json").write_text('{"challenge": "chess"}')
    assert "unknown challenge 'chess'" in said(page(file))
    assert said(page(results)).startswith(f"{results} is a folder of 2 runs: type in the path of a run, such as {results}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "training_config.json").write_text('{"save_interval": 500}')
    assert said(page(tmp_path / "begun")).startswith(f"{tmp_path / 'begun'} has not saved yet: it ended before that")


@needs_streamlit
@pytest.mark.parametrize("text", ["{", "{}"])
def test_an_unreadable_run_is_one_line(page, results, tmp_path, text):
    run = shutil.copytree(results / "images", tmp_path / "run")
    for name in ("training_config.json", "log.jsonl", "metrics.jsonl"):
        (run / name).write_text(text)
    test = page(run)
    test.session_state["tab"] = TABS[4]
    test.run()
    if text == "{":
        assert said(test).startswith(f"{run / 'training_config.json'}: malformed JSON")
    else:
        assert not test.exception and not test.error and test.markdown[-1].value == "**0 steps**"


@needs_streamlit
def test_flags_that_it_does_not_know(page, capsys):
    assert said(page(flags=("--what",))).startswith("the page was started with flags that it does not know")
    assert capsys.readouterr().err.count("error: unrecognized arguments: --what") == 1


@needs_streamlit
@pytest.mark.parametrize("source", slow_but([0], [0, 1, 2, 3]), ids=["classes", "plain", "points", "images"])
def test_every_tab_of_every_model(page, source, monkeypatch):
    test = page()
    choose = test.selectbox(key="kept_checkpoint")
    test.session_state["kept_steps"], test.session_state["kept_columns"] = 2, 3
    test.session_state["kept_count_mnist"], test.session_state["kept_count_toy2d"] = 3, 20
    choose.set_value(choose.options[source]).run()
    for title in TABS:
        test.session_state["tab"] = title
        test.session_state["kept_compare"] = source == 3  # the run's own images; the others would be downloaded
        test.run()
        assert not test.exception, (title, test.exception)
        assert not test.error, (title, test.error)
        assert title not in TABS[:4] or test.get("download_button"), title
        assert (title == TABS[5] and source == 3) == any("They differ by" in each.value for each in test.markdown)


@needs_streamlit
def test_the_sampler_as_arithmetic(page, monkeypatch):
    """Under the samples, where it is asked for; what no plan can hold is said instead."""
    calls = []

    def arithmetic(checkpoint: str, nfe: int) -> list[str]:
        calls.append((Path(checkpoint).parent.name, nfe))
        if len(calls) == 2:
            raise UserError("a value is asked for (custom_model.py, line 3)")
        return ["NFE 1: 1 network call", "images = y1"]

    monkeypatch.setattr("src.page.tabs.arithmetic", arithmetic)
    test = page()
    test.session_state["kept_count_mnist"], test.session_state["kept_arithmetic"] = 3, True
    test.run()
    assert not test.exception and test.code[0].value == "images = y1" and calls[0][0] == "classes"
    nfe = test.radio[0]
    nfe.set_value(nfe.options[1]).run()
    assert not test.exception and len(calls) == 2 and "line 3" in test.code[0].value


OFFERED = {  # of the sidebar, beside the checkpoint, where the model has digits' classes
    "Samples": ["Network calls a sample (NFE)", "Seed", "Samples", "Classes", "Guidance scale"],
    "From noise to image": ["Seed", "Samples", "Classes", "Guidance scale"],
    "More calls": ["Seed", "Samples", "Classes", "Guidance scale"],
    "Between two seeds": ["Network calls a sample (NFE)", "Seed", "Samples", "Classes", "Guidance scale"],
    "The run": [],
    "Nearest training image": ["Network calls a sample (NFE)", "Seed", "Samples", "Classes", "Guidance scale"],
    "On the plane": ["Network calls a sample (NFE)", "Seed"],
    "Score distillation": ["Seed"],
}


@needs_streamlit
def test_only_what_the_open_tab_has_a_use_for_is_offered(page):
    test = page()
    test.session_state["kept_steps"], test.session_state["kept_columns"] = 2, 3
    test.session_state["kept_count_mnist"] = 3
    for title in TABS:
        test.session_state["tab"] = title
        test.run()
        labels = [item.label for item in test.sidebar if getattr(item, "label", "")]
        assert labels == ["Checkpoint", *OFFERED[title]], title
    scales = [item.label for item in test.number_input if "uidance" in item.label]
    assert title == "Score distillation" and scales == ["Guidance scale"], "its own, and no other"
    (text,) = test.text
    assert text.value.endswith(f"{Path('classes') / 'best_model.pt'}: RectifiedFlow on cpu, float32")


@needs_streamlit
def test_what_was_measured_is_shown(page, results, tmp_path):
    """In every tab that shows samples of that NFE, of images and of points, also where the folder is no run's."""
    run = shutil.copytree(results / "points", tmp_path / "results" / "points")
    row = {"step": 4, "nfe": 4, "chamfer": 123.4, "num_generated": 2048, "reference": "2048", "options": {}}
    add_measured(Run(run), row)
    test = page(run, runs=run.parent)
    test.session_state["kept_count_toy2d"] = 20
    words = "Measured at NFE 4: Chamfer distance **123.40** (2,048 vs 2,048)"
    assert words in [item.value for item in test.markdown]
    test.radio(key="kept_nfe").set_value("2").run()
    assert not [item.value for item in test.markdown if "easured" in item.value]

    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "plane", lambda paths, data, title: drawn.append(title) or Image.new("RGB", (8, 8)))
        test.session_state["tab"], test.session_state["kept_nfe"] = "On the plane", "4"
        test.run()
    assert drawn == ["meanflow, moons, NFE 4\nChamfer distance 123.40"] and not test.exception

    (run / "training_config.json").unlink()
    test.session_state["tab"] = "The run"
    test.run()
    assert [(item.label, item.value) for item in test.metric] == [("NFE 4", "123.40")] and len(test.table) == 1
    assert "Chamfer distance, as it was measured last" in [item.value for item in test.markdown]
    assert "lies in no run's folder" in test.info[0].value


@needs_streamlit
def test_guidance_says_when_it_cannot(page):
    test = page()
    test.radio(key="kept_nfe").set_value("1")
    assert said(test.number_input(key="kept_scale").set_value(2.0).run()).startswith("NFE 1: a guided step makes two calls")
    assert not test.radio(key="kept_nfe").set_value("4").run().error


@needs_streamlit
def test_choices_are_kept(page):
    test = page()
    test.number_input(key="kept_seed").set_value(7)
    test.multiselect(key="kept_classes_mnist").set_value(["3"]).run()
    test.session_state["tab"] = TABS[1]
    test.run()
    test.slider(key="kept_moment").set_value(9).run()
    test.session_state["tab"] = TABS[0]
    test.run()
    assert not [slider for slider in test.slider if slider.key == "kept_moment"]
    test.session_state["tab"] = TABS[1]
    test.run()
    assert test.slider(key="kept_moment").value == 9 and test.number_input(key="kept_seed").value == 7
    assert test.multiselect(key="kept_classes_mnist").value == ["3"]


@pytest.fixture
def distilling(page, monkeypatch):
    """The page over the tiny models, at the tab of score distillation, three steps chosen; and the flags of what was made."""
    made = []

    def distil(loaded, flags, tell):
        """Noise, instead of the process that the other tests start."""
        made.append(flags)
        found = distillation.Distilled(list(random_images(3, shape=(2, 3, 28, 28))), [1, 2, 3], [0.3, 0.2, 0.1])
        for moment in zip(found.steps, found.losses, found.images, strict=True):
            tell(*moment)
        return found

    monkeypatch.setattr(distillation, "distil", distil)
    page_file.kept.clear()
    test = page()
    test.session_state["tab"] = TABS[-1]
    test.session_state["kept_distilled_steps"], test.session_state["kept_particles"] = 3, 2
    return test.run(), made


def shown_steps(test) -> list[str]:
    """Those that the slider offers; none before an image is distilled."""
    assert not test.exception and not test.error, (test.exception, test.error)
    return [step for slider in test.select_slider for step in slider.options]


@needs_streamlit
def test_an_image_is_distilled_when_the_button_is_pressed_and_kept(distilling):
    test, made = distilling
    assert not shown_steps(test) and not made
    test.button(key="distil").click().run()
    assert shown_steps(test) == ["1", "2", "3"] and test.select_slider(key="kept_distilled_step").value == 3
    assert test.code[0].value.startswith("python -m src.score_distillation --prior")
    first = [html.proto.body for html in test.get("html")]
    test.select_slider(key="kept_distilled_step").set_value(1).run()
    assert len(shown_steps(test)) == 3 and first != [html.proto.body for html in test.get("html")]

    test.radio(key="kept_loss_type").set_value("vsd").run()
    assert not shown_steps(test) and len(made) == 1, "another choice waits for the button"
    test.number_input(key="kept_scale_vsd").set_value(3.0)
    test.selectbox(key="kept_distilled_class_mnist").set_value("7").run()
    test.button(key="distil").click().run()
    assert len(shown_steps(test)) == 3 and len(made) == 2
    options = {"steps": 3, "lr": 0.03, "log_step": 1, "particles": 2, "seed": 42, "guidance_scale": 3.0}
    assert made[1] == {"class": "7", "loss_type": "vsd", **options} and "--lora_lr 0.01" in test.code[0].value
    for tab in (TABS[0], TABS[-1]):
        test.session_state["tab"] = tab
        test.run()
    assert len(shown_steps(test)) == 3 and len(made) == 2, "what was computed is still there"
    test.number_input(key="kept_seed").set_value(8).run()
    assert not shown_steps(test) and len(made) == 2


@needs_streamlit
@pytest.mark.parametrize("source", [1, 2, 3], ids=["plain", "points", "images"])
def test_without_classes_nothing_is_distilled(page, source, shipped, tmp_path):
    test = page()
    test.session_state["tab"] = TABS[-1]
    choose = test.selectbox(key="kept_checkpoint")
    choose.set_value(choose.options[source]).run()
    (line,) = test.info
    why = "samples of challenge toy2d are no images" if source == 2 else "the checkpoint knows no classes: give one that was "
    assert line.value.startswith(f"This model cannot be told what to show: {why}") and not test.button
    assert line.value.endswith(" checkpoints/classes (rectified_flow, mnist) can: choose it in the sidebar.")
    test = page(shipped / "plain" / "best_model.pt", checkpoints=tmp_path, runs=tmp_path)
    test.session_state["tab"] = TABS[-1]
    (line,) = test.run().info
    assert line.value.endswith("`python train.py --challenge mnist --preset laptop --class_conditional` makes one that can.")


@needs_streamlit
def test_a_method_that_cannot_be_distilled_is_not_offered_it(page, tmp_path):
    """Nor is it named as one that can."""
    (tmp_path / "checkpoints" / "few").mkdir(parents=True)
    file, options = tmp_path / "checkpoints" / "few" / "best_model.pt", {"challenge": "mnist", "classes": list("0123456789")}
    save_model(tiny_model("meanflow", **options), file, {"method": "meanflow", **TINY, **options})
    test = page(checkpoints=tmp_path / "checkpoints", runs=tmp_path)
    test.session_state["tab"] = TABS[-1]
    (line,) = test.run().info
    assert "MeanFlow gives no denoised data" in line.value and "few" not in line.value
    assert not test.button and [item.label for item in test.number_input] == ["Seed"]


@needs_streamlit
def test_a_distillation_that_fails_is_one_line(page):
    """And its own process is what is shown where it does not."""
    test = page()
    test.session_state["tab"] = TABS[-1]
    test.session_state["kept_distilled_steps"], test.session_state["kept_particles"] = 2, 1
    test.run().button(key="distil").click().run()
    assert shown_steps(test) == ["1", "2"]
    test.number_input(key="kept_distilled_lr").set_value(1e38).run()
    assert said(test.button(key="distil").click().run()).startswith("the gradient is not finite in step 2: give a lower --lr")
    assert not test.run().error and not shown_steps(test)


@pytest.fixture(scope="module")
def server(shipped, results, tmp_path_factory):
    """The page's address, started as a user starts it, from whichever folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "src.page", "--port", port, "--checkpoints", shipped, "--results", results]
    command += ["--device", "cpu"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "STREAMLIT_SERVER_HEADLESS": "true"},
        )
    try:
        wait_for_server(f"http://localhost:{port}/_stcore/health", process, log)
        yield f"http://localhost:{port}/"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_server(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)


SEEN = "[...document.querySelectorAll('img.tile')].filter(image => image.offsetParent)"
TILES = f"{SEEN}.map(image => image.src.slice(-64)).join(' ')"  # of each image the end, with the checksums of its PNG
IDLE = "!document.querySelector('[data-testid=stStatusWidget]')"


def changed(browser: Browser, before: str) -> str:
    """The images that are seen, as soon as they are sixteen, others than before, and the page has come to rest."""
    return browser.wait_for(f"(tiles => tiles !== {before!r} && {SEEN}.length === 16 && {IDLE} && tiles)({TILES})")


def open_tab(browser: Browser, title: str) -> None:
    tab = f"[...document.querySelectorAll('[role=tab]')].find(tab => tab.innerText === {title!r})"
    browser.wait_for(f"(tab => tab && (tab.click(), true))({tab})")


def click(browser: Browser, css: str) -> None:
    browser.wait_for(f"(button => button && (button.click(), true))(document.querySelector({css!r}))")


def focus(browser: Browser, css: str) -> None:
    browser.wait_for(
        f"(field => field && (field.focus(), field.select && field.select(), true))(document.querySelector({css!r}))"
    )


@needs_streamlit
def test_in_a_browser(server, browser, tmp_path):
    """Loads without an error; the seed, the slider, the checkpoint and a click change the images; a PNG is downloaded; nothing
    is asked of any other machine."""
    browser.download_to(tmp_path)
    browser.width(1280)
    browser.open_url(server)
    first = changed(browser, "")

    focus(browser, ".st-key-kept_seed input")
    browser.type("7")
    browser.press("Enter")
    of_seed = changed(browser, first)
    click(browser, ".st-key-save_nfe4 button")
    end = time.monotonic() + 30
    while not (files := list(tmp_path.glob("*.png"))):
        assert time.monotonic() < end, "no PNG came"
        time.sleep(0.1)
    with Image.open(files[0]) as grid:
        assert grid.size == (8 + 8 * 84, 2 * 84) and len(np.unique(np.asarray(grid))) > 100

    open_tab(browser, "From noise to image")
    at_middle = changed(browser, of_seed)  # eight states, eight predictions
    focus(browser, ".st-key-kept_moment [role=slider], .st-key-kept_moment [type=range]")
    browser.press("ArrowRight")
    changed(browser, at_middle)

    open_tab(browser, "Samples")
    browser.wait_for(f"{TILES} === {of_seed!r}")
    focus(browser, ".st-key-kept_checkpoint input")
    browser.type("results/images (custom, mnist)")
    browser.wait_for("document.querySelectorAll('[role=option]').length === 1")
    browser.press("Enter")
    changed(browser, of_seed)

    open_tab(browser, "Nearest training image")
    click(browser, ".st-key-kept_compare input")
    browser.wait_for(f"{SEEN}.length === 2")
    of_first = browser.evaluate(TILES)
    click(browser, ".st-key-kept_chosen button:nth-of-type(3)")
    browser.wait_for(f"{SEEN}.length === 2 && {TILES} !== {of_first!r} && document.body.innerText.includes('sample 3')")

    errors = [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert not errors
    lines = [event for event in browser.events if event["method"] == "Runtime.consoleAPICalled"]
    assert not [event for event in lines if event["params"]["type"] == "error"]
    urls = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert urls and not [url for url in urls if not url.startswith((server, "data:", "blob:"))]


@pytest.mark.slow
@needs_streamlit
def test_distillation_in_a_browser(server, browser):
    """Images, step and loss are seen while it computes; then the slider shows the moments."""
    browser.width(1280)
    browser.open_url(server)
    open_tab(browser, TABS[-1])
    click(browser, ".st-key-distil button")
    progress, count = f"/step [1-9][0-9]* of {distillation.STEPS}, loss [0-9.]+/", distillation.PARTICLES
    browser.wait_for(f"{progress}.test(document.body.innerText) && {SEEN}.length === {count}")
    browser.wait_for(f"document.querySelector('.st-key-kept_distilled_step') && {IDLE} && {SEEN}.length === {count}")
    last = browser.evaluate(TILES)
    focus(browser, ".st-key-kept_distilled_step [role=slider], .st-key-kept_distilled_step [type=range]")
    browser.press("ArrowLeft")
    browser.wait_for(f"{TILES} !== {last!r} && {IDLE}")


@pytest.mark.slow
@needs_streamlit
def test_on_a_phone(server, browser):
    """Nothing is wider than the screen."""
    browser.width(390)
    browser.open_url(server)
    changed(browser, "")
    for title in TABS[:4]:
        open_tab(browser, title)
        browser.wait_for(f"{SEEN}.length && {IDLE}")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        lefts = browser.evaluate(f"{SEEN}.map(image => image.getBoundingClientRect().left)")
        assert min(lefts) >= 0
