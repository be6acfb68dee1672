"""The tabs of the page. Another one is another function here, under its title: the open one is called with the page."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from src.common.arithmetic import arithmetic
from src.common.cli import UserError
from src.common.distilled import describe_prior, file_stem
from src.page import distillation, history, pictures, samples, sources
from src.page.page import ASKS, CLASSES, COUNT, NFE, SEED, Page, choice, kept, load_model
from src.page.samples import MANY, Request

Show = Callable[[Page], None]


@dataclass(frozen=True)
class Tab:
    """What shows a tab, and what it asks of the sidebar, of page.ASKS: nothing else is offered there while it is open."""

    show: Show
    asks: Collection[str]


TABS: dict[str, Tab] = {}
FEW = 8  # samples in a row of a tab that shows rows
POINTS = 200  # on the plane
SCALE_HELP = "1: the class alone; above it, away from no class; 0: no class. Sampling takes 0 for the class alone."
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
    loaded, found = page.loaded, page.compute(samples.draw, page.nfe, page.request)
    array = loaded.challenge.to_array(found.samples)
    st.markdown(f"**{took(found)}**, on {loaded.model.device}")
    if scores := history.scores_of_samples(loaded, page.nfe, page.request):
        shown = [f"{title} **{score}** ({counts})" for title, (score, counts) in scores.items()]
        st.markdown(f"Measured at NFE {page.nfe}: {', '.join(shown)}")
    if loaded.makes_images:
        st.html(pictures.tiles(array, samples.class_names(loaded, page.request)))
    else:
        page.show([array], [f"NFE {page.nfe}"])
    page.offer(f"nfe{page.nfe}", pictures.grid(loaded.challenge, array, f"NFE {page.nfe}"))
    if st.toggle("The sampler as arithmetic", key=choice("arithmetic", False)):
        key = ("arithmetic", *page.key[:2], page.nfe)
        first, *lines = kept(key, "recording what sample() does", lambda _: arithmetic_of(loaded.checkpoint, page.nfe))
        st.caption(f"{first}; without guidance")
        st.code("\n".join(lines), language=None, wrap_lines=True)


def arithmetic_of(*of: Any) -> list[str]:
    """The sampler as lines, or why no plan holds it."""
    try:
        return arithmetic(*of)
    except UserError as error:
        return ["no plan", str(error)]


@tab("From noise to image", asks=(SEED, COUNT, CLASSES))
def show_way(page: Page) -> None:
    left, right = st.columns([1, 2])
    steps = left.number_input("Network calls on the way", min_value=1, max_value=MANY, step=1, key=choice("steps", 10))
    request, titles = few(page), ["state", "denoised prediction"]
    found = page.compute(samples.way, int(steps), request)
    last = len(found[0]) - 1
    moment = right.slider("Step", 0, last, key=choice("moment", last // 2, range(last + 1).__contains__))
    rows = [[page.loaded.challenge.to_array(kind) for kind in kinds] for kinds in zip(*found, strict=True)]
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
    page.offer_gif("way", (int(steps), request), ["state", "denoised"], rows)


@tab("More calls", asks=(SEED, COUNT, CLASSES))
def show_more_calls(page: Page) -> None:
    nfes = sorted({*page.loaded.challenge.nfe, MANY})
    if page.request.scale:
        nfes = [nfe for nfe in nfes if nfe % 2 == 0]
        st.caption("A guided step makes two calls: odd numbers of them are left out.")
    found, titles = [page.compute(samples.draw, nfe, few(page)) for nfe in nfes], [f"NFE {nfe}" for nfe in nfes]
    rows = [page.loaded.challenge.to_array(each.samples) for each in found]
    page.show(rows, list(map(took, found)) if page.loaded.makes_images else titles)
    st.caption("The same noise in every row.")
    page.offer("calls", pictures.sheet(page.loaded.challenge, rows, titles))


@tab("Between two seeds")
def show_between(page: Page) -> None:
    left, right = st.columns(2)
    seed = page.request.seed
    other = left.number_input("The other seed", min_value=0, step=1, key=choice("other_seed", seed + 1))
    columns = right.slider("Samples on the line", 3, 12, key=choice("columns", 8))
    request, challenge = few(page, 4), page.loaded.challenge
    array = challenge.to_array(page.compute(samples.between, page.nfe, request, int(other), columns).samples)
    if page.loaded.makes_images:
        rows = [array[first : first + columns] for first in range(0, len(array), columns)]
        names = samples.class_names(page.loaded, request) or [""] * len(rows)
        page.show(rows, [f"sample {number} {name}" for number, name in enumerate(names, start=1)])
        page.offer(f"to{other}", pictures.sheet(challenge, rows, [""] * len(rows)))
    else:
        shown = [pictures.grid(challenge, array[i::columns], f"{100 * i / (columns - 1):.0f} %") for i in range(columns)]
        st.html(pictures.wide_tiles(shown))
        page.offer(f"to{other}", pictures.side_by_side(shown))
    st.caption(f"From seed {seed} to seed {other} at NFE {page.nfe}: the noise goes along a circle, in equal angles.")


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
    array = loaded.challenge.to_array(page.compute(samples.draw, page.nfe, page.request).samples)
    numbers = range(1, page.request.count + 1)
    key = choice("chosen", 1, numbers.__contains__)
    st.html(pictures.style_of_buttons(array, key))
    button = lambda number: f"![sample {number}]({pictures.as_address(array[number - 1])})"  # noqa: E731
    number = st.pills("Choose a sample", numbers, key=key, format_func=button) or 1
    if not st.toggle(f"compare with the training images, {loaded.data_root}", key=choice("compare", False)):
        st.caption("They are read as train.py reads them: where they are absent, they are downloaded or drawn.")
        return
    rows, images, distances = page.nearest_training(array)
    i, nearest = number - 1, distances.argmin()
    st.html(pictures.tiles([array[i], images[i]], [f"sample {number}", f"training image {rows[i]}"], times=2))
    st.markdown(
        f"They differ by **{distances[i]:.1f}** of 255, the root mean square over the pixels. Of all samples here number "
        f"{nearest + 1} is the nearest to its own: {distances[nearest]:.1f}."
    )


@tab("On the plane", asks=(NFE, SEED))
def show_plane(page: Page) -> None:
    runs = {run.name: run for run in page.runs if run.is_on_the_plane}
    if not runs:
        st.info(f"There is no run on the plane yet. This makes one in a minute: `{ONE_ON_THE_PLANE}`; --method names another.")
        return
    key = choice("plane_runs", list(runs)[:6], lambda chosen: set(chosen) <= set(runs))
    shown = []
    for run in map(runs.get, st.multiselect("Runs", list(runs), key=key)):
        key = (str(run.checkpoint), sources.version(run.checkpoint), page.device)
        other = replace(page, loaded=load_model(*key), key=key, request=Request(page.request.seed, POINTS))
        paths = other.compute(samples.paths, other.nfe, other.request)
        data = other.loaded.challenge.load("val", other.loaded.data_root)[0]
        title = f"{run.method}, {other.loaded.data_root}, NFE {page.nfe}"
        for name, (score, _) in list(history.scores_of_samples(other.loaded, other.nfe, other.request).items())[:1]:
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
    loaded = page.loaded
    if loaded.refused:
        there = next((source for source in [*page.shipped, *page.runs] if source.can_be_distilled), None)
        remedy = f"{there.name} can: choose it in the sidebar." if there else f"`{ONE_WITH_CLASSES}` makes one that can."
        st.info(f"This model cannot be told what to show: {loaded.refused}. {remedy}")
        return
    st.text(f"Distils {describe_prior(loaded.checkpoint, loaded.model, loaded.dtype)}")
    flags = ask_distillation(page)
    found = page.distil(flags, st.button("Distil", type="primary", key="distil", icon=":material/play_arrow:"))
    if found is None:
        st.caption("The model is frozen: from noise on, every pixel is moved to where the model is content with the image.")
        return
    key = choice("distilled_step", found.steps[-1], found.steps.__contains__)
    images = found.images[found.steps.index(st.select_slider("After step", found.steps, key=key))]
    st.html(pictures.tiles(images, times=2))
    what = file_stem(f"{flags['loss_type']}_{flags['class']}")
    with st.container(horizontal=True):
        page.offer(what, pictures.sheet(loaded.challenge, found.images[-1:], [""]))
        page.offer_gif(what, flags, [""], [[images] for images in found.images])
    st.caption("The loss, half the mean square of the gradient:")
    st.line_chart({"step": found.steps, "loss": found.losses}, x="step", y="loss", height=220)
    st.caption("The same images, kept in a folder, are made by")
    st.code(distillation.command(loaded, flags), language="bash", wrap_lines=True)


def ask_distillation(page: Page) -> Mapping[str, Any]:
    """The flags of the command: what is to be distilled, and how."""
    left, right = st.columns(2)
    names, losses, places = page.loaded.classes, list(distillation.OF_CHECKPOINTS), st.columns(4)
    key = choice(f"distilled_class_{page.loaded.challenge.name}", names[0], names.__contains__)
    name = left.selectbox("Class", names, key=key)
    key = choice("loss_type", losses[0], losses.__contains__)
    loss_type = right.radio("Loss", losses, horizontal=True, key=key, format_func=str.upper)
    steps = int(places[0].number_input("Steps", 1, step=50, key=choice("distilled_steps", distillation.STEPS)))
    lr = places[1].number_input("Learning rate", 1e-4, step=1e-3, format="%.4f", key=choice("distilled_lr", distillation.LR))
    particles = places[2].number_input("Particles", 1, FEW, key=choice("particles", distillation.PARTICLES))
    key = choice(f"scale_{loss_type}", distillation.GUIDANCE_SCALE)
    scale = places[3].number_input("Guidance scale", 0.0, step=0.5, key=key, help=SCALE_HELP)
    settings = {"steps": steps, "lr": lr, "log_step": max(1, steps // distillation.MOMENTS), "particles": particles}
    settings |= {"seed": page.request.seed, "guidance_scale": scale}
    return {"class": name, "loss_type": loss_type, **settings}


def few(page: Page, most: int = FEW) -> Request:
    """What is asked for, but of so many images at most."""
    count = min(page.request.count, most) if page.loaded.makes_images else page.request.count
    return replace(page.request, count=count)


def took(found: samples.Sampled) -> str:
    """What a sample took, in words."""
    duration = f"{found.seconds:.1f} s" if found.seconds >= 1 else f"{1000 * found.seconds:.1f} ms"
    return f"{found.calls:g} call{'s' if found.calls != 1 else ''} of the network and {duration} a sample"
