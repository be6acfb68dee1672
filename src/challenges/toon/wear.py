"""What surrounds a toon face: the background, the neck and clothes, glasses and hats."""

import numpy as np
from PIL import Image, ImageDraw

from src.challenges.toon.base import (
    CANVAS,
    CLOTHES,
    FRAMES,
    METALS,
    TURN,
    Face,
    Pen,
    any_colour,
    arc,
    between,
    dark,
    ellipse,
    light,
    mix,
    one_of,
    tint,
)


def background(rng: np.random.Generator) -> Image.Image:
    first, second = any_colour(rng), any_colour(rng)
    image = Image.new("RGB", (CANVAS, CANVAS), first)
    draw = ImageDraw.Draw(image)
    kind = one_of(rng, ("plain", "gradient", "gradient", "split", "stripes", "dots", "disc", "rays"))
    soft = mix(first, second, 0.45)
    if kind == "gradient":
        ramp = np.linspace(first, second, CANVAS).round().astype(np.uint8)
        return Image.fromarray(ramp[:, None]).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
    elif kind == "split":
        a, b = rng.uniform(0.25, 0.75, 2) * CANVAS
        edge = [(0, a), (CANVAS, b), (CANVAS, CANVAS), (0, CANVAS)]
        draw.polygon(edge if rng.random() < 0.5 else [(y, x) for x, y in edge], fill=second)
    elif kind == "stripes":
        step, slant = rng.uniform(24, 56), rng.uniform(-0.8, 0.8) * CANVAS
        for x in np.arange(-CANVAS, 2 * CANVAS, step):
            draw.polygon([x, 0, x + step / 2, 0, x + step / 2 + slant, CANVAS, x + slant, CANVAS], fill=soft)
    elif kind == "dots":
        step, radius = rng.uniform(28, 46), rng.uniform(6, 11)
        for row, y in enumerate(np.arange(rng.uniform(0, step), CANVAS + step, step)):
            for x in np.arange(step / 2 * (row % 2), CANVAS + step, step):
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=soft)
    elif kind == "disc":
        radius = rng.uniform(90, 120)
        draw.ellipse([128 - radius, 132 - radius, 128 + radius, 132 + radius], fill=soft)
    elif kind == "rays":
        count, start = int(rng.integers(7, 12)), rng.uniform(0, 6)
        for a in start + np.arange(count) * 2 * np.pi / count:
            ends = 128 + 132j + 260 * np.exp(1j * (a + np.array([0, np.pi / count])))
            draw.polygon([128, 132, *ends.view(np.float64)], fill=soft)
    return image


def draw_body(f: Face, pen: Pen, neck_pen: Pen) -> None:
    rng, colour, second = f.rng, tint(f.rng, CLOTHES), tint(f.rng, CLOTHES)
    half, neck = rng.uniform(1.05, 1.45), rng.uniform(0.24, 0.36)
    neck_pen.fill(ellipse(0.95j, neck, 0.55, 4), colour=dark(f.skin, 0.18))
    shoulders = ellipse(1.25j + 0.9j, half, 0.93, rng.uniform(2.3, 3.2))
    pen.fill(shoulders, colour=colour)
    kind = one_of(rng, ("plain", "stripes", "v-neck", "collar", "hood", "buttons", "dungarees"))
    if kind == "stripes":
        for y in np.arange(1.38, 2.4, 0.26):
            pen.fill(between(shoulders, y, y + 0.13), colour=second, edge=0)
    elif kind == "v-neck":
        pen.fill([-neck - 0.1 + 1.2j, neck + 0.1 + 1.2j, 1.65j], colour=f.skin, edge=2.5)
    elif kind == "collar":
        for side in (-1, 1):
            pen.fill([side * 0.02 + 1.3j, side * (neck + 0.16) + 1.12j, side * 0.42 + 1.55j], colour=light(second, 0.5))
    elif kind == "hood":
        pen.fill(between(ellipse(1.28j, neck + 0.3, 0.22), 1.2, 2), colour=dark(colour, 0.2))
    elif kind == "buttons":
        pen.line(np.linspace(1.25j, 2.4j, 4), dark(colour), 3)
        pen.fill(ellipse(0.13 + 1.5j, 0.06), ellipse(0.13 + 1.8j, 0.06), colour=second, edge=0)
    elif kind == "dungarees":
        for side in (-1, 1):
            pen.fill(side * 0.5 + np.array([-0.1 + 1.25j, 0.1 + 1.25j, 0.1 + 2.4j, -0.1 + 2.4j]), colour=second, edge=2)


