"""Toon faces: an endless set of 64x64 cartoon heads, drawn here, that stands in for real data in demos and tests.

A picture is a function of (seed, index) alone. It is drawn from the back to the front on a canvas four times the final
size, which is then reduced, so edges are smooth.
"""

import numpy as np
from PIL import ImageDraw

from src.challenges.toon.base import (
    CANVAS,
    INK,
    IRISES,
    LIP,
    MAW,
    METALS,
    SPAN,
    TONGUE,
    TURN,
    WHITE,
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
from src.challenges.toon.wear import background, draw_body, draw_glasses, draw_hat

VERSION = 1  # names the drawing: raised whenever the pictures change
SIZE = 64
MOUTHS = ("smile", "smile", "grin", "grin", "laugh", "teeth", "frown", "line", "o", "smirk", "bleh")


def _back_hair(f: Face, pen: Pen) -> None:
    rng, w, kind = f.rng, f.width, f.back
    wave = 1 + rng.uniform(0.03, 0.06) * np.cos(int(rng.integers(11, 16)) * TURN)
    shapes = []
    if kind == "afro":
        size = rng.uniform(1.02, 1.28)
        shapes = [-0.28j + wave * ellipse(0, size * 1.03, size * 0.95)]
    elif kind == "bob":
        shapes = [between(ellipse(0.05j, w * rng.uniform(1.2, 1.4), 1.12, 2.6), -2, rng.uniform(0.5, 0.95))]
    elif kind in ("long", "wavy"):
        shapes = [0.35j + (wave if kind == "wavy" else 1) * ellipse(0, w * rng.uniform(1.2, 1.42), rng.uniform(1.38, 1.7), 2.8)]
    elif kind in ("pigtails", "tufts"):
        size = rng.uniform(0.3, 0.42) if kind == "pigtails" else rng.uniform(0.2, 0.3)
        y = rng.uniform(-0.5, 0.3) if kind == "pigtails" else -0.1
        shapes = [side * (w + 0.7 * size) + 1j * y + wave * ellipse(0, size, size * 1.35) for side in (-1, 1)]
    elif kind == "ponytail":
        shapes = [f.light * (w + 0.16) - 0.1j + ellipse(0, 0.3, 0.8) * np.exp(-0.35j * f.light)]
    elif kind == "bun":
        shapes = [ellipse(-0.25 * f.look - 1.16j, rng.uniform(0.26, 0.42))]
    elif kind == "buns":
        shapes = [ellipse(side * 0.62 - 0.98j, 0.3) for side in (-1, 1)]
    if f.covered and kind in ("bun", "buns", "afro"):
        shapes = [ellipse(0.1j, w + 0.22, 0.55)]
    pen.fill(*shapes, colour=f.hair if kind in ("pigtails", "tufts", "bun", "buns", "afro") else dark(f.hair, 0.14))


def _ears(f: Face, pen: Pen) -> None:
    rng, size, ring = f.rng, f.rng.uniform(0.15, 0.25), f.rng.random() < 0.25
    metal = tint(rng, METALS)
    if f.back in ("long", "wavy", "bob") and rng.random() < 0.6:
        return
    for side in (-1, 1):
        centre = side * (f.width * 0.98 - max(0.0, 0.45 * side * f.look)) + 1j * (f.eye_y + f.nod + 0.14)
        pen.fill(ellipse(centre, size * 0.85, size * 1.15), colour=f.skin)
        pen.fill(ellipse(centre, size * 0.45, size * 0.65), colour=dark(f.skin, 0.22), edge=0)
        if ring:
            pen.fill(ellipse(centre + side * 0.04 + 1.35j * size, 0.075), colour=metal, edge=2)


def _head(f: Face, pen: Pen) -> None:
    rng, outline = f.rng, f.skull(TURN)
    pen.fill(outline, colour=dark(f.skin, 0.16))
    pen.fill(0.94 * outline + 0.05 * f.light * f.width - 0.045j, colour=f.skin, edge=0)
    cheek = mix(f.skin, (236, 96, 96), rng.uniform(0.25, 0.5))
    extra = one_of(rng, ("", "", "", "blush", "blush", "freckles"))
    for side in (-1, 1):
        centre = side * 0.56 * f.width + 0.32j
        if extra == "blush":
            pen.fill(f.on(ellipse(centre, 0.15, 0.11)), colour=cheek, edge=0)
        elif extra == "freckles":
            for spot in (-0.11 - 0.05j, 0.02j, 0.12 - 0.05j, -0.06 + 0.1j, 0.08 + 0.1j):
                pen.fill(f.on(ellipse(centre + spot, 0.033)), colour=dark(f.skin, 0.42), edge=0)


def _beard(f: Face, pen: Pen) -> None:
    rng, hair = f.rng, mix(f.hair, INK, 0.12)
    kind = f.beard
    if kind in ("full", "stubble"):
        long = rng.uniform(0.03, 0.2) if kind == "full" else 0.0
        rim = f.skull(np.linspace(-0.1, np.pi + 0.1, 25), long * np.sin(np.linspace(0, np.pi, 25)))
        inner = SPAN * rim[0].real + 1j * (0.36 + f.nod + (rim[0].imag - 0.36) * np.abs(SPAN) ** 5)
        colour = hair if kind == "full" else mix(f.skin, hair, 0.3)
        pen.fill(np.concatenate([rim, inner]), colour=colour, edge=3 if kind == "full" else 0)
    if kind == "goatee":
        pen.fill(f.on(ellipse(0.92j, 0.22, 0.17)), colour=hair, edge=2.5)


def _eyes(f: Face, pen: Pen) -> None:
    rng, rx, ry = f.rng, f.eye_rx, f.eye_ry
    iris, lid_colour = tint(rng, IRISES), mix(f.skin, any_colour(rng), 0.5) if rng.random() < 0.2 else dark(f.skin, 0.12)
    gaze = rx * complex(rng.uniform(-0.34, 0.34), rng.uniform(-0.2, 0.25))
    kind = one_of(rng, ("open",) * 6 + ("half", "half", "shut", "wink", "dots"))
    iris_size, lid, lashes = rng.uniform(0.5, 0.66), rng.uniform(-0.25, 0.05), rng.random() < 0.35
    smiling = -1 if rng.random() < 0.6 else 1
    for side in (-1, 1):
        centre = side * f.eye_gap + 1j * f.eye_y
        if kind == "shut" or (kind == "wink" and side == f.light):
            pen.line(f.on(arc(centre, rx, smiling * 0.8 * rx)), INK, 6)
            continue
        if kind == "dots":
            pen.fill(f.on(ellipse(centre, 0.55 * rx, 0.65 * ry)), colour=INK, edge=0)
            pen.fill(f.on(ellipse(centre - 0.2 * rx - 0.25j * ry, 0.16 * rx)), colour=WHITE, edge=0)
            continue
        ball = ellipse(centre, rx, ry)
        pen.fill(f.on(ball), colour=dark(f.skin, 0.72), edge=0)
        ball = centre + 0.86 * (ball - centre)
        pen.fill(f.on(ball), colour=WHITE, edge=0)
        pen.fill(f.on(ellipse(centre + gaze, iris_size * rx)), colour=iris, edge=0)
        pen.fill(f.on(ellipse(centre + gaze, 0.55 * iris_size * rx)), colour=INK, edge=0)
        pen.fill(f.on(ellipse(centre + gaze - 0.2 * rx * (1 + 1j), 0.17 * rx)), colour=WHITE, edge=0)
        if kind == "half":
            level = f.eye_y + lid * ry
            pen.fill(f.on(between(ball, -2, level)), colour=lid_colour, edge=0)
            pen.line(f.on(centre.real + 0.95 * rx * SPAN + 1j * level), INK, 4.5)
        if lashes:
            for lift in (0.15, 0.65):
                root = centre + np.array([side * rx * np.cos(lift) - 1j * ry * np.sin(lift)])
                pen.line(f.on(root + np.linspace(0, side * 0.11 - 0.08j, 4)), INK, 4)


def _brows(f: Face, pen: Pen) -> None:
    rng = f.rng
    if rng.random() < 0.12:
        return
    lift, slope, thick = max(f.eye_rx, f.eye_ry) + rng.uniform(0.07, 0.15), rng.uniform(-0.35, 0.35), rng.uniform(4.5, 9.5)
    level = 1 if rng.random() < 0.8 else -1
    for side in (-1, 1):
        shape = arc(0, rng.uniform(0.15, 0.22), -0.08) * np.exp(1j * slope * (side if level == 1 else 1))
        pen.line(f.on(side * f.eye_gap + 1j * (f.eye_y - lift) + shape), dark(f.hair, 0.35), thick)


def _nose(f: Face, pen: Pen) -> None:
    rng, size, way = f.rng, f.rng.uniform(0.8, 1.35), 1 if f.look > 0 else -1
    kind, edge, tip = one_of(rng, ("button", "ball", "hook", "wide", "long", "dots")), dark(f.skin, 0.5), 0.24j
    if kind in ("button", "ball"):
        red = mix(f.skin, (226, 90, 80), rng.uniform(0.05, 0.4))
        pen.fill(f.on(ellipse(tip, (0.08 if kind == "button" else 0.13) * size, 0.1 * size)), colour=red, edge=2.2)
    elif kind == "hook":
        pen.line(f.on(tip + size * np.array([0, 0.03, 0.1, 0.1, 0]) * way + 1j * np.linspace(-0.2, 0.06, 5) * size), edge, 5)
    elif kind == "wide":
        pen.line(f.on(arc(tip, 0.13 * size, 0.1 * size)), edge, 5)
    elif kind == "long":
        nose = tip + size * np.array([-0.05 - 0.3j, 0.05 - 0.3j, 0.11 - 0.02j, 0.06 + 0.07j, -0.06 + 0.07j, -0.11 - 0.02j])
        pen.fill(f.on(nose), colour=dark(f.skin, 0.08), edge=2.4)
    else:
        pen.fill(*(f.on(ellipse(tip + side * 0.06 * size, 0.032)) for side in (-1, 1)), colour=edge, edge=0)


def _mouth(f: Face, pen: Pen) -> None:
    rng, kind = f.rng, one_of(f.rng, MOUTHS)
    half, tall, at = rng.uniform(0.2, 0.36) * (f.width + 0.1), rng.uniform(0.16, 0.26), 1j * f.mouth_y
    ground, red = f.hair if f.beard == "full" else f.skin, rng.uniform(0, 0.6)
    ink = mix(dark(ground, 0.72), LIP, red) if sum(ground) > 330 else mix(TONGUE, ground, 0.25)
    if kind in ("smile", "frown", "line"):
        sag = {"smile": 0.65, "frown": -0.55, "line": 0.06}[kind] * half
        pen.line(f.on(arc(at, half, sag)), ink, rng.uniform(5, 7))
    elif kind == "smirk":
        pen.line(f.on(at + half * SPAN + 1j * half * (0.3 * SPAN**2 - 0.35 * f.light * SPAN)), ink, 6)
    elif kind in ("grin", "laugh"):
        mouth = between(ellipse(at - 0.09j, half, tall + 0.08, 2.3), f.mouth_y - 0.09, 2)
        pen.fill(f.on(mouth), colour=MAW, edge=2.2)
        pen.fill(f.on(between(ellipse(at + 0.62j * tall, 0.55 * half, 0.3 * tall), 0, 2)), colour=TONGUE, edge=0)
        if kind == "grin":
            teeth = between(0.93 * (mouth - at) + at, f.mouth_y - 0.09, f.mouth_y - 0.01)
            pen.fill(f.on(teeth), colour=WHITE, edge=0)
    elif kind == "teeth":
        pen.fill(f.on(ellipse(at, half * 0.9, 0.11, 3.5)), colour=WHITE, edge=3)
        pen.line(f.on(at + 0.85 * half * SPAN), dark(WHITE, 0.55), 2.5)
    elif kind == "o":
        size = rng.uniform(0.08, 0.14)
        pen.fill(f.on(ellipse(at, size, size * rng.uniform(0.9, 1.4))), colour=MAW, edge=3)
    else:
        pen.fill(f.on(between(ellipse(at, 0.5 * half, 0.24, 2.6), f.mouth_y, 2)), colour=TONGUE, edge=2.5)
        pen.line(f.on(arc(at, half, 0.12 * half)), ink, 6)
    if f.moustache:
        wing = SPAN * 0.34 + 1j * (0.38 + 0.1 * np.abs(SPAN) ** 1.5)
        under = (SPAN * 0.34 + 1j * (0.49 - 0.06 * np.cos(3 * SPAN)))[::-1]
        pen.fill(f.on(np.concatenate([wing, under])), colour=mix(f.hair, INK, 0.2), edge=1.5)


def _front_hair(f: Face, pen: Pen) -> None:
    """The cap of hair between the skull's rim and a hairline, and what stands on top of it."""
    rng, shapes = f.rng, []
    volume = 0.04 if f.covered else rng.uniform(0.05, 0.16)
    if f.cap:
        low = rng.uniform(0.0, 0.22)
        rim = f.skull(np.linspace(np.pi - low, 2 * np.pi + low, 31), volume * np.cos(np.linspace(-1.5, 1.5, 31)) ** 0.5)
        u, kind = np.linspace(1, -1, 41), one_of(rng, ("arch", "fringe", "sweep", "zigzag", "parted", "peak"))
        base = rng.uniform(-0.62, -0.46)
        drop = {
            "arch": -0.1,
            "fringe": 0.08 + 0.03 * np.cos(12 * u),
            "sweep": 0.22 * f.light * u,
            "zigzag": 0.16 * np.abs((3.5 * u) % 2 - 1) - 0.02,
            "parted": 0.3 * np.abs(u - 0.35 * f.light) - 0.22,
            "peak": 0.16 * np.exp(-((4 * u) ** 2)) - 0.12,
        }[kind]
        side = np.abs(u) ** rng.uniform(5, 12)
        y = (base + drop) * (1 - side) + rim[-1].imag * side
        line = u * rim[-1].real + f.look * f.width * (1 - u**2) + 1j * (y + f.nod * (1 - side))
        shapes.append(np.concatenate([rim, line]))
    if f.top and not f.covered:
        shapes += _crest(f, f.top)
    if not shapes:
        return
    pen.fill(*shapes, colour=f.hair)
    if f.cap and not f.covered:
        shine = f.skull(np.linspace(-1.9, -1.3, 9) - 0.45 * f.light, volume - 0.2)
        pen.line(shine, light(f.hair, 0.28), 8)


def _crest(f: Face, kind: str) -> list[np.ndarray]:
    rng = f.rng
    if kind == "curls":
        size = rng.uniform(0.2, 0.28)
        angles = np.linspace(np.pi * 0.98, np.pi * 2.02, int(rng.integers(8, 11)))
        return [ellipse(point, size) for point in f.skull(angles, 0.02)]
    if kind == "quiff":
        return [(-0.85j + 0.25 * f.light) + ellipse(0, 0.5, rng.uniform(0.24, 0.36), 2.4) * np.exp(-0.2j * f.light)]
    wide, tall, count = (1.25, rng.uniform(0.28, 0.5), 6) if kind == "spikes" else (0.34, rng.uniform(0.4, 0.55), 4)
    angles = np.linspace(-np.pi / 2 - wide, -np.pi / 2 + wide, 2 * count + 1)
    lift = np.where(np.arange(2 * count + 1) % 2, tall * rng.uniform(0.75, 1.1, 2 * count + 1), 0.04 if count == 6 else 0.2)
    lift[[0, -1]] = -0.12
    crest = f.skull(angles, lift)
    return [np.concatenate([crest, 0.75 * crest[::-1]]) + 0.2 * f.look * (count == 4)]


def draw_face(seed: int, index: int) -> np.ndarray:
    """Picture `index` (>= 0) of the set `seed` (>= 0): an array (64, 64, 3) of uint8, RGB. ValueError if either is negative."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed} and index {index}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    image = background(rng)
    draw = ImageDraw.Draw(image)
    f = Face(rng)
    scale, tilt = rng.uniform(68, 82), rng.normal(0, 0.09)
    neck = complex(128 + rng.uniform(-12, 12), 138 + rng.uniform(-3, 10) + 0.9 * scale)
    tilt = min(0.22, max(-0.22, tilt))
    pen = Pen(draw, neck - 0.9j * scale * np.exp(1j * tilt), scale, tilt)
    _back_hair(f, pen)
    draw_body(f, Pen(draw, neck - 0.9j * scale, scale), pen)
    for feature in (_ears, _head, _beard, _front_hair, _eyes, _brows, _nose, _mouth, draw_glasses, draw_hat):
        feature(f, pen)
    return np.array(image.reduce(CANVAS // SIZE))


def toon_faces(count: int, seed: int, first: int = 0) -> np.ndarray:
    """Pictures first .. first + count - 1 of the set `seed`: an array (count, 3, 64, 64) of uint8, RGB.

    ValueError if count, seed or first is negative.
    """
    if count < 0 or seed < 0 or first < 0:
        raise ValueError(f"count, seed and first must not be negative, got {count}, {seed} and {first}")
    faces = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    for i in range(count):
        faces[i] = draw_face(seed, first + i).transpose(2, 0, 1)
    return faces


def reduced(faces: np.ndarray, size: int) -> np.ndarray:
    """Faces (N, C, S, S) as uint8 (N, C, size, size): each pixel the mean of a square, rounded. S is a multiple of size."""
    times = faces.shape[-1] // size
    squares = faces.reshape(*faces.shape[:2], size, times, size, times)
    return (squares.mean(axis=(3, 5), dtype=np.float32) + 0.5).astype(np.uint8)
