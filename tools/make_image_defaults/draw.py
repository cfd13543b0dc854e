"""Draws the pictures of the synthetic ImageNet: the same Pillow version gives the same file for the same number.

Each painter draws one kind of object with random colours, positions and proportions. None of them aims at a class: the
label of a picture is the FP32 classifier's answer (see make.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SEED = 20120
_SCALE = 2  # draw at twice the size, because Pillow does not smooth edges
_SIZES = ((320, 240), (240, 320), (280, 280), (400, 300), (300, 400), (360, 240), (240, 360), (224, 224), (200, 150))
_RARE_SIZES = ((150, 200), (128, 128), (560, 360), (360, 560), (640, 480), (480, 200), (180, 420), (257, 255))
Colour = tuple[int, int, int]


class Sheet:
    """A picture in progress, and its random numbers."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng = rng
        self.width, self.height = size[0] * _SCALE, size[1] * _SCALE
        self.short = min(self.width, self.height)
        self.image = Image.new("RGB", (self.width, self.height))
        self.pen = ImageDraw.Draw(self.image)

    def between(self, low: float, high: float) -> float:
        """A random number in this range."""
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A random integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def colour(self, low: int = 0, high: int = 255) -> Colour:
        """A random colour, sometimes grey."""
        values = self.rng.integers(low, high + 1, 3)
        return tuple(int(v) for v in (values[:1].repeat(3) if self.rng.random() < 0.25 else values))

    def centre(self) -> tuple[float, float]:
        """A random position near the middle."""
        return self.width * self.between(0.4, 0.6), self.height * self.between(0.4, 0.6)

    def paste(self, values: np.ndarray) -> None:
        """Replace the picture with float (height, width, 3), 0 to 255."""
        self.image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
        self.pen = ImageDraw.Draw(self.image)

    def array(self) -> np.ndarray:
        """The picture as float32 (height, width, 3)."""
        return np.asarray(self.image, np.float32)

    def noise(self, cells: int) -> np.ndarray:
        """Smooth float32 (height, width, 1) in 0 to 1, about this many cells along the short side."""
        rows, columns = (max(2, round(cells * side / self.short)) for side in (self.height, self.width))
        values = Image.fromarray(self.rng.random((rows, columns), np.float32))
        return np.asarray(values.resize((self.width, self.height), Image.Resampling.BICUBIC))[..., None]

    def shade(self, x: float, y: float, radius: float) -> None:
        """Shade a ball at this position with light from the upper left."""
        rows, columns = np.ogrid[: self.height, : self.width]
        light = np.hypot(columns - x + radius / 3, rows - y + radius / 3)[..., None] / radius
        inside = (np.hypot(columns - x, rows - y) <= radius)[..., None]
        values = self.array()
        self.paste(np.where(inside, values * (1.25 - 0.6 * light) + 90 * np.clip(0.4 - light, 0, 1), values))

    def disc(self, x: float, y: float, radius: float, fill: Colour, flat: float = 1.0) -> None:
        """A filled circle, or an ellipse with ``flat`` as height ÷ width."""
        self.pen.ellipse((x - radius, y - radius * flat, x + radius, y + radius * flat), fill)

    def ray(self, x: float, y: float, angle: float, length: float) -> tuple[float, float]:
        """The position at this angle and distance."""
        return x + length * cos(angle), y + length * sin(angle)


def background(s: Sheet) -> None:
    """Plain, a gradient, a vignette, or clouds of two colours."""
    first, second = np.array(s.colour(), np.float32), np.array(s.colour(), np.float32)
    rows, columns = np.mgrid[0 : 1 : s.height * 1j, 0 : 1 : s.width * 1j]
    kind = s.count(0, 3)
    if kind == 0:
        share = np.zeros((s.height, s.width, 1))
    elif kind == 1:
        angle = s.between(0, 2 * pi)
        share = (0.5 + (rows - 0.5) * sin(angle) / 1.5 + (columns - 0.5) * cos(angle) / 1.5)[..., None]
    elif kind == 2:
        share = np.hypot(rows - 0.5, columns - 0.5)[..., None] * s.between(0.8, 1.4)
    else:
        share = s.noise(s.count(2, 12)) * 0.7 + s.noise(40) * 0.3
    s.paste(first * (1 - share) + second * share)


