"""The sidebar: which model, and what is asked of it."""

import argparse
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import streamlit as st

from src.common.cli import UserError
from src.page import sources
from src.page.page import CLASSES, COUNT, NFE, SEED, Page, choice, load_model
from src.page.samples import Request
from src.page.sources import Loaded, Source

OTHER_PATH, OTHER_NUMBER, NO_CLASS = "another path ...", "other", "no class"
USUAL_SEED, USUAL_SAMPLES, MOST_CALLS, MOST_GUIDANCE = 42, 16, 1000, 50.0
TRAIN_ONE = "python train.py --challenge mnist --preset small"


@st.cache_data(ttl=10, show_spinner=False)
def listed(checkpoints: Path, results: Path) -> tuple[list[Source], list[Source]]:
    """The shipped models, and the runs, as they were at most ten seconds ago."""
    return sources.shipped(checkpoints), sources.trained(results)


def ask(args: argparse.Namespace, asks: Collection[str]) -> Page:
    """Show the sidebar, and give what it asks for. Raises UserError where there is no model to ask.

    asks: what the open tab has a use for, of page.ASKS; the rest is not offered, and has its default.
    """
    shipped, runs = listed(args.checkpoints, args.results)
    with st.sidebar:
        checkpoint = ask_checkpoint([*shipped, *runs], args)
        key = (str(checkpoint), sources.version(checkpoint), args.device)
        loaded = load_model(*key)
        nfe = ask_nfe(loaded.challenge.nfe) if NFE in asks else loaded.challenge.nfe[0]
        seed = st.number_input("Seed", min_value=0, step=1, key=choice("seed", USUAL_SEED)) if SEED in asks else USUAL_SEED
        count = usual = max(USUAL_SAMPLES, loaded.challenge.preview_samples)
        if COUNT in asks:
            count = st.slider("Samples", 1, 4 * usual, key=choice(f"count_{loaded.challenge.name}", usual))
        classes, scale = ask_classes(loaded) if loaded.classes and CLASSES in asks else (None, 0.0)
        st.caption(str(loaded))
    return Page(loaded, key, nfe, Request(int(seed), count, classes, scale), shipped, runs, args.device)


def ask_checkpoint(found: Sequence[Source], args: argparse.Namespace) -> Path:
    """The checkpoint that is chosen, or whose path is typed in."""
    by_name = {source.name: source.checkpoint for source in found}
    names = [*by_name, OTHER_PATH]
    name = st.selectbox("Checkpoint", names, key=choice("checkpoint", names[0], names.__contains__))
    if name != OTHER_PATH:
        return by_name[name]
    typed = st.text_input("Path of a run or a checkpoint", key=choice("path", "")).strip()
    if not typed and not found:
        raise UserError(
            f"no model in {args.checkpoints} and no run in {args.results}: train one, such as by `{TRAIN_ONE}`, which takes a "
            "minute, and load this page again; or type in the path of another"
        )
    if not typed:
        raise UserError("type in the path of a run's folder, or of a checkpoint with its model_config.json beside it")
    return sources.checkpoint_at(Path(os.path.expanduser(typed)))


def ask_nfe(usual: Sequence[int]) -> int:
    """The number of network calls: one of those that the challenge samples, or any other."""
    words = [*map(str, usual), OTHER_NUMBER]
    key = choice("nfe", str(usual[len(usual) // 2]), words.__contains__)
    word = st.radio("Network calls a sample (NFE)", words, horizontal=True, key=key)
    if word != OTHER_NUMBER:
        return int(word)
    return int(st.number_input("NFE", min_value=1, max_value=MOST_CALLS, step=1, key=choice("other_nfe", 8)))


def ask_classes(loaded: Loaded) -> tuple[tuple[int, ...] | None, float]:
    """The labels that are asked for, None for all in turn, and the scale of guidance."""
    names = [NO_CLASS, *loaded.classes]
    key = choice(f"classes_{loaded.challenge.name}", [], lambda chosen: set(chosen) <= set(names))
    chosen = st.multiselect("Classes", names, key=key, placeholder="all in turn")
    labels = tuple(map(names.index, chosen)) or None
    if not loaded.takes_guidance:
        return labels, 0.0
    text = "0: the class alone, in one call a step; above it a step makes two, and from 1 on samples become more typical"
    key = choice("scale", 0.0)
    return labels, st.number_input("Guidance scale", 0.0, MOST_GUIDANCE, step=0.5, key=key, help=text)
