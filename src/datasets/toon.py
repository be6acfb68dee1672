"""Toon faces: an endless set of 64x64 cartoon heads, drawn here, that stands in for real data in demos and tests.

A picture is a function of (seed, index) alone. Shapes are arrays of complex numbers, x + 1j * y with y downwards, in
"head units": the head's centre is 0 and its half height 1. A `Pen` turns, scales and places them on a canvas four times
the final size, which is then reduced, so edges are smooth.
"""

import colorsys
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageColor, ImageDraw

VERSION = 1  # names the drawing: raised whenever the pictures change
SIZE = 64
CANVAS = 4 * SIZE

Colour = tuple[int, int, int]


def _palette(text: str) -> list[Colour]:
    return [ImageColor.getrgb("#" + code) for code in text.split()]


SKINS = _palette("fbe0cf f6cdb0 eebb94 dba27a c68a5f a9714b 8f5b3c 79492f 623a2a")
FANTASY_SKINS = _palette("9fd8b4 b7a3e0 8fc3ea f29c8f 7fc8c4 c9d67a e6a3c8 a7adb8")
HAIRS = _palette("1d1a1f 3a2620 5b3a26 84532f b0703a d99b4a efd28a c2492c d9d6d2 8f8c93")
DYED_HAIRS = _palette("e8508f 6b4fd0 2f8fd8 2fae8a f2603c 9ad13c")
IRISES = _palette("5a3a22 8a5a2c 3f7fc4 4c9a5a 7a8896 2c2a33 8a4fb8 c98a1e")
CLOTHES = _palette("e4574c f2a33a f4d35e 5fae5b 3b9c9c 3f6fc2 7a55b5 d66ba0 f2efe8 4a4e5a 252a3a a7744d")
METALS = _palette("f4cf4a d8dde3 e0736b 58c0c8")
FRAMES = _palette("23222a 7a3f22 c23b3b 2f5fb0 e0b33c f2f2f2 6a3f8f")
WHITE, INK, LIP, MAW, TONGUE = _palette("fdfcf8 26202a b8444c 5a1a26 ea7a80")

# style: (what is behind the head, what stands on top, whether a cap of hair covers the skull)
HAIR_STYLES = {
    "bald": ("", "", False),
    "short": ("", "", True),
    "crop": ("", "quiff", True),
    "spiky": ("", "spikes", True),
    "curly": ("", "curls", True),
    "mohawk": ("", "mohawk", False),
    "afro": ("afro", "", True),
    "bob": ("bob", "", True),
    "long": ("long", "", True),
    "wavy": ("wavy", "", True),
    "long curls": ("wavy", "curls", True),
    "pigtails": ("pigtails", "", True),
    "ponytail": ("ponytail", "", True),
    "bun": ("bun", "", True),
    "space buns": ("buns", "", True),
    "tufts": ("tufts", "", False),
}
HATS = ("beanie", "baseball cap", "top hat", "party hat", "crown", "bucket", "headband", "bow")
CROWN_KEEPERS = ("headband", "bow")  # hats that leave the hair on top free
MOUTHS = ("smile", "smile", "grin", "grin", "laugh", "teeth", "frown", "line", "o", "smirk", "bleh")
TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
SPAN = np.linspace(-1, 1, 21)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def _dark(colour: Colour, share: float = 0.5) -> Colour:
    return _mix(colour, INK, share)


def _light(colour: Colour, share: float = 0.3) -> Colour:
    return _mix(colour, WHITE, share)


def _one(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _tint(rng: np.random.Generator, options: list[Colour], spread: float = 9.0) -> Colour:
    """One of the colours, a little off."""
    return tuple(min(255, max(0, round(c + n))) for c, n in zip(_one(rng, options), rng.normal(0, spread, 3), strict=True))


def _any_colour(rng: np.random.Generator) -> Colour:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.12, 0.66), rng.uniform(0.6, 0.98))
    return tuple(round(255 * c) for c in rgb)


