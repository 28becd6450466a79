"""What `smol` sees: the drawn world of the tiny models on a field twice as long, 192 pixels or 24 patches a side.

Shapes keep their size: a small one fills one patch, a big one four, so most of the 576 patches show nothing.
"""

from __future__ import annotations

import random

import numpy as np

from tiny.drawn.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, SIZES, Scene, scene

PATCH = 8
PATCHES = 24  # along each side of the padded picture
SIDE = PATCHES * PATCH
VISUAL = PATCHES**2
CELLS = SIDE // CELL

# (columns, rows): squares, landscapes and portraits up to 1:3; each is padded by whole patches
LANDSCAPES = ((12, 10), (12, 9), (12, 8), (12, 7), (12, 6), (12, 4))
FORMATS = ((12, 12), (12, 12), (12, 12), *LANDSCAPES, *((rows, columns) for columns, rows in LANDSCAPES))

KINDS = ("colour", "shape", "size", "exist", "where", "count")  # of questions

BORDER = "border"
GROUPS: dict[str, tuple[str, ...]] = {
    "size": ("", *SIZES),
    "colour": ("", *COLOURS),
    "shape": ("", *SHAPES),
    "head": ("", "one"),  # the upper left patch of a thing: things are counted by it
    "ground": ("", *BACKGROUNDS, BORDER),
    "row": tuple(f"row {k}" for k in range(PATCHES)),
    "column": tuple(f"column {k}" for k in range(PATCHES)),
}


def smol_scene(seed: int, things: tuple[int, int] = (2, 8)) -> Scene:
    """A scene of any aspect ratio, without printed signs; the same for the same seed."""
    form = random.Random(f"smol {seed}").choice(FORMATS)
    return scene(seed, form=form, things=things, signs=(0, 0))


def targets(seen: Scene) -> np.ndarray:
    """For each patch of the padded picture, row by row, its place in every group: int64 [576, groups]."""
    if max(seen.cols, seen.rows) != CELLS:
        raise ValueError(f"the longer side of scene {seen.seed} has {max(seen.cols, seen.rows)} cells, not {CELLS}")
    half = CELL // PATCH
    left, top = (PATCHES - seen.cols * half) // 2, (PATCHES - seen.rows * half) // 2
    ground = GROUPS["ground"].index
    grid = np.zeros((PATCHES, PATCHES, len(GROUPS)), np.int64)
    grid[..., 4] = ground(BORDER)
    grid[top : PATCHES - top, left : PATCHES - left, 4] = ground(seen.background)
    for thing in seen.things:
        x, y = thing.box[0] // PATCH + left, thing.box[1] // PATCH + top
        cover = 2 if SIZES[thing.size] > PATCH else 1
        named = [GROUPS[key].index(getattr(thing, key)) for key in ("size", "colour", "shape")]
        grid[y : y + cover, x : x + cover, :5] = [*named, 0, 0]
        grid[y, x, 3] = 1
    grid[..., 5], grid[..., 6] = np.mgrid[:PATCHES, :PATCHES]
    return grid.reshape(VISUAL, len(GROUPS))


def words(target: np.ndarray) -> list[str]:
    """What the language model would call a patch: the size, colour and shape of its thing, or its ground."""
    groups = list(GROUPS.values())
    named = [groups[k][target[k]] for k in range(3) if target[k]]
    return named or [groups[4][target[4]]]
