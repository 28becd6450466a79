"""What stands in a picture, as plain data. Everything stands on cells of 16 x 16 pixels (2 x 2 patches of 8)."""

from __future__ import annotations

import random
from dataclasses import dataclass

CELL = 16
LONG = 6  # cells along the longer side: 96 pixels

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 215),
    "purple": (140, 50, 170),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart")
SIZES = {"big": 14, "small": 7}
BACKGROUNDS = ("plain", "striped", "dotted")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"

TEST = 1_000_000_000  # no stage of training uses the seeds from TEST to TEST + 999,999,999

# (columns, rows): squares, landscapes and portraits up to 1:3; each is padded by whole patches
FORMATS = ((6, 6), (6, 6), (6, 5), (6, 4), (6, 3), (6, 2), (5, 6), (4, 6), (3, 6), (2, 6))


@dataclass(frozen=True)
class Thing:
    """One coloured shape in one cell; dx, dy place it inside the cell."""

    shape: str
    colour: str
    size: str
    col: int
    row: int
    dx: int
    dy: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels."""
        x, y = self.col * CELL + self.dx, self.row * CELL + self.dy
        return x, y, x + SIZES[self.size], y + SIZES[self.size]


@dataclass(frozen=True)
class Sign:
    """A coloured plate two cells wide with up to four printed characters on its upper or lower line."""

    text: str
    colour: str
    col: int
    row: int
    line: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels."""
        x, y = self.col * CELL, self.row * CELL
        return x, y, x + 2 * CELL, y + CELL


@dataclass(frozen=True)
class Scene:
    """A grid of cells, what stands in them, and the ground behind it."""

    seed: int
    cols: int
    rows: int
    things: tuple[Thing, ...]
    signs: tuple[Sign, ...]
    background: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.cols * CELL, self.rows * CELL


def offset(size: str, rng: random.Random) -> tuple[int, int]:
    """A big shape fills its cell; a small one fills one of the four patches."""
    if size == "big":
        return rng.randrange(3), rng.randrange(3)
    return 8 * rng.randrange(2) + rng.randrange(2), 8 * rng.randrange(2) + rng.randrange(2)


def _sign_text(rng: random.Random) -> str:
    if rng.random() < 0.35:
        return str(rng.randrange(10, 100))
    return "".join(rng.choice(LETTERS) for _ in range(rng.choice((2, 3, 3, 4))))


def scene(
    seed: int,
    form: tuple[int, int] | None = None,
    things: tuple[int, int] = (3, 9),
    signs: tuple[int, int] = (0, 2),
    background: str | None = None,
) -> Scene:
    """A random scene; `form` fixes (columns, rows), `things` and `signs` are inclusive ranges of how many."""
    rng = random.Random(f"scene {seed}")
    cols, rows = form or rng.choice(FORMATS)
    free = {(c, r) for c in range(cols) for r in range(rows)}
    placed_signs = []
    colours = rng.sample(list(COLOURS), len(COLOURS))
    for _ in range(rng.randint(*signs)):
        spots = sorted((c, r) for c, r in free if (c + 1, r) in free)
        if not spots or len(free) < 6:
            break
        col, row = rng.choice(spots)
        free -= {(col, row), (col + 1, row)}
        placed_signs.append(Sign(_sign_text(rng), colours.pop(), col, row, rng.randrange(2)))
    placed: list[Thing] = []
    # few palettes and few shapes in some scenes, so that counts and shared attributes occur
    palette = rng.sample(list(COLOURS), rng.choice((2, 3, 4, 8)))
    forms = rng.sample(SHAPES, rng.choice((2, 3, 6)))
    low, high = things
    for _ in range(min(rng.randint(low, high), len(free))):
        near = sorted(
            (t.col + dc, t.row + dr)
            for t in placed
            for dc, dr in ((1, 0), (-1, 0), (0, 1), (0, -1))
            if (t.col + dc, t.row + dr) in free
        )
        # half of the shapes get a direct neighbour: relations need them
        spot = rng.choice(near) if near and rng.random() < 0.5 else rng.choice(sorted(free))
        free.discard(spot)
        size = rng.choice(list(SIZES))
        dx, dy = offset(size, rng)
        placed.append(Thing(rng.choice(forms), rng.choice(palette), size, *spot, dx, dy))
    return Scene(seed, cols, rows, tuple(placed), tuple(placed_signs), background or rng.choice(BACKGROUNDS))
