"""Short clips: shapes that move, turn, blink or stay on a small field, and questions about them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tiny.drawn.drawing import background, paint
from tiny.drawn.questions import Box, Question
from tiny.drawn.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, SIZES, Thing

FRAMES = 8
FIELD = 3  # cells along each side: 48 pixels
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ACTS = ("move", "turn", "blink", "stay")


@dataclass(frozen=True)
class Actor:
    """One shape; `places` holds its cell in every frame, None where it is hidden."""

    shape: str
    colour: str
    act: str
    places: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Clip:
    """What moves in a clip, and the ground behind it."""

    seed: int
    actors: tuple[Actor, ...]
    background: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return FIELD * CELL, FIELD * CELL


def _line(start: tuple[int, int], move: str, steps: int) -> list[tuple[int, int]]:
    dx, dy = MOVES[move]
    return [(start[0] + dx * k, start[1] + dy * k) for k in range(steps + 1)]


def _path(act: str, frames: int, rng: random.Random) -> list[tuple[int, int] | None]:
    """Cells frame by frame. A move crosses the field once; a turn goes along two edges."""
    last = FIELD - 1
    if act in ("stay", "blink"):
        place = (rng.randrange(FIELD), rng.randrange(FIELD))
        shown = [True] * frames
        if act == "blink":
            # hidden for one frame each, never twice in a row, never first or last
            times = rng.randint(1, min(3, (frames - 1) // 2))
            spots = sorted(rng.sample(range((frames - 1) // 2), times))
            for spot in spots:
                shown[1 + 2 * spot] = False
        return [place if visible else None for visible in shown]
    horizontal = rng.random() < 0.5
    first = rng.choice(("left", "right") if horizontal else ("up", "down"))
    second = rng.choice(("up", "down") if horizontal else ("left", "right"))
    if act == "move":
        lane = rng.randrange(FIELD)
        start = (0 if first == "right" else last, lane) if horizontal else (lane, 0 if first == "down" else last)
        cells = _line(start, first, last)
    else:
        start = (
            0 if "right" in (first, second) else last,
            0 if "down" in (first, second) else last,
        )
        cells = _line(start, first, last)
        cells += _line(cells[-1], second, last)[1:]
    # every cell is held for an equal share of the frames
    return [cells[frame * len(cells) // frames] for frame in range(frames)]


def clip(seed: int, actors: int | None = None, frames: int = FRAMES) -> Clip:
    """A random clip of two or three actors with different shapes and acts that never meet in one cell."""
    rng = random.Random(f"clip {seed}")
    while True:
        count = actors or rng.choice((2, 2, 3))
        acts = rng.sample(ACTS, count)
        cast = tuple(
            Actor(shape, colour, act, tuple(_path(act, frames, rng)))
            for shape, colour, act in zip(
                rng.sample(SHAPES, count), rng.sample(list(COLOURS), count), acts, strict=True
            )
        )
        occupied = [[actor.places[f] for actor in cast if actor.places[f]] for f in range(frames)]
        if all(len(set(cells)) == len(cells) for cells in occupied) and not _blinker_crossed(cast):
            return Clip(seed, cast, rng.choice(BACKGROUNDS))


def _blinker_crossed(cast: tuple[Actor, ...]) -> bool:
    """A hidden blinker still owns its cell: nothing may pass through it."""
    for actor in cast:
        if actor.act == "blink":
            home = next(place for place in actor.places if place)
            if any(home in other.places for other in cast if other is not actor):
                return True
    return False


def draw_clip(clip: Clip) -> list[Image.Image]:
    """A picture of each frame, the same for the same clip."""
    rng = np.random.default_rng(clip.seed)
    empty = background(clip.background, *clip.size, rng)
    pictures = []
    for frame in range(len(clip.actors[0].places)):
        canvas = empty.copy()
        for number, actor in enumerate(clip.actors):
            if place := actor.places[frame]:
                shape = Thing(actor.shape, actor.colour, "big", place[0], place[1], 1, 1)
                paint((shape,), canvas, np.random.default_rng([clip.seed, number]))
        pictures.append(Image.fromarray(canvas.clip(0, 255).astype(np.uint8)))
    return pictures


def _boxes(actor: Actor) -> tuple[Box, ...]:
    side = SIZES["big"]
    cells = dict.fromkeys(place for place in actor.places if place)
    return tuple((c * CELL + 1, r * CELL + 1, c * CELL + 1 + side, r * CELL + 1 + side) for c, r in cells)


def _motions(actor: Actor) -> list[str]:
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(actor.places) if a and b and a != b]
    names = {vector: word for word, vector in MOVES.items()}
    return list(dict.fromkeys(names[step] for step in steps))


def _frame(clip: Clip, rng: random.Random) -> Question | None:
    actor = rng.choice(clip.actors)
    return Question("frame", f"What colour is the {actor.shape}?", actor.colour, _boxes(actor))


def _action(clip: Clip, rng: random.Random) -> Question | None:
    able = [actor for actor in clip.actors if actor.act != "turn"]
    if not able:
        return None
    actor = rng.choice(able)
    answer = f"move {_motions(actor)[0]}" if actor.act == "move" else actor.act
    return Question(
        "action", f"What does the {rng.choice((actor.shape, actor.colour + ' shape'))} do?", answer, _boxes(actor)
    )


def _times(clip: Clip, rng: random.Random) -> Question | None:
    for actor in clip.actors:
        if actor.act == "blink":
            count = sum(place is None for place in actor.places)
            return Question("times", f"How many times does the {actor.shape} blink?", str(count), _boxes(actor))
    return None


def _transition(clip: Clip, rng: random.Random) -> Question | None:
    for actor in clip.actors:
        if actor.act == "turn":
            first, second = _motions(actor)
            text = f"What does the {actor.shape} do after moving {first}?"
            return Question("transition", text, f"move {second}", _boxes(actor))
    return None


def _who(clip: Clip, rng: random.Random) -> Question | None:
    if any(actor.act == "turn" for actor in clip.actors):
        return None
    actor = rng.choice(clip.actors)
    return Question("who", f"Which shape {actor.act}s?", actor.shape, _boxes(actor))


CLIP_KINDS: dict[str, Callable[[Clip, random.Random], Question | None]] = {
    "frame": _frame,
    "action": _action,
    "times": _times,
    "transition": _transition,
    "who": _who,
}


def clip_questions(clip: Clip, seed: int, kinds: tuple[str, ...] | None = None) -> list[Question]:
    """At most one question of every kind that the clip allows."""
    rng = random.Random(f"clip questions {clip.seed} {seed}")
    asked = (CLIP_KINDS[kind](clip, rng) for kind in kinds or CLIP_KINDS)
    return [question for question in asked if question]
