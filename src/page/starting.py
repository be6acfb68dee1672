"""How the page is started: its flags, and what has to be there."""

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from src.common.cli import Parser, UserError

APP = Path(__file__).with_name("app.py")


def home_path(text: str) -> Path:
    """A path as it is typed: ~ at its beginning is the home folder, which a shell does not see in --flag=~/x."""
    return Path(os.path.expanduser(text))


def make_parser(**kwargs: str) -> Parser:
    """The flags of the page, which `python -m src.page` hands on to it."""
    parser = Parser(**kwargs)
    for name, text in (("checkpoints", "of models that come with the kit"), ("results", "of runs, at any depth")):
        parser.add_argument(f"--{name}", type=home_path, default=Path(name), help=f"folder {text}")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    return parser


def app_flags(args: argparse.Namespace) -> Sequence[str]:
    """The flags of the page as words."""
    return ["--checkpoints", str(args.checkpoints), "--results", str(args.results), "--device", args.device]


def check_folders(args: argparse.Namespace) -> None:
    """Raise UserError for a folder that was named and is none; those that are taken where nobody names them may be absent."""
    for name in ("checkpoints", "results"):
        folder = getattr(args, name)
        if folder != Path(name) and not folder.is_dir():
            there = "that is a file" if folder.exists() else "there is no such folder"
            raise UserError(f"--{name} {folder}: expected a folder, and {there}")


def need_streamlit() -> None:
    """Raise UserError where Streamlit is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("the page needs Streamlit: pip install -r requirements-page.txt")


def check_started() -> None:
    """Raise UserError unless it is Streamlit that runs the page."""
    need_streamlit()
    from streamlit import runtime

    if not runtime.exists():
        raise UserError("this script is a page for Streamlit: start it by python -m src.page, or streamlit run src/page/app.py")
