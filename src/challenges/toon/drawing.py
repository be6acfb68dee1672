"""Toon faces: an endless set of 64x64 cartoon heads, drawn here, that stands in for real data in demos and tests.

A picture is a function of (seed, index) alone. It is drawn from the back to the front on a canvas four times the final
size, which is then reduced, so edges are smooth.

Shapes are arrays of complex numbers, x + 1j * y with y downwards, in "head units": the head's centre is 0 and its half
height 1.
"""

import colorsys

import numpy as np
from PIL import Image, ImageColor, ImageDraw

VERSION = 1  # names the drawing: raised whenever the pictures change
SIZE = 64
MOUTHS = ("smile", "smile", "grin", "grin", "laugh", "teeth", "frown", "line", "o", "smirk", "bleh")
CANVAS = 256  # pixels per side while drawing

Colour = tuple[int, int, int]


def palette(text: str) -> list[Colour]:
    return [ImageColor.getrgb("#" + code) for code in text.split()]


SKINS = palette("fbe0cf f6cdb0 eebb94 dba27a c68a5f a9714b 8f5b3c 79492f 623a2a")
FANTASY_SKINS = palette("9fd8b4 b7a3e0 8fc3ea f29c8f 7fc8c4 c9d67a e6a3c8 a7adb8")
HAIRS = palette("1d1a1f 3a2620 5b3a26 84532f b0703a d99b4a efd28a c2492c d9d6d2 8f8c93")
DYED_HAIRS = palette("e8508f 6b4fd0 2f8fd8 2fae8a f2603c 9ad13c")
IRISES = palette("5a3a22 8a5a2c 3f7fc4 4c9a5a 7a8896 2c2a33 8a4fb8 c98a1e")
CLOTHES = palette("e4574c f2a33a f4d35e 5fae5b 3b9c9c 3f6fc2 7a55b5 d66ba0 f2efe8 4a4e5a 252a3a a7744d")
METALS = palette("f4cf4a d8dde3 e0736b 58c0c8")
FRAMES = palette("23222a 7a3f22 c23b3b 2f5fb0 e0b33c f2f2f2 6a3f8f")
WHITE, INK, LIP, MAW, TONGUE = palette("fdfcf8 26202a b8444c 5a1a26 ea7a80")

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
TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
COS, SIN = np.cos(TURN), np.sin(TURN)
SPAN = np.linspace(-1, 1, 21)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def dark(colour: Colour, share: float = 0.5) -> Colour:
    return mix(colour, INK, share)


def light(colour: Colour, share: float = 0.3) -> Colour:
    return mix(colour, WHITE, share)


def one_of(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def tint(rng: np.random.Generator, options: list[Colour], spread: float = 9.0) -> Colour:
    """One of the colours, a little off."""
    return tuple(min(255, max(0, round(c + n))) for c, n in zip(one_of(rng, options), rng.normal(0, spread, 3), strict=True))


def any_colour(rng: np.random.Generator) -> Colour:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.12, 0.66), rng.uniform(0.6, 0.98))
    return tuple(round(255 * c) for c in rgb)


def ellipse(centre: complex, rx: float, ry: float | None = None, power: float = 2.0) -> np.ndarray:
    """A closed ellipse, boxier as `power` grows."""
    c, s = COS, SIN
    if power != 2.0:
        c, s = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    return centre + rx * c + 1j * (rx if ry is None else ry) * s


def between(shape: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """The slice of a convex shape whose y lies in [top, bottom]."""
    return shape.real + 1j * np.clip(shape.imag, top, bottom)


def arc(centre: complex, half_width: float, sag: float) -> np.ndarray:
    """An open bow from left to right whose middle hangs `sag` below its ends."""
    return centre + half_width * SPAN + 1j * sag * (0.5 - SPAN**2)


def normals(points: np.ndarray, closed: bool) -> np.ndarray:
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
            outward = np.sign(around.imag) * normals(points, closed=True)
            self._polygon(points + edge * outward, dark(colour))
        for points in placed:
            self._polygon(points, colour)

    def line(self, points: np.ndarray, colour: Colour, width: float = 4.5) -> None:
        """A brush stroke `width` pixels wide with rounded ends."""
        points = self.origin + self.factor * np.asarray(points, dtype=np.complex128)
        side = width / 2 * np.sqrt(1 - 0.9 * np.linspace(-1, 1, len(points)) ** 8) * normals(points, closed=False)
        self._polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)

    def ring(self, shape: np.ndarray, colour: Colour, width: float) -> None:
        """The outline of a closed shape."""
        points = self.origin + self.factor * np.append(shape, shape[0])
        side = width / 2 * normals(points[:-1], closed=True)
        side = np.append(side, side[0])
        self._polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)