def stripes(s: Sheet) -> None:
    """Straight or wavy bands at any angle."""
    rows, columns = np.mgrid[: s.height, : s.width] / s.short
    angle, waves = s.between(0, pi), s.between(3, 30)
    bend = s.noise(s.count(2, 5))[..., 0] * s.between(0, 0.4) * s.count(0, 1)
    phase = (rows * sin(angle) + columns * cos(angle) + bend) * waves * 2 * pi
    share = np.clip(0.5 + np.sin(phase) * s.rng.choice([0.5, 1.5, 6]), 0, 1)[..., None]
    s.paste(np.array(s.colour()) * share + np.array(s.colour()) * (1 - share))


def texture(s: Sheet) -> None:
    """Noise of several scales between three colours."""
    cells, share = s.count(3, 20), np.zeros((s.height, s.width, 1), np.float32)
    for octave in range(4):
        share += s.noise(cells * 2**octave) / 2**octave / 1.9
    colours = [np.array(s.colour(), np.float32) for _ in range(3)]
    share = np.clip((share - 0.5) * s.between(1, 5) + 0.5, 0, 1)
    low, high = np.clip(share * 2, 0, 1), np.clip(share * 2 - 1, 0, 1)
    s.paste(colours[0] * (1 - low) + colours[1] * (low - high) + colours[2] * high)


def cells(s: Sheet) -> None:
    """A grid of boxes, discs or hexagons, with gaps, in few colours."""
    background(s)
    kind, step = s.count(0, 3), s.short / s.between(3, 16)
    gap, colours = step * s.between(0.02, 0.35), [s.colour() for _ in range(s.count(1, 4))]
    flat = s.between(0.4, 1) if kind == 0 else 1
    for row in range(int(s.height / step / flat) + 2):
        for column in range(-1, int(s.width / step) + 2):
            x, y = (column + (row % 2) / 2 * (kind > 1)) * step, row * step * flat * (0.87 if kind == 3 else 1)
            fill = colours[int(s.rng.integers(len(colours)))]
            if kind == 1:
                s.disc(x + step / 2, y + step / 2, (step - gap) / 2, fill)
            elif kind == 3:
                s.pen.regular_polygon((x, y, (step - gap) * 0.57), 6, 30, fill)
            else:
                s.pen.rectangle((x, y, x + step - gap, y + step * flat - gap), fill)


def balls(s: Sheet) -> None:
    """One or more shaded balls, perhaps spotted."""
    background(s)
    number = s.rng.choice([1, 1, 1, 2, 3, 7])
    for _ in range(number):
        x, y = s.centre() if number == 1 else (s.width * s.between(0.1, 0.9), s.height * s.between(0.1, 0.9))
        radius = s.short * s.between(0.2, 0.42) / number**0.4
        s.disc(x + radius * 0.2, y + radius * 0.9, radius, (40, 40, 40), 0.25)
        s.disc(x, y, radius, s.colour())
        spots, fill = s.count(0, 12) * s.count(0, 1), s.colour()
        for _ in range(spots):
            place = s.ray(x, y, s.between(0, 2 * pi), radius * s.between(0, 0.8))
            s.disc(*place, radius * 0.13, fill)
        s.shade(x, y, radius)


def dial(s: Sheet) -> None:
    """A round face with ticks, hands and a rim."""
    background(s)
    (x, y), radius = s.centre(), s.short * s.between(0.3, 0.45)
    s.disc(x, y, radius * 1.12, s.colour(0, 120))
    s.disc(x, y, radius, s.colour(170))
    ticks, ink = int(s.rng.choice([8, 12, 24, 60])), s.colour(0, 80)
    for tick in range(ticks):
        angle = tick * 2 * pi / ticks
        s.pen.line((s.ray(x, y, angle, radius * 0.8), s.ray(x, y, angle, radius * 0.93)), ink, s.count(3, 9))
    for length in s.rng.uniform(0.4, 0.8, s.count(1, 3)):
        s.pen.line(((x, y), s.ray(x, y, s.between(0, 2 * pi), radius * length)), ink, s.count(4, 16))
    s.disc(x, y, radius * 0.06, ink)