def _round(centre: complex, rx: float, ry: float | None = None, power: float = 2.0) -> np.ndarray:
    """A closed ellipse, boxier as `power` grows."""
    c, s = np.cos(TURN), np.sin(TURN)
    if power != 2.0:
        c, s = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    return centre + rx * c + 1j * (rx if ry is None else ry) * s


def _between(shape: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """The slice of a convex shape whose y lies in [top, bottom]."""
    return shape.real + 1j * np.clip(shape.imag, top, bottom)


def _arc(centre: complex, half_width: float, sag: float) -> np.ndarray:
    """An open bow from left to right whose middle hangs `sag` below its ends."""
    return centre + half_width * SPAN + 1j * sag * (0.5 - SPAN**2)


def _normals(points: np.ndarray, closed: bool) -> np.ndarray:
    first, last = (points[-1:], points[:1]) if closed else (points[:1], points[-1:])
    along = np.concatenate([points[1:], last]) - np.concatenate([first, points[:-1]])
    return -1j * along / np.maximum(np.abs(along), 1e-9)


class Pen:
    """Draws shapes in head units at a place, size (pixels a unit) and tilt (radians)."""

    def __init__(self, draw: ImageDraw.ImageDraw, origin: complex, scale: float, tilt: float = 0.0):
        self.draw, self.origin, self.scale = draw, origin, scale
        self.factor = scale * np.exp(1j * tilt)

    def _polygon(self, pixels: np.ndarray, colour: Colour) -> None:
        self.draw.polygon(pixels.view(np.float64).tolist(), fill=colour)

    def fill(self, *shapes: np.ndarray, colour: Colour, edge: float = 3.4) -> None:
        """Fill the union of closed shapes, with an outline `edge` pixels wide in a darker shade around it."""
        placed = [self.origin + self.factor * np.asarray(shape, dtype=np.complex128) for shape in shapes]
        for points in placed if edge else ():
            around = np.vdot(points[:-1], points[1:]) + points[-1].conj() * points[0]  # its imaginary part: twice the area
            outward = np.sign(around.imag) * _normals(points, closed=True)
            self._polygon(points + edge * outward, _dark(colour))
        for points in placed:
            self._polygon(points, colour)

    def line(self, points: np.ndarray, colour: Colour, width: float = 4.5) -> None:
        """A brush stroke `width` pixels wide with rounded ends."""
        points = self.origin + self.factor * np.asarray(points, dtype=np.complex128)
        side = width / 2 * np.sqrt(1 - 0.9 * np.linspace(-1, 1, len(points)) ** 8) * _normals(points, closed=False)
        self._polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)

    def ring(self, shape: np.ndarray, colour: Colour, width: float) -> None:
        """The outline of a closed shape."""
        points = self.origin + self.factor * np.append(shape, shape[0])
        side = width / 2 * _normals(points[:-1], closed=True)
        side = np.append(side, side[0])
        self._polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)


def _character(rng: np.random.Generator) -> SimpleNamespace:
    """What several features share: the head's shape and turn, colours, hair style, hat and the eyes' place."""
    f = SimpleNamespace(rng=rng)
    f.skin = _tint(rng, FANTASY_SKINS if rng.random() < 0.2 else SKINS, 7)
    f.hair = _tint(rng, DYED_HAIRS if rng.random() < 0.22 else HAIRS, 10)
    f.style = _one(rng, list(HAIR_STYLES))
    f.hat = _one(rng, HATS) if rng.random() < 0.27 else ""
    f.hat_colour = _tint(rng, CLOTHES)
    f.width = rng.uniform(0.74, 0.98)
    f.boxy = rng.uniform(2.0, 3.4)
    f.jaw = rng.uniform(-0.16, 0.12)  # below 0 a narrow chin, above 0 a pear
    f.look = rng.uniform(-0.3, 0.3)
    f.nod = rng.uniform(-0.06, 0.06)
    f.eye_y = rng.uniform(-0.1, 0.04)
    f.mouth_y = rng.uniform(0.5, 0.6)
    f.light = -1 if rng.random() < 0.5 else 1
    return f


