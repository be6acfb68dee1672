"""The page to play with a model: `streamlit run src/page/app.py`, or `python -m src.page`."""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # Streamlit puts the folder of this file there alone

from src.common.cli import UserError, run_script
from src.page.starting import check_started, make_parser


def main() -> None:
    check_started()
    import streamlit as st

    from src.page import page, sidebar, tabs

    st.set_page_config(page_title="Few-step image generation", layout="wide")
    st.html("<style>.stMainBlockContainer {padding-top: 3rem}</style>")
    st.markdown("#### Few-step image generation")
    page.keep_choices()
    try:
        titles = list(tabs.TABS)
        opened = tabs.TABS[st.session_state.get("tab", titles[0])]
        asked = sidebar.ask(make_parser().parse_args(), opened.asks)
        for place, title in zip(st.tabs(titles, key="tab", on_change="rerun"), titles, strict=True):
            if place.open:  # the others are not computed
                with place:
                    tabs.TABS[title].show(asked)
    except UserError as error:
        st.error(str(error))
    except SystemExit:
        st.error("the page was started with flags that it does not know: the terminal names them")


if __name__ == "__main__":
    run_script(main)