def landscape(s: Sheet) -> None:
    """A sky, perhaps a sun, and ridges or water below."""
    top, low = np.array(s.colour(40)), np.array(s.colour(120))
    share = np.linspace(0, 1, s.height)[:, None, None]
    s.paste((top * (1 - share) + low * share + np.zeros((1, s.width, 1))) + s.noise(6) * s.between(0, 60))
    if s.count(0, 1):
        s.disc(s.width * s.between(0.2, 0.8), s.height * s.between(0.1, 0.5), s.short * 0.08, (255, 245, 200))
    horizon, steps = s.height * s.between(0.35, 0.7), 64
    for ridge in range(s.count(1, 4)):
        rough = s.between(0, 0.25) * s.short / (ridge + 1)
        knots = s.count(3, 16)
        line = np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, knots), s.rng.random(knots)) * rough
        points = [(s.width * i / (steps - 1), horizon - line[i]) for i in range(steps)]
        s.pen.polygon([*points, (s.width, s.height), (0, s.height)], s.colour(0, 200))
        horizon += s.height * s.between(0.08, 0.25)
    if s.count(0, 1):
        values = s.array()
        values[int(horizon * 0.9) :] += (s.noise(30)[int(horizon * 0.9) :] - 0.5) * 90
        s.paste(values)


def page(s: Sheet) -> None:
    """Lines of strokes like writing, with headings and boxes."""
    s.paste(np.full((s.height, s.width, 3), s.colour(200 if s.count(0, 2) else 0)))
    ink, y, line = s.colour(0, 90), s.height * 0.06, s.short / s.between(10, 40)
    while y < s.height * 0.95:
        if s.rng.random() < 0.08:
            bottom = y + line * s.count(3, 8)
            s.pen.rectangle((s.width * 0.08, y, s.width * s.between(0.3, 0.9), bottom), s.colour())
            y = bottom + line
        x, tall = s.width * 0.08, line * (1.6 if s.rng.random() < 0.1 else 0.65)
        while x < s.width * s.between(0.6, 0.97):
            for _ in range(s.count(2, 9)):
                corners = s.rng.uniform(0, tall * 0.7, 4)
                s.pen.line((x + corners[0], y + corners[1], x + corners[2], y + corners[3] + tall / 4), ink, 2)
                s.pen.line((x, y, x, y + tall), ink, 2)
                x += tall * 0.75
            x += tall * 0.6
        y += line * 1.5


def wheel(s: Sheet) -> None:
    """Sectors, petals or spokes around a centre."""
    background(s)
    (x, y), radius, parts = s.centre(), s.short * s.between(0.25, 0.5), s.count(4, 24)
    colours, kind, start = [s.colour() for _ in range(s.count(1, 3))], s.count(0, 3), s.between(0, pi)
    for part in range(parts):
        angle, fill = start + part * 2 * pi / parts, colours[part % len(colours)]
        if kind == 0:
            box = (x - radius, y - radius, x + radius, y + radius)
            s.pen.pieslice(box, np.degrees(angle), np.degrees(angle + 2 * pi / parts), fill)
        elif kind == 1:
            s.disc(*s.ray(x, y, angle, radius * 0.6), radius * s.between(1.8, 2.2) / parts, fill)
            s.pen.line(((x, y), s.ray(x, y, angle, radius * 0.6)), fill, int(radius * 2 / parts))
        elif kind == 2:
            s.pen.line(((x, y), s.ray(x, y, angle, radius)), fill, s.count(2, 10))
        else:
            inner = [s.ray(x, y, angle + side * pi / parts, radius * 0.4) for side in (-1, 1)]
            s.pen.polygon([inner[0], s.ray(x, y, angle, radius), inner[1]], fill)
    rings = s.count(0, 5)
    for ring in range(rings if kind == 2 else 0):
        size = radius * (ring + 1) / rings
        points = [s.ray(x, y, start + part * 2 * pi / parts, size) for part in range(parts + 1)]
        s.pen.line(points, colours[0], s.count(2, 6))
    s.disc(x, y, radius * s.between(0.05, 0.35), s.colour())


