"""The tabs of the page. Another one is another function here, under its title: the open one is called with the page."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

from src.common.arithmetic import arithmetic
from src.common.cli import UserError
from src.page import distillation, history, pictures, samples, sources
from src.page.distillation import Wanted
from src.page.page import ASKS, CLASSES, COUNT, NFE, SEED, Known, Page, choice, load_model
from src.page.samples import MANY, Asked
from src.score_distillation.losses import LOSSES
from src.score_distillation.optimize import OptimizeOptions
from src.score_distillation.outputs import file_stem

Show = Callable[[Page], None]


@dataclass(frozen=True)
class Tab:
    """What shows a tab, and what it asks of the sidebar, of page.ASKS: nothing else is offered there while it is open."""

    show: Show
    asks: Collection[str]


TABS: dict[str, Tab] = {}
FEW = 8  # samples in a row of a tab that shows rows
POINTS = 200  # on the plane
ABOUT_SCALE = "1: the class alone; above it, away from no class; 0: no class. Sampling takes 0 for the class alone."
ONE_ON_THE_PLANE = "python train.py --challenge toy2d --data_root moons --method meanflow"
ONE_WITH_CLASSES = "python train.py --challenge mnist --preset laptop --class_conditional"


def tab(title: str, asks: Collection[str] = ASKS) -> Callable[[Show], Show]:
    """Make a function a tab of this title, after those above it. asks: what it has a use for of the sidebar, of ASKS."""

    def add(show: Show) -> Show:
        TABS[title] = Tab(show, asks)
        return show

    return add


@tab("Samples")
def show_samples(page: Page) -> None:
    found = page.compute(samples.draw, page.nfe, page.asked)
    array = page.to_array(found.samples)
    st.markdown(f"**{took(found)}**, on {page.loaded.model.device}")
    if known := history.known_scores(page.loaded, page.nfe, page.asked):
        shown = [f"{title} **{score}** ({counts})" for title, (score, counts) in known.items()]
        st.markdown(f"Measured at NFE {page.nfe}: {', '.join(shown)}")
    if page.loaded.makes_images:
        st.html(pictures.tiles(array, samples.class_names(page.loaded, page.asked)))
    else:
        page.show([array], [f"NFE {page.nfe}"])
    page.offer(f"nfe{page.nfe}", pictures.grid(page.loaded.challenge, array, f"NFE {page.nfe}"))
    if st.toggle("The sampler as arithmetic", key=choice("arithmetic", False)):
        first, *lines = arithmetic_of(str(page.loaded.checkpoint), sources.version(page.loaded.checkpoint), page.nfe)
        st.caption(f"{first}; without guidance")
        st.code("\n".join(lines), language=None, wrap_lines=True)


@st.cache_data(max_entries=20, show_spinner="recording what sample() does")
def arithmetic_of(checkpoint: str, version: tuple[int, ...], nfe: int) -> list[str]:
    try:
        return arithmetic(checkpoint, nfe)
    except UserError as error:
        return ["no plan", str(error)]


@tab("From noise to image", asks=(SEED, COUNT, CLASSES))
def show_way(page: Page) -> None:
    left, right = st.columns([1, 2])
    steps = left.number_input("Network calls on the way", min_value=1, max_value=MANY, step=1, key=choice("steps", 10))
    asked = few(page)
    found = page.compute(samples.way, int(steps), asked)
    last = len(found.states) - 1
    moment = right.slider("Step", 0, last, key=choice("moment", last // 2, range(last + 1).__contains__))
    rows = [[page.to_array(moments[i]) for moments in (found.states, found.denoised)] for i in range(last + 1)]
    titles = ["state", "denoised prediction"]
    if page.loaded.makes_images:
        for place, title, images in zip(st.columns(2), titles, rows[moment], strict=True):
            place.caption(f"{title} after step {moment} of {last}")
            place.html(pictures.tiles(images))
    else:
        page.show(rows[moment], titles)
    st.caption(
        "What the sampler has reached, at high noise levels scaled to be seen, and what data the model expects from there: "
        "where one step to the end would lead."
    )
    offer_gif(page, "way", (int(steps), asked), ["state", "denoised"], rows)


@tab("More calls", asks=(SEED, COUNT, CLASSES))
def show_more_calls(page: Page) -> None:
    nfes = sorted({*page.loaded.challenge.nfe, MANY})
    if page.asked.scale:
        nfes = [nfe for nfe in nfes if nfe % 2 == 0]
        st.caption("A guided step makes two calls: odd numbers of them are left out.")
    asked = few(page)
    found = {nfe: page.compute(samples.draw, nfe, asked) for nfe in nfes}
    rows = [page.to_array(each.samples) for each in found.values()]
    if page.loaded.makes_images:
        page.show(rows, [took(each) for each in found.values()])
    else:
        page.show(rows, [f"NFE {nfe}" for nfe in nfes])
    st.caption("The same noise in every row.")
    page.offer("calls", pictures.sheet(page.loaded.challenge, rows, [f"NFE {nfe}" for nfe in nfes]))


@tab("Between two seeds")
def show_between(page: Page) -> None:
    left, right = st.columns(2)
    other = left.number_input("The other seed", min_value=0, step=1, key=choice("other_seed", page.asked.seed + 1))
    columns = right.slider("Samples on the line", 3, 12, key=choice("columns", 8))
    asked = few(page, 4)
    found = page.compute(samples.between, page.nfe, asked, int(other), columns)
    array = page.to_array(found.samples)
    rows = [array[first : first + columns] for first in range(0, len(array), columns)]
    if page.loaded.makes_images:
        names = samples.class_names(page.loaded, asked) or [""] * len(rows)
        page.show(rows, [f"sample {number} {name}" for number, name in enumerate(names, start=1)])
        page.offer(f"to{other}", pictures.sheet(page.loaded.challenge, rows, [""] * len(rows)))
    else:
        challenge, last = page.loaded.challenge, columns - 1
        shown = [pictures.grid(challenge, array[i::columns], f"{100 * i / last:.0f} %") for i in range(columns)]
        st.html(pictures.wide_tiles(shown))
        page.offer(f"to{other}", pictures.side_by_side(shown))
    st.caption(
        f"From seed {page.asked.seed} to seed {other} at NFE {page.nfe}: the noise goes along a circle, in equal angles."
    )


@tab("The run", asks=())
def show_run(page: Page) -> None:
    run, metrics = page.loaded.run, page.loaded.challenge.metrics
    if run.exists:
        st.markdown(history.progress(run))
    else:
        st.info(f"{page.loaded.checkpoint} lies in no run's folder: its training has left no log. A run of results/ has one.")
    if last := history.last_scores(run, metrics):
        st.markdown(f"{metrics[page.loaded.challenge.metric]}, as it was measured last")
        with st.container(horizontal=True):
            for what, score in last.items():
                st.metric(what, history.number(score), width="content")
    for title, points in history.curves(run).items():
        st.markdown(title)
        color = history.CURVE if len({point[history.CURVE] for point in points}) > 1 else None
        st.line_chart(points, x=history.SEEN, y=history.VALUE, color=color, y_label="", height=260)
    if found := run.previews():
        step = st.select_slider("Preview after step", list(found), key=choice("preview", max(found), found.__contains__))
        st.image(str(found[step]), caption="the same noise in a column" if page.loaded.makes_images else None)
    if table := history.scores(run, metrics):
        st.table(table)
    else:
        st.caption("Nothing was measured of its samples: sampling.py makes some, measure_fid.py measures them.")


@tab("Nearest training image")
def show_nearest(page: Page) -> None:
    loaded = page.loaded
    if not loaded.makes_images:
        st.info(f"Challenge {loaded.challenge.name} has points, not images: they are shown over the data on the plane.")
        return
    found = page.compute(samples.draw, page.nfe, page.asked)
    array, numbers = page.to_array(found.samples), range(1, page.asked.count + 1)
    key, labels = choice("chosen", 1, numbers.__contains__), pictures.labels(array)
    st.html(pictures.style_of_labels(array, key))
    number = st.pills("Choose a sample", numbers, key=key, format_func=lambda number: labels[number - 1]) or 1
    if not st.toggle(f"compare with the training images, {loaded.data_root}", key=choice("compare", False)):
        st.caption("They are read as train.py reads them: where they are absent, they are downloaded or drawn.")
        return
    near, i = page.nearest_training(array), number - 1
    st.html(pictures.tiles([array[i], near.images[i]], [f"sample {number}", f"training image {near.rows[i]}"], times=2))
    st.markdown(
        f"They differ by **{near.distances[i]:.1f}** of 255, the root mean square over the pixels. Of all samples here number "
        f"{near.distances.argmin() + 1} is the nearest to its own: {near.distances.min():.1f}."
    )


@tab("On the plane", asks=(NFE, SEED))
def show_plane(page: Page) -> None:
    runs = {run.name: run for run in page.runs if sources.on_the_plane(run)}
    if not runs:
        st.info(f"There is no run on the plane yet. This makes one in a minute: `{ONE_ON_THE_PLANE}`; --method names another.")
        return
    key = choice("plane_runs", list(runs)[:6], lambda chosen: set(chosen) <= set(runs))
    chosen = st.multiselect("Runs", list(runs), key=key)
    shown = []
    for name in chosen:
        known = (str(runs[name].checkpoint), sources.version(runs[name].checkpoint), page.device)
        other = Page(load_model(*known), known, page.nfe, Asked(page.asked.seed, POINTS), page.shipped, page.runs, page.device)
        paths = other.compute(samples.paths, other.nfe, other.asked)
        data = other.loaded.challenge.load("val", other.loaded.data_root)[0]
        title = f"{runs[name].method}, {other.loaded.data_root}, NFE {page.nfe}"
        for name, (score, _) in list(history.known_scores(other.loaded, other.nfe, other.asked).items())[:1]:
            title += f"\n{name} {score}"
        shown.append(pictures.plane(paths.numpy(), data, title))
    if shown:
        st.html(pictures.wide_tiles(shown))
        page.offer(f"plane_nfe{page.nfe}", pictures.side_by_side(shown))
    st.caption(
        f"{POINTS} points on their way from noise, grey, to samples, red, over the data. The sidebar says how many calls."
    )


@tab("Score distillation", asks=(SEED,))
def show_distillation(page: Page) -> None:
    if refused := page.refusal_to_distil():
        there = next(filter(sources.can_be_distilled, [*page.shipped, *page.runs]), None)
        remedy = f"{there.name} can: choose it in the sidebar." if there else f"`{ONE_WITH_CLASSES}` makes one that can."
        st.info(f"This model cannot be told what to show: {refused}. {remedy}")
        return
    st.text(f"Distils {distillation.describe(page.loaded)}")
    wanted = ask_distillation(page)
    found = page.distil(wanted, st.button("Distil", type="primary", key="distil", icon=":material/play_arrow:"))
    if found is None:
        st.caption("The model is frozen: from noise on, every pixel is moved to where the model is content with the image.")
        return
    rows = [[distillation.to_array(images)] for images in found.images]
    step = st.select_slider("After step", found.steps, key=choice("distilled_step", found.steps[-1], found.steps.__contains__))
    st.html(pictures.tiles(rows[found.steps.index(step)][0], times=2))
    what = file_stem(f"{wanted.loss_type}_{wanted.name}")
    with st.container(horizontal=True):
        page.offer(what, pictures.sheet(page.loaded.challenge, rows[-1], [""]))
        offer_gif(page, what, wanted, [""], rows)
    st.caption("The loss, half the mean square of the gradient:")
    points = [{"step": step, "loss": loss} for step, loss in zip(found.steps, found.losses, strict=True)]
    st.line_chart(points, x="step", y="loss", height=220)
    st.caption("The same images, kept in a folder, are made by")
    st.code(distillation.command(page.loaded, wanted), language="bash", wrap_lines=True)


def ask_distillation(page: Page) -> Wanted:
    """What is to be distilled, and how."""
    left, right = st.columns(2)
    names = page.loaded.classes
    key = choice(f"distilled_class_{page.loaded.challenge.name}", names[0], names.__contains__)
    name = left.selectbox("Class", names, key=key)
    key = choice("loss_type", next(iter(LOSSES)), LOSSES.__contains__)
    loss_type = right.radio("Loss", list(LOSSES), horizontal=True, key=key, format_func=str.upper)
    own, places = distillation.options_of(loss_type), st.columns(4)
    steps = places[0].number_input("Steps", 1, step=50, key=choice("distilled_steps", distillation.STEPS))
    lr = places[1].number_input("Learning rate", 1e-4, step=1e-3, format="%.4f", key=choice("distilled_lr", distillation.LR))
    particles = places[2].number_input("Particles", 1, FEW, key=choice("particles", distillation.PARTICLES))
    if hasattr(own, "guidance_scale"):
        key = choice(f"scale_{loss_type}", own.guidance_scale)
        own = replace(own, guidance_scale=places[3].number_input("Guidance scale", 0.0, step=0.5, key=key, help=ABOUT_SCALE))
    every = max(1, steps // distillation.MOMENTS)
    return Wanted(name, loss_type, OptimizeOptions(int(steps), lr, every, int(particles), page.asked.seed), own)


def offer_gif(page: Page, what: str, asked: Any, titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> None:
    """A button that downloads the titled rows of each moment as a GIF. asked: what they were computed of."""
    data, name = gif(page.known, asked, titles, page, rows), page.file_name(what, "gif")
    st.download_button("GIF", data, name, "image/gif", key=f"save_{what}_gif", icon=":material/download:")


@st.cache_data(max_entries=32, show_spinner="drawing the GIF ...")
def gif(known: Known, asked: Any, titles: Sequence[str], _page: Page, _rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    return pictures.gif([pictures.sheet(_page.loaded.challenge, row, titles) for row in _rows])


def few(page: Page, most: int = FEW) -> Asked:
    """What is asked for, but of so many images at most."""
    count = min(page.asked.count, most) if page.loaded.makes_images else page.asked.count
    return replace(page.asked, count=count)


def took(found: samples.Sampled) -> str:
    """What a sample took, in words."""
    duration = f"{found.seconds:.1f} s" if found.seconds >= 1 else f"{1000 * found.seconds:.1f} ms"
    return f"{found.calls:g} call{'s' if found.calls != 1 else ''} of the network and {duration} a sample"
