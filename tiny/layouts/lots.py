"""Which scenes and questions a benchmark gets (seeded; disjoint from other halves and from training), and its files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny.drawn import world
from tiny.drawn.questions import Question
from tiny.drawn.scenes import Scene

# Training draws its scenes from seeds below 10**9.
HALVES = {"scored": 3 * 10**9, "heldout": 4 * 10**9}


@dataclass(frozen=True)
class Files:
    """Writes files below a folder."""

    root: Path = field(default=Path(), kw_only=True)

    def path(self, name: str) -> Path:
        """The place of a file, whose folder is there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def picture(self, scene: Scene, name: str) -> None:
        """A scene as PNG without loss or as JPEG, by the name."""
        how: dict[str, Any] = {} if name.endswith(".png") else {"quality": 95, "subsampling": 0}
        world.draw(scene).save(self.path(name), **how)

    def text(self, words: str, name: str) -> None:
        """Words as UTF-8."""
        self.path(name).write_text(words, encoding="utf-8")

    def lines(self, records: list[Any], name: str) -> None:
        """JSON lines."""
        self.text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), name)

    def json(self, record: Any, name: str) -> None:
        """A record in JSON, indented."""
        self.text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", name)


@dataclass(frozen=True)
class Lots(Files):
    """The lot of a benchmark, by its name and number: about n questions of a half."""

    name: str
    number: int
    n: int
    half: str

    def seed(self, index: int) -> int:
        """The seed of a scene or clip by its number."""
        return HALVES[self.half] + self.number * 10**7 + index

    def rng(self, salt: object = "") -> random.Random:
        """Chance that is the same every time; `salt` tells several of a benchmark apart."""
        return random.Random(f"{self.name} {self.half} {salt}")

    def scenes(self, start: int = 0, **constraints: Any) -> Iterator[Scene]:
        """Endless scenes that meet the constraints of world.scene; `start` keeps two streams of a benchmark apart."""
        index = start
        while True:
            yield world.scene(self.seed(index), **constraints)
            index += 1

    def asked(
        self, kinds: tuple[str, ...], each: int, n: int | None = None, start: int = 0, **constraints: Any
    ) -> Iterator[tuple[int, Scene, list[Question]]]:
        """(number of the picture, scene, its questions) until n questions were asked: all kinds take equal turns."""
        left = self.n if n is None else n
        turn = 0
        picture = 0
        for scene in self.scenes(start, **constraints):
            wanted = [kinds[(turn + k) % len(kinds)] for k in range(min(each, left))]
            groups = [world.questions(scene, k, (kind,)) for k, kind in enumerate(wanted)]
            questions = {question.text: question for group in groups for question in group}
            # a scene that cannot answer the kinds whose turn it is leaves them to the next
            if len(questions) < len(wanted):
                continue
            yield picture, scene, list(questions.values())
            picture += 1
            turn += len(wanted)
            left -= len(wanted)
            if left <= 0:
                return


def ten_answers(answer: str, rng: random.Random) -> list[str]:
    """Ten people's answers: most agree; now and then up to three write something else."""
    answers = [answer] * 10
    for place in rng.sample(range(10), rng.choice((0, 0, 0, 1, 2, 3))):
        answers[place] = rng.choice(("unsuitable", "not sure", "a " + answer))
    return answers