def rings(s: Sheet) -> None:
    """Concentric circles or ellipses, or a coil."""
    background(s)
    (x, y), radius, parts = s.centre(), s.short * s.between(0.3, 0.6), s.count(2, 14)
    flat, colours = s.rng.choice([1, 1, 0.5, 0.3]), [s.colour() for _ in range(s.count(2, 3))]
    if s.count(0, 2):
        for part in range(parts):
            s.disc(x, y, radius * (1 - part / parts), colours[part % len(colours)], flat)
    else:
        turns = np.linspace(0, parts, 40 * parts)
        points = [s.ray(x, y, turn * 2 * pi, radius * turn / parts) for turn in turns]
        s.pen.line(points, colours[0], int(radius / parts * s.between(0.2, 0.8)), "curve")


def vessel(s: Sheet) -> None:
    """An object turned on a lathe: bottle, vase, cup, lamp, mushroom, tower."""
    background(s)
    s.pen.rectangle((0, s.height * 0.8, s.width, s.height), s.colour())
    middle, top = s.width * s.between(0.4, 0.6), s.height * s.between(0.05, 0.3)
    bottom = s.height * s.between(0.8, 0.95)
    knots, heights = s.count(3, 7), np.linspace(0, 1, 100)
    widths = s.rng.uniform(0.05, 0.4, knots) * s.short * s.between(0.5, 1)
    position = np.linspace(0, 1, knots)
    if s.count(0, 1):
        outline = np.interp(heights, position, widths)
    else:
        outline = widths[np.minimum((heights * knots).astype(int), knots - 1)]
    fill, other = s.colour(), s.colour()
    bands = s.count(0, 1) * s.count(1, 6)
    for height, half in zip(heights, outline, strict=True):
        y = top + (bottom - top) * height
        colour = other if bands and int(height * bands * 2) % 2 else fill
        s.pen.rectangle((middle - half, y, middle + half, y + (bottom - top) / 90), colour)
    if s.count(0, 1):
        side = middle + outline[40] * s.rng.choice([-1, 1])
        box = (side - s.short * 0.12, top + s.short * 0.2, side + s.short * 0.12, top + s.short * 0.5)
        s.pen.ellipse(box, None, fill, s.count(8, 24))
    columns = (np.arange(s.width) - middle)[None, :, None] / (outline.max() + 1)
    inside = np.abs(columns) <= 1
    values = s.array()
    s.paste(np.where(inside, values * (1.1 - 0.45 * np.abs(columns + 0.3)), values))


def body(s: Sheet) -> None:
    """A rounded body with limbs, head, eyes and a pattern."""
    background(s)
    (x, y), radius = s.centre(), s.short * s.between(0.18, 0.35)
    fill, other, flat = s.colour(), s.colour(), s.between(0.3, 1)
    for limb in range(s.count(0, 5) * 2):
        side = -1 if limb % 2 else 1
        joint = s.ray(x, y, pi / 2 - side * s.between(0.2, 2.6), radius * s.between(1, 1.5))
        foot = s.ray(*joint, s.between(0, pi), radius * s.between(0.2, 0.8))
        s.pen.line(((x, y), joint, foot), fill if s.count(0, 1) else other, s.count(3, 30), "curve")
    s.disc(x, y, radius * 1.2, fill, flat)
    for _ in range(s.count(0, 25) * s.count(0, 1)):
        place = s.ray(x, y, s.between(0, 2 * pi), radius * flat * s.between(0, 0.9))
        s.disc(*place, radius * s.between(0.05, 0.2), other)
    head = s.ray(x, y, s.between(0, 2 * pi), radius * 1.2)
    size = radius * s.between(0.3, 0.7)
    s.disc(*head, size, fill)
    for side in (-1, 1):
        s.disc(head[0] + side * size * 0.4, head[1] - size * 0.2, size * 0.2, (250, 250, 250))
        s.disc(head[0] + side * size * 0.4, head[1] - size * 0.2, size * 0.1, (0, 0, 0))
        ear = [(head[0] + side * size * k, head[1] - size * r) for k, r in ((0.3, 0.8), (0.9, 0.5), (0.8, 1.5))]
        s.pen.polygon(ear, fill if s.count(0, 1) else other)