def _skull(f: SimpleNamespace, angle: np.ndarray | float, grow: float | np.ndarray = 0.0) -> np.ndarray:
    """Points of the head's outline: angle 0 at the right ear, pi / 2 at the chin, pi at the left ear."""
    c, s = np.cos(angle), np.sin(angle)
    power = 2 / np.where(s > 0, f.boxy, 2.2)
    x, y = np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power
    return (1 + grow) * (f.width * x * (1 + f.jaw * y) + 1j * y)


def _on(f: SimpleNamespace, points: np.ndarray | complex) -> np.ndarray:
    """Move points of the face as the head turns and nods; the head's rim stays."""
    points = np.asarray(points, dtype=np.complex128)
    return points + f.look * (f.width - np.minimum(points.real**2 / f.width, f.width)) + 1j * f.nod


def _background(rng: np.random.Generator) -> Image.Image:
    first, second = _any_colour(rng), _any_colour(rng)
    image = Image.new("RGB", (CANVAS, CANVAS), first)
    draw = ImageDraw.Draw(image)
    kind = _one(rng, ("plain", "gradient", "gradient", "split", "stripes", "dots", "disc", "rays"))
    soft = _mix(first, second, 0.45)
    if kind == "gradient":
        ramp = np.linspace(first, second, CANVAS).round().astype(np.uint8)
        image.paste(Image.fromarray(np.tile(ramp[:, None], (1, CANVAS, 1))))
    elif kind == "split":
        a, b = rng.uniform(0.25, 0.75, 2) * CANVAS
        cut = (
            [0, a, CANVAS, b, CANVAS, CANVAS, 0, CANVAS] if rng.random() < 0.5 else [a, 0, b, CANVAS, CANVAS, CANVAS, CANVAS, 0]
        )
        draw.polygon(cut, fill=second)
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


def _body(f: SimpleNamespace, pen: Pen, neck_pen: Pen) -> None:
    rng, colour, second = f.rng, _tint(f.rng, CLOTHES), _tint(f.rng, CLOTHES)
    half, neck = rng.uniform(1.05, 1.45), rng.uniform(0.24, 0.36)
    neck_pen.fill(_round(0.95j, neck, 0.55, 4), colour=_dark(f.skin, 0.18))
    shoulders = _round(1.25j + 0.9j, half, 0.93, rng.uniform(2.3, 3.2))
    pen.fill(shoulders, colour=colour)
    kind = _one(rng, ("plain", "stripes", "v-neck", "collar", "hood", "buttons", "dungarees"))
    if kind == "stripes":
        for y in np.arange(1.38, 2.4, 0.26):
            pen.fill(_between(shoulders, y, y + 0.13), colour=second, edge=0)
    elif kind == "v-neck":
        pen.fill([-neck - 0.1 + 1.2j, neck + 0.1 + 1.2j, 1.65j], colour=f.skin, edge=2.5)
    elif kind == "collar":
        for side in (-1, 1):
            pen.fill([side * 0.02 + 1.3j, side * (neck + 0.16) + 1.12j, side * 0.42 + 1.55j], colour=_light(second, 0.5))
    elif kind == "hood":
        pen.fill(_between(_round(1.28j, neck + 0.3, 0.22), 1.2, 2), colour=_dark(colour, 0.2))
    elif kind == "buttons":
        pen.line(np.linspace(1.25j, 2.4j, 4), _dark(colour), 3)
        pen.fill(_round(0.13 + 1.5j, 0.06), _round(0.13 + 1.8j, 0.06), colour=second, edge=0)
    elif kind == "dungarees":
        for side in (-1, 1):
            pen.fill(side * 0.5 + np.array([-0.1 + 1.25j, 0.1 + 1.25j, 0.1 + 2.4j, -0.1 + 2.4j]), colour=second, edge=2)


