"""Scene -> picture. Shapes are masks computed once, so that a picture takes well under a millisecond."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image

from tiny.drawn.glyphs import glyph
from tiny.drawn.scenes import CELL, COLOURS, SIZES, Scene, Thing

LIGHT = ("yellow", "white", "orange")  # plates that carry black print


@functools.cache
def mask(shape: str, pixels: int) -> np.ndarray:
    """Coverage 0..1 of the shape in a square of that many pixels, 6 x 6 samples a pixel."""
    fine = pixels * 6
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    u, v = np.meshgrid(axis, axis)
    radius = np.hypot(u, v)
    if shape == "circle":
        inside = radius <= 1
    elif shape == "square":
        inside = np.ones_like(u, bool)
    elif shape == "triangle":
        inside = np.abs(u) <= (v + 1) / 2
    elif shape == "cross":
        inside = (np.abs(u) < 0.3) | (np.abs(v) < 0.3)
    elif shape == "ring":
        inside = (radius <= 1) & (radius >= 0.5)
    elif shape == "heart":
        lobes = np.hypot(np.abs(u) - 0.5, v + 0.45) <= 0.52
        inside = lobes | ((v >= -0.45) & (np.abs(u) <= (1 - v) * 0.7))
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return np.asarray(inside.reshape(pixels, 6, pixels, 6).mean((1, 3)), np.float32)


def background(kind: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """The ground of a picture, float32 [height, width, 3] from 0 to 255."""
    base = rng.integers(105, 185) + rng.integers(-18, 19, 3)
    y, x = np.mgrid[:height, :width]
    if kind == "striped":
        angle = rng.random() * math.pi
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / rng.integers(5, 9))) * 20
    elif kind == "dotted":
        wave = ((x % 5 < 2) & (y % 5 < 2)) * 36.0 - 8
    else:
        wave = np.zeros((height, width))
    noise = rng.normal(0, 5, (height, width))
    return np.asarray(base + (wave + noise)[..., None], np.float32)


def _ink(canvas: np.ndarray, x: int, y: int, coverage: np.ndarray, colour: np.ndarray) -> None:
    part = canvas[y : y + coverage.shape[0], x : x + coverage.shape[1]]
    part += coverage[..., None] * (colour - part)


def paint(things: tuple[Thing, ...], canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draws shapes onto a canvas [height, width, 3], each in a shade of its colour."""
    for thing in things:
        shade = np.array(COLOURS[thing.colour], np.float32) + rng.integers(-10, 11, 3)
        _ink(canvas, thing.box[0], thing.box[1], mask(thing.shape, SIZES[thing.size]), shade)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, the same for the same scene."""
    rng = np.random.default_rng(scene.seed)
    canvas = background(scene.background, *scene.size, rng)
    for sign in scene.signs:
        x, y, right, bottom = sign.box
        canvas[y + 1 : bottom - 1, x:right] = np.array(COLOURS[sign.colour], np.float32) + rng.integers(-8, 9, 3)
        print_colour = np.full(3, 15 if sign.colour in LIGHT else 245, np.float32)
        for place, character in enumerate(sign.text):
            _ink(canvas, x + 8 * place + 1, y + sign.line * CELL // 2 + (1 - sign.line), glyph(character), print_colour)
    paint(scene.things, canvas, rng)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
