"""The tabs of the page. Another one is another function here, under its title: the open one is called with the page."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import streamlit as st

from src.demo import history, pictures, samples, sources
from src.demo.page import Known, Page, choice, load_model
from src.demo.samples import MANY, Asked
from src.runs import last_scores

Tab = Callable[[Page], None]
TABS: dict[str, Tab] = {}
FEW = 8  # samples in a row of a tab that shows rows
POINTS = 200  # on the plane
ONE_ON_THE_PLANE = "python train.py --challenge toy2d --data_root moons --method meanflow"


def tab(title: str) -> Callable[[Tab], Tab]:
    """Make a function a tab of this title: after those above it."""

    def add(show: Tab) -> Tab:
        TABS[title] = show
        return show

    return add


@tab("Samples")
def show_samples(page: Page) -> None:
    found = page.compute(samples.draw, page.nfe, page.asked)
    array = page.to_array(found.samples)
    st.markdown(f"**{took(found)}**, on {page.loaded.model.device}")
    if page.loaded.makes_images:
        st.html(pictures.tiles(array, samples.class_names(page.loaded, page.asked)))
    else:
        page.show([array], [f"NFE {page.nfe}"])
    page.offer(f"nfe{page.nfe}", pictures.grid(page.loaded.challenge, array, f"NFE {page.nfe}"))


@tab("From noise to image")
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
    data, name = way_gif(page.known, int(steps), asked, page, rows), f"{page.loaded.challenge.name}_seed{page.asked.seed}.gif"
    st.download_button("GIF", data, name, "image/gif", key="save_way", icon=":material/download:")


@st.cache_data(max_entries=16, show_spinner="drawing the GIF ...")
def way_gif(known: Known, steps: int, asked: Asked, _page: Page, _rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """The rows of each step as a GIF file."""
    return pictures.gif([pictures.sheet(_page.loaded.challenge, row, ["state", "denoised"]) for row in _rows])


@tab("More calls")
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
        for first in range(0, columns, 4):
            shown = range(first, min(first + 4, columns))
            page.show([array[i::columns] for i in shown], [f"{100 * i / (columns - 1):.0f} %" for i in shown])
    st.caption(
        f"From seed {page.asked.seed} to seed {other} at NFE {page.nfe}: the noise goes along a circle, in equal angles."
    )


@tab("The run")
def show_run(page: Page) -> None:
    run, challenge = page.loaded.run, page.loaded.challenge
    if not run.exists:
        st.info(f"{page.loaded.checkpoint} lies in no run's folder: its training has left no log. A run of results/ has one.")
        return
    steps = max((row["step"] for row in run.log()), default=0)
    st.markdown(f"**{steps:,} of {run.training['num_iterations']:,} steps**, `{run.training['command']}`")
    if last := last_scores(run):
        for place, (nfe, score) in zip(st.columns(len(last)), last.items(), strict=True):
            place.metric(f"NFE {nfe}", f"{score:.2f}")
    for title, points in history.curves(run).items():
        st.markdown(title)
        color = history.CURVE if len({point[history.CURVE] for point in points}) > 1 else None
        st.line_chart(points, x=history.SEEN, y=history.VALUE, color=color, y_label="", height=260)
    if found := run.previews():
        step = st.select_slider("Preview after step", list(found), key=choice("preview", max(found), found.__contains__))
        st.image(str(found[step]), caption="the same noise in a column" if page.loaded.makes_images else None)
    if table := history.scores(run, challenge.metrics):
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
    near, i = page.nearest_training(found.samples), number - 1
    st.html(pictures.tiles([array[i], near.images[i]], [f"sample {number}", f"training image {near.rows[i]}"], times=2))
    st.markdown(
        f"They differ by **{near.distances[i]:.1f}** of 255, the root mean square over the pixels. Of all samples here number "
        f"{near.distances.argmin() + 1} is the nearest to its own: {near.distances.min():.1f}."
    )


@tab("On the plane")
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
        other = Page(load_model(*known), known, page.nfe, Asked(page.asked.seed, POINTS), page.runs, page.device)
        paths = other.compute(samples.paths, other.nfe, other.asked)
        data = other.loaded.challenge.load("val", other.loaded.data_root)[0]
        shown.append(pictures.plane(paths.numpy(), data, f"{runs[name].method}, {other.loaded.data_root}, NFE {page.nfe}"))
    if shown:
        st.html(pictures.wide_tiles(shown))
        page.offer(f"plane_nfe{page.nfe}", pictures.side_by_side(shown))
    st.caption(
        f"{POINTS} points on their way from noise, grey, to samples, red, over the data. The sidebar says how many calls."
    )


def few(page: Page, most: int = FEW) -> Asked:
    """What is asked for, but of so many images at most."""
    count = min(page.asked.count, most) if page.loaded.makes_images else page.asked.count
    return replace(page.asked, count=count)


def took(found: samples.Sampled) -> str:
    """What a sample took, in words."""
    duration = f"{found.seconds:.1f} s" if found.seconds >= 1 else f"{1000 * found.seconds:.1f} ms"
    return f"{found.calls:g} call{'s' if found.calls != 1 else ''} of the network and {duration} a sample"