def draw_glasses(f: Face, pen: Pen) -> None:
    rng, chance = f.rng, f.rng.random()
    if chance > 0.24:
        return
    colour, power, eye, shades = tint(rng, FRAMES), one_of(rng, (2.0, 2.0, 4.0)), max(f.eye_rx, f.eye_ry), chance < 0.05
    size = min(0.3 if shades else max(eye + 0.07, 0.24), f.eye_gap - 0.02)
    for side in (-1, 1):
        centre = side * f.eye_gap + 1j * f.eye_y
        lens = ellipse(centre, size, max(size, eye + 0.04), power)
        pen.line(f.on(np.linspace(centre + side * size, side * f.width - 0.04j, 5)), colour, 5)
        if not shades:
            pen.ring(f.on(lens), colour, 5.5)
        else:
            pen.fill(f.on(lens), colour=dark(colour, 0.6), edge=3)
            pen.line(f.on(centre + size * np.linspace(-0.5 + 0.1j, 0.1 - 0.5j, 4)), light(colour, 0.5), 4)
    pen.line(f.on(arc(1j * f.eye_y, f.eye_gap - size + 0.02, -0.05)), colour, 5.5)


def draw_hat(f: Face, pen: Pen) -> None:
    rng, w, colour, second = f.rng, f.width, tint(f.rng, CLOTHES), tint(f.rng, CLOTHES)
    if not f.hat:
        return
    y = -0.52 + 0.5 * f.nod
    dome = between(f.skull(TURN, 0.16), -2, y)
    reach = np.abs(dome.real[dome.imag > y - 0.01]).max()
    lean = 0.25 * f.look

    def band(half: float, tall: float, at: float) -> np.ndarray:
        return ellipse(1j * at, half, tall, 5)

    if f.hat == "beanie":
        if rng.random() < 0.6:
            pen.fill(ellipse(lean - 1.27j, 0.2), colour=second)
        pen.fill(dome, colour=colour)
        pen.fill(band(reach + 0.03, 0.13, y), colour=one_of(rng, (second, dark(colour, 0.2), light(colour))))
    elif f.hat == "baseball cap":
        way = 1 if f.look > 0 else -1
        pen.fill(dome, colour=colour)
        pen.fill(ellipse(way * 0.62 * w + 1j * (y + 0.02), 0.75 * w, 0.13, 2.4), colour=dark(colour, 0.22))
        pen.fill(ellipse(lean - 0.85j, 0.13), colour=second, edge=0)
    elif f.hat == "top hat":
        crown = [lean - 0.6 + 1j * y, lean - 0.66 - 1.4j, lean + 0.66 - 1.4j, lean + 0.6 + 1j * y]
        pen.fill(np.array(crown), colour=colour)
        pen.fill(band(0.62, 0.1, y - 0.16) + lean, colour=second, edge=0)
        pen.fill(band(reach + 0.18, 0.07, y), colour=colour)
    elif f.hat == "party hat":
        tip = lean - 1.46j
        cone = np.array([-0.5 - 0.78j, tip, 0.5 - 0.78j, -0.7j])
        pen.fill(cone, colour=colour)
        pen.fill(ellipse(0.0 - 0.9j, 0.09), ellipse(0.5 * lean - 1.14j, 0.07), colour=second, edge=0)
        pen.fill(ellipse(tip, 0.13), colour=second)
    elif f.hat == "crown":
        x = np.linspace(-0.66, 0.66, 9) * (w + 0.2)
        points = x + 1j * np.where(np.arange(9) % 2, -0.98, -1.36)
        pen.fill(np.concatenate([points, [0.6 * w - 0.62j, -0.6 * w - 0.62j]]), colour=tint(rng, METALS))
        pen.fill(*(ellipse(s * 0.38 - 0.82j, 0.08) for s in (-1, 0, 1)), colour=second, edge=0)
    elif f.hat == "bucket":
        pen.fill(dome, colour=colour)
        brim = 1j * y + np.array([-reach - 0.14j, reach - 0.14j, reach + 0.26 + 0.12j, -reach - 0.26 + 0.12j])
        pen.fill(brim, colour=light(colour, 0.12))
    elif f.hat == "headband":
        pen.fill(band(reach - 0.03, 0.09, y - 0.06), colour=colour)
    elif f.hat == "bow":
        at = f.light * 0.55 * w - 0.88j
        for side in (-1, 1):
            pen.fill(at + np.array([0, side * 0.36 - 0.22j, side * 0.36 + 0.22j]), colour=colour)
        pen.fill(ellipse(at, 0.1), colour=dark(colour, 0.15))
