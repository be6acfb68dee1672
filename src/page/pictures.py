"""What the page shows and hands out: tiles of images, sheets as PNG, ways as GIF, points on the plane."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from src.challenges import Challenge
from src.challenges.shared.images import ImageChallenge
from src.common.images import contact_sheet

TILE = 84  # pixels that an image is wide on the page at least, by a whole enlargement
COLUMNS = 8  # images in a row of a sheet
FRAME, LAST_FRAME = 150, 1500  # milliseconds of a GIF's frames
PLANE = 5.0  # the half width of what is shown of the plane: points have a standard deviation of 2


def enlargement(size: int) -> int:
    """How many pixels of the page stand for one of an image that is so wide."""
    return -(-TILE // size)


def as_address(picture: Image.Image | np.ndarray) -> str:
    """A picture, or an image, uint8 (3, H, W), within an address, as HTML and Markdown take it."""
    picture = Image.fromarray(picture.transpose(1, 2, 0)) if isinstance(picture, np.ndarray) else picture
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def style_of_buttons(images: np.ndarray, key: str) -> str:
    """The style, as HTML, of buttons whose text is one of the images, uint8 (N, 3, H, W): those of the widget with this key."""
    height, width = (enlargement(images.shape[3]) * size for size in images.shape[2:])
    size = f"width: {width}px; height: {height}px; max-height: none"
    return (
        f"<style>.st-key-{key} button {{height: auto; padding: 3px; border-radius: 5px; border-width: 2px}} "
        f".st-key-{key} button img {{{size}; object-fit: fill; image-rendering: pixelated}}</style>"
    )


def tiles(images: Sequence[np.ndarray], captions: Sequence[str] = (), wrap: bool = True, times: int = 1) -> str:
    """Images, uint8 (3, H, W) each, as HTML, enlarged without blur; in rows as wide as the page, or without wrap in one.

    times: how much larger than usual.
    """
    factor, cells = times * enlargement(images[0].shape[2]), []
    for number, (pixels, caption) in enumerate(zip(images, captions or [""] * len(images), strict=True), start=1):
        height, width = (factor * size for size in pixels.shape[1:])
        cells.append(
            f'<figure style="margin:0;flex:none"><img class="tile" src="{as_address(pixels)}" '
            f'alt="sample {number}" width="{width}" height="{height}" '
            f'style="image-rendering:pixelated;display:block;border-radius:2px">'
            f'<figcaption style="font-size:0.75rem;opacity:0.7;text-align:center">{html.escape(caption)}</figcaption></figure>'
        )
    return f'<div style="display:flex;gap:4px;flex-wrap:{"wrap" if wrap else "nowrap"}">{"".join(cells)}</div>'


def rows_of_tiles(rows: Sequence[np.ndarray], titles: Sequence[str]) -> str:
    """Rows of images below each other as HTML, each with its title; on a narrow screen they are moved sideways together."""
    style = "position:sticky;left:0;width:fit-content;font-size:0.875rem;margin:10px 0 3px"
    parts = [
        f'<div style="{style}">{html.escape(title)}</div>{tiles(row, wrap=False)}'
        for row, title in zip(rows, titles, strict=True)
    ]
    return f'<div style="overflow-x:auto;padding-bottom:8px">{"".join(parts)}</div>'


def wide_tiles(drawn: Sequence[Image.Image]) -> str:
    """Pictures as HTML, 240 to 360 pixels wide, in rows as wide as the page."""
    cells = [
        f'<img class="tile" src="{as_address(picture)}" alt="picture {number}" style="width:100%;max-width:360px">'
        for number, picture in enumerate(drawn, start=1)
    ]
    columns = "repeat(auto-fill,minmax(240px,1fr))"
    return f'<div style="display:grid;gap:8px;grid-template-columns:{columns}">{"".join(cells)}</div>'


def sheet(challenge: Challenge, rows: Sequence[np.ndarray], titles: Sequence[str]) -> Image.Image:
    """A picture of titled rows of samples, as the challenge's to_array gives them; small images are enlarged."""
    if isinstance(challenge, ImageChallenge):
        return contact_sheet(rows, titles, enlargement(rows[0].shape[3]))
    return challenge.picture(rows, titles)


def grid(challenge: Challenge, samples: np.ndarray, title: str) -> Image.Image:
    """A picture of samples, as the challenge's to_array gives them: images in rows of eight, points in one square."""
    if not isinstance(challenge, ImageChallenge):
        return sheet(challenge, [samples], [title])
    rows = [samples[first : first + COLUMNS] for first in range(0, len(samples), COLUMNS)]
    return sheet(challenge, rows, [""] * len(rows))


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def gif(frames: Sequence[Image.Image]) -> bytes:
    """Pictures as a GIF file without end, which stays longer on the last one."""
    file, times = io.BytesIO(), [FRAME] * (len(frames) - 1) + [LAST_FRAME]
    frames[0].save(file, format="gif", save_all=True, append_images=list(frames[1:]), duration=times, loop=0)
    return file.getvalue()


def plane(paths: np.ndarray, data: np.ndarray, title: str) -> Image.Image:
    """Lines of points (moments, N, 2) from noise, grey, to samples, red, over points of the data (M, 2)."""
    from src.common.figures import Figure, as_picture

    figure = Figure(figsize=(4, 4.3), dpi=160, layout="constrained")
    axis = figure.subplots()
    axis.scatter(*data.T, s=1.5, color="0.85", linewidths=0)
    axis.plot(paths[:, :, 0], paths[:, :, 1], color="tab:blue", alpha=0.35, linewidth=0.6)
    axis.scatter(*paths[0].T, s=5, color="0.45", linewidths=0, zorder=3)
    axis.scatter(*paths[-1].T, s=8, color="tab:red", linewidths=0, zorder=3)
    axis.set(xlim=(-PLANE, PLANE), ylim=(-PLANE, PLANE), aspect="equal", xticks=[], yticks=[], title=title)
    return as_picture(figure)


def side_by_side(pictures: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Pictures of one size in rows of so many."""
    width, height = pictures[0].size
    across = min(columns, len(pictures))
    whole = Image.new("RGB", (across * width, -(-len(pictures) // across) * height), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % across * width, number // across * height))
    return whole