def _back_hair(f: SimpleNamespace, pen: Pen) -> None:
    rng, w, kind = f.rng, f.width, HAIR_STYLES[f.style][0]
    wave = 1 + rng.uniform(0.03, 0.06) * np.cos(int(rng.integers(11, 16)) * TURN)
    shapes = []
    if kind == "afro":
        size = rng.uniform(1.02, 1.28)
        shapes = [-0.28j + wave * _round(0, size * 1.03, size * 0.95)]
    elif kind == "bob":
        shapes = [_between(_round(0.05j, w * rng.uniform(1.2, 1.4), 1.12, 2.6), -2, rng.uniform(0.5, 0.95))]
    elif kind in ("long", "wavy"):
        shapes = [0.35j + (wave if kind == "wavy" else 1) * _round(0, w * rng.uniform(1.2, 1.42), rng.uniform(1.38, 1.7), 2.8)]
    elif kind in ("pigtails", "tufts"):
        size = rng.uniform(0.3, 0.42) if kind == "pigtails" else rng.uniform(0.2, 0.3)
        y = rng.uniform(-0.5, 0.3) if kind == "pigtails" else -0.1
        shapes = [side * (w + 0.7 * size) + 1j * y + wave * _round(0, size, size * 1.35) for side in (-1, 1)]
    elif kind == "ponytail":
        shapes = [f.light * (w + 0.16) - 0.1j + _round(0, 0.3, 0.8) * np.exp(-0.35j * f.light)]
    elif kind == "bun":
        shapes = [_round(-0.25 * f.look - 1.16j, rng.uniform(0.26, 0.42))]
    elif kind == "buns":
        shapes = [_round(side * 0.62 - 0.98j, 0.3) for side in (-1, 1)]
    if f.hat and f.hat not in CROWN_KEEPERS and kind in ("bun", "buns", "afro"):
        shapes = [_round(0.1j, w + 0.22, 0.55)]
    pen.fill(*shapes, colour=f.hair if kind in ("pigtails", "tufts", "bun", "buns", "afro") else _dark(f.hair, 0.14))


def _ears(f: SimpleNamespace, pen: Pen) -> None:
    rng, size, ring = f.rng, f.rng.uniform(0.15, 0.25), f.rng.random() < 0.25
    metal = _tint(rng, METALS)
    if HAIR_STYLES[f.style][0] in ("long", "wavy", "bob") and rng.random() < 0.6:
        return
    for side in (-1, 1):
        centre = side * (f.width * 0.98 - max(0.0, 0.45 * side * f.look)) + 1j * (f.eye_y + f.nod + 0.14)
        pen.fill(_round(centre, size * 0.85, size * 1.15), colour=f.skin)
        pen.fill(_round(centre, size * 0.45, size * 0.65), colour=_dark(f.skin, 0.22), edge=0)
        if ring:
            pen.fill(_round(centre + side * 0.04 + 1.35j * size, 0.075), colour=metal, edge=2)


def _head(f: SimpleNamespace, pen: Pen) -> None:
    rng, outline = f.rng, _skull(f, TURN)
    pen.fill(outline, colour=_dark(f.skin, 0.16))
    pen.fill(0.94 * outline + 0.05 * f.light * f.width - 0.045j, colour=f.skin, edge=0)
    cheek = _mix(f.skin, (236, 96, 96), rng.uniform(0.25, 0.5))
    extra = _one(rng, ("", "", "", "blush", "blush", "freckles"))
    for side in (-1, 1):
        centre = side * 0.56 * f.width + 0.32j
        if extra == "blush":
            pen.fill(_on(f, _round(centre, 0.15, 0.11)), colour=cheek, edge=0)
        elif extra == "freckles":
            for spot in (-0.11 - 0.05j, 0.02j, 0.12 - 0.05j, -0.06 + 0.1j, 0.08 + 0.1j):
                pen.fill(_on(f, _round(centre + spot, 0.033)), colour=_dark(f.skin, 0.42), edge=0)


