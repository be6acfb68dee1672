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
from PIL import Image

from src.page import distillation, pictures, samples, sources
from src.page.samples import Request
from src.page.sources import Loaded, Source

Key = tuple[str, tuple[int, ...], str]  # what a model is known by: its checkpoint, sources.version of it, the device
ASKS = NFE, SEED, COUNT, CLASSES = "nfe", "seed", "count", "classes"  # of the sidebar; guidance comes with classes
KEPT = "kept_"  # how the keys of choices begin


@dataclass(frozen=True, eq=False)
class Page:
    """What the sidebar asks for, and so what a tab is given."""

    loaded: Loaded
    key: Key
    nfe: int
    request: Request
    shipped: Sequence[Source]  # all models that come with the kit, of any challenge
    runs: Sequence[Source]
    device: str  # that is asked for

    def compute(self, work: Callable[..., Any], nfe: int, request: Request, *args: Any) -> Any:
        """What a function of samples.py makes of the model, with a bar of its progress; kept."""
        text = f"{request.count} samples at NFE {nfe} ..."
        key = (self.key, work.__name__, nfe, request, args)
        return kept(key, text, lambda tell: work(self.loaded, nfe, request, *args, tell=tell))

    def distil(self, flags: distillation.Flags, pressed: bool) -> distillation.Distilled | None:
        """What score distillation makes of the model, shown while it is made; kept.

        pressed: whether it is to be made now; else it is None where it was not yet.
        """
        key, made = (self.key, repr(flags)), st.session_state.setdefault("distilled", set())
        if not pressed and key not in made:
            return None
        steps = flags["steps"]

        def work(tell: Callable[..., None]) -> distillation.Distilled:
            place = st.empty()

            def show(step: int, loss: float, images: np.ndarray) -> None:
                tell(step / steps, f"step {step} of {steps}, loss {loss:.4f}")
                place.html(pictures.tiles(images, times=2))

            try:
                return distillation.distil(self.loaded, flags, show)
            finally:
                place.empty()

        found = kept(key, f"step 0 of {steps}", work)
        made.add(key)
        return found

    def nearest_training(self, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """samples.nearest_training of the samples that compute gave, as to_array gives them."""
        images = training_images(self.loaded.challenge.name, self.loaded.data_root, self.loaded)
        text = "looking for the nearest training images ..."
        return kept((self.key, "nearest", self.nfe, self.request), text, lambda _: samples.nearest_training(shown, images))

    def show(self, rows: Sequence[np.ndarray], titles: Sequence[str]) -> None:
        """Show titled rows of samples, as the challenge's to_array gives them."""
        if self.loaded.makes_images:
            st.html(pictures.rows_of_tiles(rows, titles))
        else:
            st.image(pictures.sheet(self.loaded.challenge, rows, titles))

    def offer(self, what: str, picture: Image.Image) -> None:
        """A button that downloads a picture."""
        self._offer(what, pictures.png(picture), "png")

    def offer_gif(self, what: str, key: Any, titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> None:
        """A button that downloads the titled rows of each moment as a GIF. key: what they were computed of."""

        def work(_: Callable[..., None]) -> bytes:
            return pictures.gif([pictures.sheet(self.loaded.challenge, row, titles) for row in rows])

        self._offer(what, kept((self.key, "gif", repr(key), titles), "drawing the GIF ...", work), "gif")

    def _offer(self, what: str, data: bytes, ending: str) -> None:
        name, key = f"{self.loaded.challenge.name}_{what}_seed{self.request.seed}.{ending}", f"save_{what}"
        key += "_gif" if ending == "gif" else ""
        st.download_button(ending.upper(), data, name, f"image/{ending}", key=key, icon=":material/download:")


@st.cache_resource(max_entries=8, show_spinner="loading the model ...")
def load_model(checkpoint: str, version: tuple[int, ...], device: str) -> Loaded:
    """The model of a checkpoint, kept until it is written anew."""
    return sources.load(Path(checkpoint), device)


@st.cache_resource(max_entries=1, show_spinner="reading the training images ...")
def training_images(challenge: str, root: str, _loaded: Loaded) -> np.ndarray:
    """The images of this challenge and root, that a model learned from, uint8 (M, C, H, W)."""
    return _loaded.challenge.load("train", root)[0]


@st.cache_data(max_entries=128, show_spinner=False)
def kept(key: tuple[Any, ...], text: str, _work: Callable[[Callable[..., None]], Any]) -> Any:
    """What work makes, with a bar of its progress; kept by the key, which has all that it depends on."""
    with progress(text) as tell:
        return _work(tell)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[..., None]]:
    """A bar that is there during the block; what it gives takes the share that is done, and another text."""
    bar, shown = st.progress(0.0, text), 0.0

    def tell(share: float, words: str = text) -> None:
        nonlocal shown
        if share >= shown + 0.01:
            shown = share
            bar.progress(share, words)

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