class Face:
    """One character: the head's shape, turn and colours, and all else that several features must agree on."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.skin = tint(rng, FANTASY_SKINS if rng.random() < 0.2 else SKINS, 7)
        self.hair = tint(rng, DYED_HAIRS if rng.random() < 0.22 else HAIRS, 10)
        self.back, self.top, self.cap = HAIR_STYLES[one_of(rng, list(HAIR_STYLES))]
        self.hat = one_of(rng, HATS) if rng.random() < 0.27 else ""
        self.covered = bool(self.hat) and self.hat not in CROWN_KEEPERS
        self.beard = one_of(rng, ("full", "full", "goatee", "stubble")) if rng.random() < 0.2 else ""
        self.moustache = rng.random() < (0.6 if self.beard in ("full", "goatee") else 0.06)
        self.width = rng.uniform(0.74, 0.98)
        self.boxy = rng.uniform(2.0, 3.4)
        self.jaw = rng.uniform(-0.16, 0.12)  # below 0 a narrow chin, above 0 a pear
        self.look = rng.uniform(-0.3, 0.3)
        self.nod = rng.uniform(-0.06, 0.06)
        self.light = -1 if rng.random() < 0.5 else 1
        self.mouth_y = rng.uniform(0.5, 0.6)
        self.eye_y = rng.uniform(-0.1, 0.04)
        self.eye_rx = rng.uniform(0.14, 0.27)
        self.eye_ry = self.eye_rx * rng.uniform(0.85, 1.3)
        self.eye_gap = max(rng.uniform(0.3, 0.42) * (self.width + 0.1), self.eye_rx + 0.06)

    def skull(self, angle: np.ndarray, grow: float | np.ndarray = 0.0) -> np.ndarray:
        """Points of the head's outline: angle 0 at the right ear, pi / 2 at the chin, pi at the left ear."""
        c, s = np.cos(angle), np.sin(angle)
        power = 2 / np.where(s > 0, self.boxy, 2.2)
        x, y = np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power
        return (1 + grow) * (self.width * x * (1 + self.jaw * y) + 1j * y)

    def on(self, points: np.ndarray | complex) -> np.ndarray:
        """Move points of the face as the head turns and nods; the head's rim stays."""
        points = np.asarray(points, dtype=np.complex128)
        return points + self.look * (self.width - np.minimum(points.real**2 / self.width, self.width)) + 1j * self.nod


# ------------------------------------------------------------------------------------ features, from the back to the front


def draw_back_hair(f: Face, pen: Pen) -> None:
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


def draw_ears(f: Face, pen: Pen) -> None:
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


def draw_head(f: Face, pen: Pen) -> None:
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


def draw_beard(f: Face, pen: Pen) -> None:
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


def draw_eyes(f: Face, pen: Pen) -> None:
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


def draw_brows(f: Face, pen: Pen) -> None:
    rng = f.rng
    if rng.random() < 0.12:
        return
    lift, slope, thick = max(f.eye_rx, f.eye_ry) + rng.uniform(0.07, 0.15), rng.uniform(-0.35, 0.35), rng.uniform(4.5, 9.5)
    level = 1 if rng.random() < 0.8 else -1
    for side in (-1, 1):
        shape = arc(0, rng.uniform(0.15, 0.22), -0.08) * np.exp(1j * slope * (side if level == 1 else 1))
        pen.line(f.on(side * f.eye_gap + 1j * (f.eye_y - lift) + shape), dark(f.hair, 0.35), thick)


def draw_nose(f: Face, pen: Pen) -> None:
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


def draw_mouth(f: Face, pen: Pen) -> None:
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


def draw_front_hair(f: Face, pen: Pen) -> None:
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
        shapes += draw_crest(f, f.top)
    if not shapes:
        return
    pen.fill(*shapes, colour=f.hair)
    if f.cap and not f.covered:
        shine = f.skull(np.linspace(-1.9, -1.3, 9) - 0.45 * f.light, volume - 0.2)
        pen.line(shine, light(f.hair, 0.28), 8)


def draw_crest(f: Face, kind: str) -> list[np.ndarray]:
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
    draw_back_hair(f, pen)
    draw_body(f, Pen(draw, neck - 0.9j * scale, scale), pen)
    for feature in (draw_ears, draw_head, draw_beard, draw_front_hair, draw_eyes, draw_brows, draw_nose, draw_mouth):
        feature(f, pen)
    draw_glasses(f, pen)
    draw_hat(f, pen)
    return np.array(image.reduce(CANVAS // SIZE))


def toon_faces(count: int, seed: int) -> np.ndarray:
    """The first pictures of the set `seed`: an array (count, 3, 64, 64) of uint8, RGB. ValueError if a number is negative."""
    faces = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    for index in range(count):
        faces[index] = draw_face(seed, index).transpose(2, 0, 1)
    return faces


def reduced(faces: np.ndarray, size: int) -> np.ndarray:
    """Faces (N, C, S, S) as uint8 (N, C, size, size): each pixel the mean of a square, rounded. S is a multiple of size."""
    times = faces.shape[-1] // size
    squares = faces.reshape(*faces.shape[:2], size, times, size, times)
    return (squares.mean(axis=(3, 5), dtype=np.float32) + 0.5).astype(np.uint8)