def _beard(f: SimpleNamespace, pen: Pen) -> None:
    rng, hair = f.rng, _mix(f.hair, INK, 0.12)
    kind = _one(rng, ("full", "full", "goatee", "stubble")) if rng.random() < 0.2 else ""
    if kind in ("full", "stubble"):
        long = rng.uniform(0.03, 0.2) if kind == "full" else 0.0
        rim = _skull(f, np.linspace(-0.1, np.pi + 0.1, 25), long * np.sin(np.linspace(0, np.pi, 25)))
        inner = SPAN * rim[0].real + 1j * (0.3 + f.nod + (rim[0].imag - 0.3) * np.abs(SPAN) ** 5)
        colour = hair if kind == "full" else _mix(f.skin, hair, 0.3)
        pen.fill(np.concatenate([rim, inner]), colour=colour, edge=3 if kind == "full" else 0)
    if kind == "goatee":
        pen.fill(_on(f, _round(0.92j, 0.22, 0.17)), colour=hair, edge=2.5)
    f.around_mouth = hair if kind == "full" else f.skin
    f.moustache = kind in ("full", "goatee") and rng.random() < 0.6 or rng.random() < 0.06


def _eyes(f: SimpleNamespace, pen: Pen) -> None:
    rng = f.rng
    rx = rng.uniform(0.14, 0.27)
    ry = rx * rng.uniform(0.85, 1.3)
    f.eye_size, f.eye_gap = max(rx, ry), max(rng.uniform(0.3, 0.42) * (f.width + 0.1), rx + 0.06)
    iris, lid_colour = _tint(rng, IRISES), _mix(f.skin, _any_colour(rng), 0.5) if rng.random() < 0.2 else _dark(f.skin, 0.12)
    gaze = rx * complex(rng.uniform(-0.34, 0.34), rng.uniform(-0.2, 0.25))
    kind = _one(rng, ("open",) * 6 + ("half", "half", "shut", "wink", "dots"))
    iris_size, lid, lashes = rng.uniform(0.5, 0.66), rng.uniform(-0.25, 0.05), rng.random() < 0.35
    smiling = -1 if rng.random() < 0.6 else 1
    for side in (-1, 1):
        centre = side * f.eye_gap + 1j * f.eye_y
        if kind == "shut" or (kind == "wink" and side == f.light):
            pen.line(_on(f, _arc(centre, rx, smiling * 0.8 * rx)), INK, 6)
            continue
        if kind == "dots":
            pen.fill(_on(f, _round(centre, 0.55 * rx, 0.65 * ry)), colour=INK, edge=0)
            pen.fill(_on(f, _round(centre - 0.2 * rx - 0.25j * ry, 0.16 * rx)), colour=WHITE, edge=0)
            continue
        ball = _round(centre, rx, ry)
        pen.fill(_on(f, ball), colour=_dark(f.skin, 0.72), edge=0)
        ball = centre + 0.86 * (ball - centre)
        pen.fill(_on(f, ball), colour=WHITE, edge=0)
        pen.fill(_on(f, _round(centre + gaze, iris_size * rx)), colour=iris, edge=0)
        pen.fill(_on(f, _round(centre + gaze, 0.55 * iris_size * rx)), colour=INK, edge=0)
        pen.fill(_on(f, _round(centre + gaze - 0.2 * rx * (1 + 1j), 0.17 * rx)), colour=WHITE, edge=0)
        if kind == "half":
            level = f.eye_y + lid * ry
            pen.fill(_on(f, _between(ball, -2, level)), colour=lid_colour, edge=0)
            pen.line(_on(f, centre.real + 0.95 * rx * SPAN + 1j * level), INK, 4.5)
        if lashes:
            for lift in (0.15, 0.65):
                root = centre + np.array([side * rx * np.cos(lift) - 1j * ry * np.sin(lift)])
                pen.line(_on(f, root + np.linspace(0, side * 0.11 - 0.08j, 4)), INK, 4)


def _brows(f: SimpleNamespace, pen: Pen) -> None:
    rng = f.rng
    if rng.random() < 0.12:
        return
    lift, slope, thick = f.eye_size + rng.uniform(0.07, 0.15), rng.uniform(-0.35, 0.35), rng.uniform(4.5, 9.5)
    level = 1 if rng.random() < 0.8 else -1
    for side in (-1, 1):
        shape = _arc(0, rng.uniform(0.15, 0.22), -0.08) * np.exp(1j * slope * (side if level == 1 else 1))
        pen.line(_on(f, side * f.eye_gap + 1j * (f.eye_y - lift) + shape), _dark(f.hair, 0.35), thick)


