"""Is the answer right? Reads the words of the question and the plain data of the scene or clip, nothing else.

Shares no code with the generators: a mistake there shows here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

_VECTOR = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


# Scenes, clips and what is in them are read by their fields alone.
Place = tuple[int, int]
Cells = dict[Place, Any]


def _grid(scene: Any) -> Cells:
    cells: Cells = {}
    for thing in scene.things:
        if (thing.col, thing.row) in cells:
            raise ValueError(f"scene {scene.seed}: two things in cell {(thing.col, thing.row)}")
        if not (0 <= thing.col < scene.cols and 0 <= thing.row < scene.rows):
            raise ValueError(f"scene {scene.seed}: a thing outside the picture")
        cells[thing.col, thing.row] = thing
    for sign in scene.signs:
        if sign.col + 1 >= scene.cols or {(sign.col, sign.row), (sign.col + 1, sign.row)} & set(cells):
            raise ValueError(f"scene {scene.seed}: a sign covers a thing or leaves the picture")
    return cells


def _find(words: str, cells: Cells) -> list[Place]:
    """Cells of the things that the words fit; follows 'shape directly left of the ...' from the inside out."""
    inner = re.fullmatch(r"(?:the )?shape directly (left of|right of|above|below) (.+)", words)
    if inner:
        dx, dy = _VECTOR[inner[1]]
        moved = [(col + dx, row + dy) for col, row in _find(inner[2], cells)]
        return [place for place in moved if place in cells]
    wanted = [word for word in words.split() if word not in ("the", "shape", "shapes")]
    return [
        place
        for place, thing in cells.items()
        if all(word in (thing.size, thing.colour, thing.shape) for word in wanted)
    ]


def _one(words: str, cells: Cells) -> tuple[Place, Any]:
    places = _find(words, cells)
    if len(places) != 1:
        raise ValueError(f"{words!r} fits {len(places)} things")
    return places[0], cells[places[0]]


def _singular(plural: str) -> str:
    return "cross" if plural == "crosses" else plural.removesuffix("s")


def expected(scene: Any, text: str) -> str:
    """The answer to the question, read off the scene."""
    cells = _grid(scene)
    signs = {sign.colour: sign.text for sign in scene.signs}
    if match := re.fullmatch(r"Is there a (\w+) (\w+) in the image\?", text):
        return "yes" if any(t.colour == match[1] and t.shape == match[2] for t in cells.values()) else "no"
    if match := re.fullmatch(r"What colour is (.+)\?", text):
        if not _find(match[1], cells):
            return "unanswerable"
        return str(_one(match[1], cells)[1].colour)
    if match := re.fullmatch(r"What is written on the (\w+) sign\?", text):
        return str(signs[match[1]])
    if match := re.fullmatch(r"What is the (first|last) character on the (\w+) sign\?", text):
        return str(signs[match[2]])[0 if match[1] == "first" else -1]
    if match := re.fullmatch(r"Does the (\w+) sign say (\w+)\?", text):
        return "yes" if signs[match[1]] == match[2] else "no"
    if match := re.fullmatch(r"Is the background plain, striped or dotted\?", text):
        return str(scene.background)
    if match := re.fullmatch(r"Is the background (\w+)\?", text):
        return "yes" if scene.background == match[1] else "no"
    if match := re.fullmatch(r"Is (.+) big or small\?", text):
        return str(_one(match[1], cells)[1].size)
    if match := re.fullmatch(r"How many (\w+)( shapes)? are there\?", text):
        word = match[1] if match[2] else _singular(match[1])
        return str(sum(word in (t.colour, t.shape) for t in cells.values()))
    if match := re.fullmatch(r"Are there more (\w+) than (\w+)\?", text):
        first, second = (sum(t.shape == _singular(word) for t in cells.values()) for word in match.groups())
        return "yes" if first > second else "no"
    if match := re.fullmatch(r"Do (.+) and (.+) have the same colour\?", text):
        return "yes" if _one(match[1], cells)[1].colour == _one(match[2], cells)[1].colour else "no"
    if match := re.fullmatch(r"Is (.+) in the (left|upper) or the (?:right|lower) half of the image\?", text):
        (col, row), _ = _one(match[1], cells)
        if match[2] == "left":
            return "left" if col + 0.5 < scene.cols / 2 else "right"
        return "upper" if row + 0.5 < scene.rows / 2 else "lower"
    if match := re.fullmatch(r"Is (.+?) (left of|right of|above|below) (.+)\?", text):
        (a, b), (c, d) = _one(match[1], cells)[0], _one(match[3], cells)[0]
        holds = {"left of": a < c, "right of": a > c, "above": b < d, "below": b > d}
        return "yes" if holds[match[2]] else "no"
    if match := re.fullmatch(r"What is (.+)\?", text):
        return str(_one(match[1], cells)[1].shape)
    raise ValueError(f"no rule reads the question {text!r}")


def expected_of_clip(clip: Any, text: str) -> str:
    """The answer to a question about a clip, read off the cells its things stand in, frame by frame."""

    def actor(words: str) -> Any:
        wanted = [word for word in words.split() if word not in ("the", "shape")]
        actors = [a for a in clip.actors if all(word in (a.colour, a.shape) for word in wanted)]
        if len(actors) != 1:
            raise ValueError(f"{words!r} fits {len(actors)} actors")
        return actors[0]

    def motions(shown: Any) -> list[str]:
        seen: list[str] = []
        for before, after in itertools.pairwise(shown.places):
            if before is not None and after is not None and before != after:
                dx, dy = after[0] - before[0], after[1] - before[1]
                word = ("right" if dx > 0 else "left") if dx else ("down" if dy > 0 else "up")
                if not seen or seen[-1] != word:
                    seen.append(word)
        return seen

    def gaps(shown: Any) -> int:
        return sum(a is not None and b is None for a, b in itertools.pairwise(shown.places))

    if match := re.fullmatch(r"What does (.+) do\?", text):
        shown = actor(match[1])
        if gaps(shown):
            return "blink"
        return f"move {motions(shown)[0]}" if motions(shown) else "stay"
    if match := re.fullmatch(r"What colour is (.+)\?", text):
        return str(actor(match[1]).colour)
    if match := re.fullmatch(r"How many times does (.+) blink\?", text):
        return str(gaps(actor(match[1])))
    if match := re.fullmatch(r"What does (.+) do after moving (\w+)\?", text):
        seen = motions(actor(match[1]))
        return f"move {seen[seen.index(match[2]) + 1]}"
    if match := re.fullmatch(r"Which shape (moves|blinks|stays)\?", text):
        acts: dict[str, Callable[[Any], int]] = {"moves": lambda a: bool(motions(a)) and not gaps(a), "blinks": gaps}
        acts["stays"] = lambda a: not motions(a) and not gaps(a)
        (shown,) = [a for a in clip.actors if acts[match[1]](a)]
        return str(shown.shape)
    raise ValueError(f"no rule reads the question {text!r}")


def check(scene: Any, question: Any) -> bool:
    """True when the answer is right and, with options, is one of them and no other option is right."""
    truth = expected_of_clip(scene, question.text) if hasattr(scene, "actors") else expected(scene, question.text)
    if question.options and (len(set(question.options)) < len(question.options) or truth not in question.options):
        return False
    return bool(question.answer == truth)