def curtain(s: Sheet) -> None:
    """Folds of cloth."""
    columns = np.linspace(0, 1, s.width)[None, :, None]
    bend = s.noise(3) * s.between(0, 0.15)
    folds = np.sin((columns + bend) * s.between(6, 40) * pi) * 0.5 + 0.5
    s.paste(np.array(s.colour()) * (0.35 + 0.65 * folds) + s.noise(60) * s.between(0, 40))


def fence(s: Sheet) -> None:
    """Crossing lines over a background: mesh, net, maze, bars."""
    background(s)
    step, ink, width, kind = s.short / s.between(4, 18), s.colour(), s.count(2, 14), s.count(0, 2)
    if kind == 2:
        width = int(step / 3)
        for row in range(int(s.height / step) + 1):
            for column in range(int(s.width / step) + 1):
                x, y = column * step, row * step
                s.pen.line((x, y, x + step, y) if s.count(0, 1) else (x, y, x, y + step), ink, width)
        return
    reach = s.width + s.height
    for offset in np.arange(-reach, reach, step):
        for lean in (-1, 1):
            if kind == 0:
                s.pen.line((offset, 0, offset + lean * s.height, s.height), ink, width)
            elif lean == 1 or offset % (step * 3) < step:
                box = (offset, 0, offset, s.height) if lean == 1 else (0, offset, s.width, offset)
                s.pen.line(box, ink, width)


def device(s: Sheet) -> None:
    """A box with a screen and knobs or keys."""
    background(s)
    left, top = s.width * s.between(0.05, 0.3), s.height * s.between(0.05, 0.3)
    right, bottom = s.width - left, s.height - top
    s.pen.rounded_rectangle((left, top, right, bottom), s.short * s.between(0, 0.1), s.colour())
    wide, high = right - left, bottom - top
    split = top + high * s.between(0.2, 0.85)
    s.pen.rectangle((left + wide * 0.08, top + high * 0.06, right - wide * 0.08, split), s.colour())
    if split < top + high * 0.75:
        columns, rows, fill = s.count(1, 12), s.count(1, 5), s.colour()
        for row in range(rows):
            for column in range(columns):
                x = left + wide * (0.1 + 0.8 * (column + 0.5) / columns)
                y = split + (bottom - split) * (0.1 + 0.8 * (row + 0.5) / rows)
                size = min(wide * 0.33 / columns, (bottom - split) * 0.33 / rows)
                if rows % 2:
                    s.disc(x, y, size, fill)
                else:
                    s.pen.rectangle((x - size, y - size, x + size, y + size), fill)
    if s.count(0, 1):
        s.pen.line((left + wide / 2, bottom, left + wide / 2, s.height), s.colour(), s.count(8, 50))


def sign(s: Sheet) -> None:
    """A polygon with a rim and a mark, perhaps on a pole."""
    background(s)
    (x, y), radius, sides = s.centre(), s.short * s.between(0.2, 0.4), int(s.rng.choice([3, 4, 4, 6, 8, 30]))
    if s.count(0, 1):
        s.pen.rectangle((x - radius * 0.08, y, x + radius * 0.08, s.height), s.colour(60, 180))
    turn = s.count(0, 3) * 15
    s.pen.regular_polygon((x, y, radius), sides, turn, s.colour())
    s.pen.regular_polygon((x, y, radius * 0.88), sides, turn, s.colour())
    ink = s.colour()
    for _ in range(s.count(0, 5)):
        a, b = s.rng.uniform(-0.4, 0.4, 2) * radius
        c, d = s.rng.uniform(0.1, 0.3, 2) * radius
        s.pen.rectangle((x + a - c, y + b - d, x + a + c, y + b + d), ink)


