"""The page to play with a model: `streamlit run src/page/app.py`, or `python -m src.page`."""

import importlib.util
import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # Streamlit puts the folder of this file there alone

from src.common.cli import Parser, UserError, run_script


def make_parser(**kwargs: str) -> Parser:
    """The flags of the page, which `python -m src.page` hands on to it."""
    parser = Parser(**kwargs)
    for name, text in (("checkpoints", "of models that come with the kit"), ("results", "of runs, at any depth")):
        parser.add_argument(f"--{name}", type=Path, default=Path(name), help=f"folder {text}")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    return parser


def need_streamlit() -> None:
    """Raise UserError where Streamlit is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("the page needs Streamlit: pip install -r requirements-page.txt")


def main() -> None:
    need_streamlit()
    import streamlit as st

    if not st.runtime.exists():
        raise UserError("this script is a page for Streamlit: start it by python -m src.page, or streamlit run src/page/app.py")
    from src.page import page, sidebar, tabs

    st.set_page_config(page_title="Few-step image generation", layout="wide")
    st.html("<style>.stMainBlockContainer {padding-top: 3rem}</style>")
    st.markdown("#### Few-step image generation")
    page.keep_choices()
    try:
        titles = list(tabs.TABS)
        opened = tabs.TABS[st.session_state.get("tab", titles[0])]
        shown = sidebar.ask(make_parser().parse_args(), opened.asks)
        for place, title in zip(st.tabs(titles, key="tab", on_change="rerun"), titles, strict=True):
            if place.open:  # the others are not computed
                with place:
                    tabs.TABS[title].show(shown)
    except UserError as error:
        st.error(str(error))
    except SystemExit:
        st.error("the page was started with flags that it does not know: the terminal names them")


if __name__ == "__main__":
    run_script(main)