def _nose(f: SimpleNamespace, pen: Pen) -> None:
    rng, size, way = f.rng, f.rng.uniform(0.8, 1.35), 1 if f.look > 0 else -1
    kind, edge, tip = _one(rng, ("button", "ball", "hook", "wide", "long", "dots")), _dark(f.skin, 0.5), 0.24j
    if kind in ("button", "ball"):
        red = _mix(f.skin, (226, 90, 80), rng.uniform(0.05, 0.4))
        pen.fill(_on(f, _round(tip, (0.08 if kind == "button" else 0.13) * size, 0.1 * size)), colour=red, edge=2.2)
    elif kind == "hook":
        pen.line(_on(f, tip + size * np.array([0, 0.03, 0.1, 0.1, 0]) * way + 1j * np.linspace(-0.2, 0.06, 5) * size), edge, 5)
    elif kind == "wide":
        pen.line(_on(f, _arc(tip, 0.13 * size, 0.1 * size)), edge, 5)
    elif kind == "long":
        nose = tip + size * np.array([-0.05 - 0.3j, 0.05 - 0.3j, 0.11 - 0.02j, 0.06 + 0.07j, -0.06 + 0.07j, -0.11 - 0.02j])
        pen.fill(_on(f, nose), colour=_dark(f.skin, 0.08), edge=2.4)
    else:
        pen.fill(*(_on(f, _round(tip + side * 0.06 * size, 0.032)) for side in (-1, 1)), colour=edge, edge=0)


def _mouth(f: SimpleNamespace, pen: Pen) -> None:
    rng, kind = f.rng, _one(f.rng, MOUTHS)
    half, tall, at = rng.uniform(0.2, 0.36) * (f.width + 0.1), rng.uniform(0.16, 0.26), 1j * f.mouth_y
    ink = _mix(_dark(f.around_mouth, 0.72), LIP, rng.uniform(0, 0.6))
    if sum(f.around_mouth) < 330:
        ink = _mix(TONGUE, f.around_mouth, 0.25)
    if kind in ("smile", "frown", "line"):
        sag = {"smile": 0.65, "frown": -0.55, "line": 0.06}[kind] * half
        pen.line(_on(f, _arc(at, half, sag)), ink, rng.uniform(5, 7))
    elif kind == "smirk":
        pen.line(_on(f, at + half * SPAN + 1j * half * (0.3 * SPAN**2 - 0.35 * f.light * SPAN)), ink, 6)
    elif kind in ("grin", "laugh"):
        mouth = _between(_round(at - 0.09j, half, tall + 0.08, 2.3), f.mouth_y - 0.09, 2)
        pen.fill(_on(f, mouth), colour=MAW, edge=2.2)
        pen.fill(_on(f, _between(_round(at + 0.62j * tall, 0.55 * half, 0.3 * tall), 0, 2)), colour=TONGUE, edge=0)
        if kind == "grin":
            teeth = _between(0.93 * (mouth - at) + at, f.mouth_y - 0.09, f.mouth_y - 0.01)
            pen.fill(_on(f, teeth), colour=WHITE, edge=0)
    elif kind == "teeth":
        pen.fill(_on(f, _round(at, half * 0.9, 0.11, 3.5)), colour=WHITE, edge=3)
        pen.line(_on(f, at + 0.85 * half * SPAN), _dark(WHITE, 0.55), 2.5)
    elif kind == "o":
        size = rng.uniform(0.08, 0.14)
        pen.fill(_on(f, _round(at, size, size * rng.uniform(0.9, 1.4))), colour=MAW, edge=3)
    else:
        pen.fill(_on(f, _between(_round(at, 0.5 * half, 0.24, 2.6), f.mouth_y, 2)), colour=TONGUE, edge=2.5)
        pen.line(_on(f, _arc(at, half, 0.12 * half)), ink, 6)
    if f.moustache:
        wing = SPAN * 0.34 + 1j * (0.38 + 0.1 * np.abs(SPAN) ** 1.5)
        under = (SPAN * 0.34 + 1j * (0.49 - 0.06 * np.cos(3 * SPAN)))[::-1]
        pen.fill(_on(f, np.concatenate([wing, under])), colour=_mix(f.hair, INK, 0.2), edge=1.5)


