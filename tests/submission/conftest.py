"""What all tests of submissions share."""

import pytest

from src.submission import intake
from tests.processes import forked_python


@pytest.fixture(autouse=True)
def intake_forked(monkeypatch):
    """The process that reads a submission need not import torch."""
    monkeypatch.setattr(intake, "PYTHON", forked_python())
