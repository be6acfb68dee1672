"""How the page is started: its flags, and what has to be there."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from src.common.cli import Parser, UserError

APP = Path(__file__).with_name("app.py")


def make_parser(**kwargs: str) -> Parser:
    """The flags of the page, which `python -m src.demo` hands on to it."""
    parser = Parser(**kwargs)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="folder of models that come with the kit")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of runs, at any depth")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    return parser


def app_flags(args: argparse.Namespace) -> Sequence[str]:
    """The flags of the page as words."""
    return ["--checkpoints", str(args.checkpoints), "--results", str(args.results), "--device", args.device]


def need_streamlit() -> None:
    """Raise UserError where Streamlit is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("the page needs Streamlit: pip install -r requirements-demo.txt")


def check_started() -> None:
    """Raise UserError unless it is Streamlit that runs the page."""
    need_streamlit()
    from streamlit import runtime

    if not runtime.exists():
        raise UserError("this script is a page for Streamlit: start it by python -m src.demo, or streamlit run src/demo/app.py")