def _front_hair(f: SimpleNamespace, pen: Pen) -> None:
    """The cap of hair between the skull's rim and a hairline, and what stands on top of it."""
    rng, (_, top, cap), shapes = f.rng, HAIR_STYLES[f.style], []
    hatted = bool(f.hat) and f.hat not in CROWN_KEEPERS
    volume = 0.04 if hatted else rng.uniform(0.05, 0.16)
    if cap:
        low = rng.uniform(0.0, 0.22)
        rim = _skull(f, np.linspace(np.pi - low, 2 * np.pi + low, 31), volume * np.cos(np.linspace(-1.5, 1.5, 31)) ** 0.5)
        u, kind = np.linspace(1, -1, 41), _one(rng, ("arch", "fringe", "sweep", "zigzag", "parted", "peak"))
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
    if top and not hatted:
        shapes += _crest(f, top)
    if not shapes:
        return
    pen.fill(*shapes, colour=f.hair)
    if cap and not hatted:
        shine = _skull(f, np.linspace(-1.9, -1.3, 9) - 0.45 * f.light, volume - 0.2)
        pen.line(shine, _light(f.hair, 0.28), 8)


def _crest(f: SimpleNamespace, kind: str) -> list[np.ndarray]:
    rng = f.rng
    if kind == "curls":
        size = rng.uniform(0.2, 0.28)
        angles = np.linspace(np.pi * 0.98, np.pi * 2.02, int(rng.integers(8, 11)))
        return [_round(point, size) for point in _skull(f, angles, 0.02)]
    if kind == "quiff":
        return [(-0.85j + 0.25 * f.light) + _round(0, 0.5, rng.uniform(0.24, 0.36), 2.4) * np.exp(-0.2j * f.light)]
    wide, tall, count = (1.25, rng.uniform(0.28, 0.5), 6) if kind == "spikes" else (0.34, rng.uniform(0.4, 0.55), 4)
    angles = np.linspace(-np.pi / 2 - wide, -np.pi / 2 + wide, 2 * count + 1)
    lift = np.where(np.arange(2 * count + 1) % 2, tall * rng.uniform(0.75, 1.1, 2 * count + 1), 0.04 if count == 6 else 0.2)
    lift[[0, -1]] = -0.12
    crest = _skull(f, angles, lift)
    return [np.concatenate([crest, 0.75 * crest[::-1]]) + 0.2 * f.look * (count == 4)]


def _glasses(f: SimpleNamespace, pen: Pen) -> None:
    rng, chance = f.rng, f.rng.random()
    if chance > 0.24:
        return
    colour, power = _tint(rng, FRAMES), _one(rng, (2.0, 2.0, 4.0))
    size = min(max(f.eye_size + 0.07, 0.24), f.eye_gap - 0.02) if chance > 0.05 else min(0.3, f.eye_gap - 0.02)
    for side in (-1, 1):
        centre = side * f.eye_gap + 1j * f.eye_y
        lens = _round(centre, size, max(size, f.eye_size + 0.04) if chance > 0.05 else size, power)
        pen.line(_on(f, np.linspace(centre + side * size, side * f.width - 0.04j, 5)), colour, 5)
        if chance > 0.05:
            pen.ring(_on(f, lens), colour, 5.5)
        else:
            pen.fill(_on(f, lens), colour=_dark(colour, 0.6), edge=3)
            pen.line(_on(f, centre + size * np.linspace(-0.5 + 0.1j, 0.1 - 0.5j, 4)), _light(colour, 0.5), 4)
    pen.line(_on(f, _arc(1j * f.eye_y, f.eye_gap - size + 0.02, -0.05)), colour, 5.5)


