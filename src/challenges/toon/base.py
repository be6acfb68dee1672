"""What the toon faces are drawn with: colours, shapes, the pen, and the face that the features share.

Shapes are arrays of complex numbers, x + 1j * y with y downwards, in "head units": the head's centre is 0 and its half
height 1.
"""

import colorsys

import numpy as np
from PIL import ImageColor, ImageDraw

CANVAS = 256  # pixels per side while drawing

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
            self._polygon(points + edge * outward, dark(colour))
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