def glow(s: Sheet) -> None:
    """Lights in the dark, some with long threads below."""
    s.paste(np.zeros((s.height, s.width, 3)) + np.array(s.colour(0, 60)))
    for _ in range(s.count(1, 5)):
        x, y = s.width * s.between(0.2, 0.8), s.height * s.between(0.15, 0.6)
        rows, columns = np.ogrid[: s.height, : s.width]
        reach = s.short * s.between(0.05, 0.3)
        spread = np.hypot((columns - x) / s.between(0.6, 1.6), rows - y)[..., None] / reach
        s.paste(s.array() + np.array(s.colour(80)) * np.exp(-(spread**2)))
        fill = s.colour(60)
        for _ in range(s.count(0, 14) * s.count(0, 1)):
            points, start = [], s.between(-0.5, 0.5) * reach
            wave, phase = s.between(0, 0.2) * reach, s.between(0, 6)
            for step in range(20):
                points.append((x + start + wave * sin(step * 0.8 + phase), y + step * reach * 0.14))
            s.pen.line(points, fill, s.count(2, 5), "curve")


def strands(s: Sheet) -> None:
    """Curved strands: grass, hair, worms, cables."""
    background(s)
    number, width = int(s.rng.choice([1, 3, 20, 200])), s.count(3, 12)
    width = width * 4 if number <= 3 else width
    colours = [s.colour() for _ in range(s.count(1, 4))]
    for strand in range(number):
        x, y = s.width * s.between(0, 1), s.height * s.between(0, 1)
        angle, turn = s.between(0, 2 * pi), s.rng.normal(0, 0.15, 24).cumsum()
        points = [(x, y)]
        for step in range(24):
            points.append(s.ray(*points[-1], angle + turn[step], s.short * 0.03))
        s.pen.line(points, colours[strand % len(colours)], width, "curve")


def blocks(s: Sheet) -> None:
    """Buildings or books: tall boxes side by side with rows of windows or bands."""
    background(s)
    x, ground = 0.0, s.height * s.between(0.75, 1)
    windows = s.count(0, 2)
    while x < s.width:
        wide, top = s.width * s.between(0.05, 0.35), s.height * s.between(0.05, 0.6)
        s.pen.rectangle((x, top, x + wide, ground), s.colour())
        fill, step = s.colour(), s.short * s.between(0.04, 0.1)
        for row in np.arange(top + step / 2, ground - step, step) if windows else ():
            for column in np.arange(x + step / 2, x + wide - step, step) if windows == 1 else (x,):
                reach = step * 0.5 if windows == 1 else wide
                s.pen.rectangle((column, row, column + reach, row + step * 0.4), fill)
        x += wide * s.between(1, 1.2)


PAINTERS: tuple[Callable[[Sheet], None], ...] = (
    stripes,
    texture,
    cells,
    balls,
    dial,
    landscape,
    page,
    wheel,
    rings,
    vessel,
    body,
    curtain,
    fence,
    device,
    sign,
    glow,
    strands,
    blocks,
)


def drawing(number: int) -> bytes:
    """The JPEG file with this number; of 29, one is grey, one CMYK and one progressive, as in ImageNet."""
    rng = np.random.default_rng((SEED, number))
    sizes = _RARE_SIZES if rng.random() < 0.3 else _SIZES
    size = sizes[int(rng.integers(len(sizes)))]
    sheet = Sheet(rng, size)
    PAINTERS[number % len(PAINTERS)](sheet)
    image = sheet.image.resize(size, Image.Resampling.BOX)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2))))
    kind = number % 29  # shares no factor with the number of painters
    if kind == 7:
        image = image.convert("L")
    elif kind == 17:
        image = image.convert("CMYK")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(60, 86)), progressive=kind == 27, comment=f"drawing {number}")
    return file.getvalue()