def _hat(f: SimpleNamespace, pen: Pen) -> None:
    rng, w, colour, second = f.rng, f.width, f.hat_colour, _tint(f.rng, CLOTHES)
    y = -0.52 + 0.5 * f.nod
    dome = _between(_skull(f, TURN, 0.16), -2, y)
    reach = np.abs(dome.real[dome.imag > y - 0.01]).max() if f.hat else 0
    lean = 0.25 * f.look

    def band(half: float, tall: float, at: float) -> np.ndarray:
        return _round(1j * at, half, tall, 5)

    if f.hat == "beanie":
        if rng.random() < 0.6:
            pen.fill(_round(lean - 1.27j, 0.2), colour=second)
        pen.fill(dome, colour=colour)
        pen.fill(band(reach + 0.03, 0.13, y), colour=_one(rng, (second, _dark(colour, 0.2), _light(colour))))
    elif f.hat == "baseball cap":
        way = 1 if f.look > 0 else -1
        pen.fill(dome, colour=colour)
        pen.fill(_round(way * 0.62 * w + 1j * (y + 0.02), 0.75 * w, 0.13, 2.4), colour=_dark(colour, 0.22))
        pen.fill(_round(lean - 0.85j, 0.13), colour=second, edge=0)
    elif f.hat == "top hat":
        crown = [lean - 0.6 + 1j * y, lean - 0.66 - 1.4j, lean + 0.66 - 1.4j, lean + 0.6 + 1j * y]
        pen.fill(np.array(crown), colour=colour)
        pen.fill(band(0.62, 0.1, y - 0.16) + lean, colour=second, edge=0)
        pen.fill(band(reach + 0.18, 0.07, y), colour=colour)
    elif f.hat == "party hat":
        tip = lean - 1.62j
        cone = np.array([-0.5 - 0.78j, tip, 0.5 - 0.78j, -0.7j])
        pen.fill(cone, colour=colour)
        pen.fill(_round(0.0 - 0.9j, 0.09), _round(0.5 * lean - 1.2j, 0.08), colour=second, edge=0)
        pen.fill(_round(tip, 0.13), colour=second)
    elif f.hat == "crown":
        x = np.linspace(-0.66, 0.66, 9) * (w + 0.2)
        points = x + 1j * np.where(np.arange(9) % 2, -0.98, -1.36)
        pen.fill(np.concatenate([points, [0.6 * w - 0.62j, -0.6 * w - 0.62j]]), colour=_tint(rng, METALS))
        pen.fill(*(_round(s * 0.38 - 0.82j, 0.08) for s in (-1, 0, 1)), colour=second, edge=0)
    elif f.hat == "bucket":
        pen.fill(dome, colour=colour)
        brim = [
            -reach + 1j * (y - 0.14),
            reach + 1j * (y - 0.14),
            reach + 0.26 + 1j * (y + 0.12),
            -reach - 0.26 + 1j * (y + 0.12),
        ]
        pen.fill(np.array(brim), colour=_light(colour, 0.12))
    elif f.hat == "headband":
        pen.fill(band(reach - 0.03, 0.09, y - 0.06), colour=colour)
    elif f.hat == "bow":
        at = f.light * 0.55 * w - 0.88j
        for side in (-1, 1):
            pen.fill(at + np.array([0, side * 0.36 - 0.22j, side * 0.36 + 0.22j]), colour=colour)
        pen.fill(_round(at, 0.1), colour=_dark(colour, 0.15))


def draw_face(seed: int, index: int) -> np.ndarray:
    """Picture `index` (>= 0) of the set `seed` (>= 0): an array (64, 64, 3) of uint8, RGB. ValueError if either is negative."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed {seed} and index {index}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    image = _background(rng)
    draw = ImageDraw.Draw(image)
    f = _character(rng)
    scale, tilt = rng.uniform(68, 82), rng.normal(0, 0.09)
    neck = complex(128 + rng.uniform(-12, 12), 138 + rng.uniform(-3, 10) + 0.9 * scale)
    tilt = min(0.22, max(-0.22, tilt))
    pen = Pen(draw, neck - 0.9j * scale * np.exp(1j * tilt), scale, tilt)
    _back_hair(f, pen)
    _body(f, Pen(draw, neck - 0.9j * scale, scale), pen)
    for feature in (_ears, _head, _beard, _front_hair, _eyes, _brows, _nose, _mouth, _glasses, _hat):
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
