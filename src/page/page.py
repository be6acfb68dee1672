"""What the sidebar and the tabs share: the page as it is asked for, what is kept between its runs, and how samples are shown.

Streamlit runs the page anew at every choice. Models and what was computed of them are kept, known by the checkpoint's path and
the time when it was written; so are choices, also those of a tab that is not shown.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from PIL import Image

from src.page import distillation, pictures, samples, sources
from src.page.distillation import Distilled, Wanted
from src.page.samples import Asked, Nearest, Tell
from src.page.sources import Loaded, Source

Known = tuple[str, tuple[int, ...], str]  # what a model is known by: its checkpoint, sources.version of it, the device
ASKS = NFE, SEED, COUNT, CLASSES = "nfe", "seed", "count", "classes"  # of the sidebar; guidance comes with classes
KEPT = "kept_"  # how the keys of choices begin


@dataclass(frozen=True, eq=False)
class Page:
    """What the sidebar asks for, and so what a tab is given.

    Args:
        shipped, runs: all models that there are, of any challenge: those that come with the kit, and those of runs.
        device: that is asked for.
    """

    loaded: Loaded
    known: Known
    nfe: int
    asked: Asked
    shipped: Sequence[Source]
    runs: Sequence[Source]
    device: str

    def compute(self, work: Callable[..., Any], nfe: int, asked: Asked, *more: Any) -> Any:
        """What a function of samples.py makes of the model, with a bar of its progress; kept."""
        return _computed(self.known, work.__name__, nfe, asked, more, _work=work, _loaded=self.loaded)

    def distil(self, wanted: Wanted, pressed: bool) -> Distilled | None:
        """What score distillation makes of the model, shown while it is made; kept.

        pressed: whether it is to be made now; else it is None where it was not yet.
        """
        key, made = (self.known, repr(wanted)), st.session_state.setdefault("distilled", set())
        if not pressed and key not in made:
            return None
        found = _distilled(self.known, wanted, _page=self)
        made.add(key)
        return found

    def refusal_to_distil(self) -> str:
        """Why score distillation cannot be asked of the model, in one line; empty where it can."""
        return _refusal(self.known, _loaded=self.loaded)

    def nearest_training(self, shown: np.ndarray) -> Nearest:
        """The nearest training image of each of the samples that compute gave, as to_array gives them."""
        images = training_images(self.loaded.challenge.name, self.loaded.data_root, self.loaded)
        return _nearest(self.known, self.nfe, self.asked, _shown=shown, _images=images)

    def to_array(self, values: torch.Tensor) -> np.ndarray:
        """Samples as they are shown: uint8 (N, 3, H, W), or points (N, 2)."""
        return self.loaded.challenge.to_array(values)

    def show(self, rows: Sequence[np.ndarray], titles: Sequence[str]) -> None:
        """Show titled rows of samples, as to_array gives them."""
        if self.loaded.makes_images:
            st.html(pictures.rows_of_tiles(rows, titles))
        else:
            st.image(pictures.sheet(self.loaded.challenge, rows, titles))

    def file_name(self, what: str, ending: str) -> str:
        """What a download is called."""
        return f"{self.loaded.challenge.name}_{what}_seed{self.asked.seed}.{ending}"

    def offer(self, what: str, picture: Image.Image) -> None:
        """A button that downloads a picture."""
        name = self.file_name(what, "png")
        st.download_button("PNG", pictures.png(picture), name, "image/png", key=f"save_{what}", icon=":material/download:")


@st.cache_resource(max_entries=8, show_spinner="loading the model ...")
def load_model(checkpoint: str, version: tuple[int, ...], device: str) -> Loaded:
    """The model of a checkpoint, kept until it is written anew."""
    return sources.load(Path(checkpoint), device)


@st.cache_resource(max_entries=1, show_spinner="reading the training images ...")
def training_images(challenge: str, root: str, _loaded: Loaded) -> np.ndarray:
    """The images of this challenge and root, that a model learned from."""
    return samples.training_images(_loaded)


@st.cache_data(max_entries=64, show_spinner=False)
def _computed(known: Known, name: str, nfe: int, asked: Asked, more: tuple, _work: Callable[..., Any], _loaded: Loaded) -> Any:
    with progress(f"{asked.count} samples at NFE {nfe} ...") as tell:
        return _work(_loaded, nfe, asked, *more, tell=tell)


@st.cache_data(max_entries=16, show_spinner=False)
def _distilled(known: Known, wanted: Wanted, _page: Page) -> Distilled:
    steps = wanted.options.steps
    bar, place = st.progress(0.0, f"step 0 of {steps}"), st.empty()

    def tell(step: int, loss: float, images: torch.Tensor) -> None:
        bar.progress(step / steps, f"step {step} of {steps}, loss {loss:.4f}")
        place.html(pictures.tiles(distillation.to_array(images), times=2))

    try:
        return distillation.distil(_page.loaded, wanted, tell)
    finally:
        bar.empty()
        place.empty()


@st.cache_data(max_entries=64, show_spinner=False)
def _refusal(known: Known, _loaded: Loaded) -> str:
    return distillation.refusal(_loaded)


@st.cache_data(max_entries=16, show_spinner="looking for the nearest training images ...")
def _nearest(known: Known, nfe: int, asked: Asked, _shown: np.ndarray, _images: np.ndarray) -> Nearest:
    return samples.nearest_training(_shown, _images)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Tell]:
    """A bar that is there during the block; what it gives takes the share that is done."""
    bar, shown = st.progress(0.0, text), 0.0

    def tell(share: float) -> None:
        nonlocal shown
        if share >= shown + 0.01:
            shown = share
            bar.progress(share, text)

    try:
        yield tell
    finally:
        bar.empty()


def keep_choices() -> None:
    """Hold on to the choices of widgets that this run of the page may not show: Streamlit forgets those otherwise."""
    for key in list(st.session_state):
        if str(key).startswith(KEPT):
            st.session_state[key] = st.session_state[key]


def choice(name: str, default: Any, fits: Callable[[Any], bool] = lambda value: True) -> str:
    """The key of a widget, its value set: what was chosen before, or the default where nothing was, or what no longer fits."""
    key = KEPT + name
    value = st.session_state.get(key, default)
    st.session_state[key] = value if fits(value) else default
    return key
