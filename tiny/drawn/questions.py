"""Questions about a scene, with answers balanced so that a blind guess does not pay."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tiny.drawn.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Sign, Thing

Box = tuple[int, int, int, int]
STEPS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
CHINESE = {
    **dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "白色", "黑色"), strict=True)),
    **dict(zip(SHAPES, ("圆形", "方形", "三角形", "十字", "圆环", "心形"), strict=True)),
    **dict(zip(STEPS, ("左边", "右边", "上面", "下面"), strict=True)),
    "big": "大的",
    "small": "小的",
    "shape": "形状",
}


@dataclass(frozen=True)
class Question:
    """`answer` is the plain answer (with `options`, the text of the right option); `boxes`: the evidence, in pixels."""

    kind: str
    text: str
    answer: str
    boxes: tuple[Box, ...] = ()
    options: tuple[str, ...] = ()
    chinese: str = ""

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return "ABCD"[self.options.index(self.answer)]


def attributes(thing: Thing) -> dict[str, str]:
    """What a shape can be named by."""
    return {"size": thing.size, "colour": thing.colour, "shape": thing.shape}


def name(thing: Thing, scene: Scene, rng: random.Random, hide: str = "") -> str | None:
    """Words that fit this thing alone, none of them the hidden attribute; None if there are no such words."""
    own = {key: value for key, value in attributes(thing).items() if key != hide}
    choices = []
    for keys in (["shape"], ["colour"], ["size", "shape"], ["colour", "shape"], ["size", "colour"], list(own)):
        if set(keys) <= set(own):
            wanted = {key: own[key] for key in keys}
            if sum(wanted.items() <= attributes(other).items() for other in scene.things) == 1:
                choices.append(" ".join([own[key] for key in own if key in keys] + ["shape"] * ("shape" not in keys)))
    return rng.choice(choices) if choices else None


def in_chinese(words: str) -> str:
    """An English description word by word."""
    return "".join(CHINESE[word] for word in words.split())


def neighbour(thing: Thing, step: str, scene: Scene) -> Thing | None:
    """The thing in the very next cell."""
    dc, dr = STEPS[step]
    at = (thing.col + dc, thing.row + dr)
    return next((other for other in scene.things if (other.col, other.row) == at), None)


def named(scene: Scene, rng: random.Random, hide: str = "") -> Iterator[tuple[Thing, str]]:
    """The things that have a name of their own, in any order, with words that fit each alone; see `name`."""
    for thing in rng.sample(scene.things, len(scene.things)):
        words = name(thing, scene, rng, hide)
        if words:
            yield thing, words


def _attribute(kind: str, text: str, chinese: str) -> Callable[[Scene, random.Random], Question | None]:
    def ask(scene: Scene, rng: random.Random) -> Question | None:
        for thing, words in named(scene, rng, hide=kind):
            return Question(
                kind, text.format(words), getattr(thing, kind), (thing.box,), chinese=chinese.format(in_chinese(words))
            )
        return None

    return ask


def _exist(scene: Scene, rng: random.Random) -> Question | None:
    present = {(t.colour, t.shape) for t in scene.things}
    if not present:
        return None
    if rng.random() < 0.5:
        colour, shape = rng.choice(sorted(present))
    else:  # half of the absent pairs are made of a colour and a shape that are there
        colours, shapes = {c for c, _ in present}, {s for _, s in present}
        hard = sorted({(c, s) for c in colours for s in shapes} - present)
        every = sorted({(c, s) for c in COLOURS for s in SHAPES} - present)
        colour, shape = rng.choice(hard if hard and rng.random() < 0.5 else every)
    boxes = tuple(t.box for t in scene.things if (t.colour, t.shape) == (colour, shape))
    return Question("exist", f"Is there a {colour} {shape} in the image?", "yes" if boxes else "no", boxes)


def _count(scene: Scene, rng: random.Random) -> Question | None:
    key = rng.choice(("colour", "shape"))
    values = [getattr(thing, key) for thing in scene.things]
    # first how many, then of what: small and large counts are asked for alike
    counts = {value: values.count(value) for value in (COLOURS if key == "colour" else SHAPES)}
    number = rng.choice(sorted(set(counts.values())))
    value = rng.choice(sorted(v for v, n in counts.items() if n == number))
    words = f"{value} shapes" if key == "colour" else plural(value)
    boxes = tuple(t.box for t in scene.things if getattr(t, key) == value)
    return Question("count", f"How many {words} are there?", str(number), boxes)


def plural(shape: str) -> str:
    """A shape in the plural."""
    return shape + ("es" if shape == "cross" else "s")


def _compare(scene: Scene, rng: random.Random) -> Question | None:
    counts = {shape: sum(t.shape == shape for t in scene.things) for shape in SHAPES}
    pairs = [(a, b) for a in SHAPES for b in SHAPES if counts[a] > counts[b]]
    if not pairs:
        return None
    more, less = rng.choice(pairs)
    yes = rng.random() < 0.5
    first, second = (more, less) if yes else (less, more)
    boxes = tuple(t.box for t in scene.things if t.shape in (more, less))
    return Question("compare", f"Are there more {plural(first)} than {plural(second)}?", "yes" if yes else "no", boxes)


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    step = rng.choice(list(STEPS))
    dc, dr = STEPS[step]
    things = list(named(scene, rng))
    for a, first in things:
        for b, second in things:
            along = (a.col - b.col) * dc + (a.row - b.row) * dr
            if along:
                if rng.random() < 0.5:  # either order is as likely, so yes and no are
                    a, b, first, second, along = b, a, second, first, -along
                answer = "yes" if along > 0 else "no"
                return Question("relation", f"Is the {first} {step} the {second}?", answer, (a.box, b.box))
    return None


def _same(scene: Scene, rng: random.Random) -> Question | None:
    things = list(named(scene, rng, hide="colour"))
    yes = rng.random() < 0.5
    for a, first in things:
        for b, second in things:
            if a is not b and (a.colour == b.colour) == yes:
                text = f"Do the {first} and the {second} have the same colour?"
                return Question("same", text, "yes" if yes else "no", (a.box, b.box))
    return None


def _where(scene: Scene, rng: random.Random) -> Question | None:
    for thing, words in named(scene, rng):
        if rng.random() < 0.5:
            side, sides, answers = 2 * thing.col + 1 - scene.cols, "left or the right", ("left", "right")
        else:
            side, sides, answers = 2 * thing.row + 1 - scene.rows, "upper or the lower", ("upper", "lower")
        if side:
            text = f"Is the {words} in the {sides} half of the image?"
            return Question("where", text, answers[side > 0], (thing.box,))
    return None


def _hop(key: str, hops: int) -> Callable[[Scene, random.Random], Question | None]:
    kind = f"{'next' if hops == 1 else 'chain'}_{key}"

    def ask(scene: Scene, rng: random.Random) -> Question | None:
        for start, words in named(scene, rng):
            for _ in range(4):
                path = [start]
                steps: list[str] = []
                while len(steps) < hops:
                    step = rng.choice(list(STEPS))
                    thing = neighbour(path[-1], step, scene)
                    if thing is None or thing in path:
                        break
                    path.append(thing)
                    steps.append(step)
                if len(steps) == hops:
                    chain = " the shape directly ".join(reversed(steps))
                    what = "What colour is" if key == "colour" else "What is"
                    asked = "颜色" if key == "colour" else "形状"
                    return Question(
                        kind,
                        f"{what} the shape directly {chain} the {words}?",
                        getattr(path[-1], key),
                        tuple(thing.box for thing in path),
                        chinese=f"{in_chinese(words)}{''.join(CHINESE[s] for s in steps)}是什么{asked}?",
                    )
        return None

    return ask


def _sign(kind: str, text: str, answer: Callable[[Sign], str]) -> Callable[[Scene, random.Random], Question | None]:
    def ask(scene: Scene, rng: random.Random) -> Question | None:
        if not scene.signs:
            return None
        sign = rng.choice(scene.signs)
        return Question(kind, text.format(sign.colour), answer(sign), (sign.box,))

    return ask


def _says(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.signs:
        return None
    sign = rng.choice(scene.signs)
    yes = rng.random() < 0.5
    text = sign.text if yes else rng.choice([text for text in _misread(sign.text, rng) if text != sign.text])
    return Question("says", f"Does the {sign.colour} sign say {text}?", "yes" if yes else "no", (sign.box,))


def _background(scene: Scene, rng: random.Random) -> Question | None:
    if rng.random() < 0.5:
        return Question("background", "Is the background plain, striped or dotted?", scene.background)
    kind = scene.background if rng.random() < 0.5 else rng.choice([b for b in BACKGROUNDS if b != scene.background])
    return Question("background", f"Is the background {kind}?", "yes" if kind == scene.background else "no")


def _absent(scene: Scene, rng: random.Random) -> Question | None:
    shapes = [shape for shape in SHAPES if all(t.shape != shape for t in scene.things)]
    if not shapes:
        return None
    return Question("absent", f"What colour is the {rng.choice(shapes)}?", "unanswerable")


KINDS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "exist": _exist,
    "colour": _attribute("colour", "What colour is the {}?", "{}是什么颜色?"),
    "shape": _attribute("shape", "What is the {}?", "{}是什么?"),
    "size": _attribute("size", "Is the {} big or small?", "{}是大的还是小的?"),
    "count": _count,
    "compare": _compare,
    "relation": _relation,
    "same": _same,
    "where": _where,
    "next_colour": _hop("colour", 1),
    "next_shape": _hop("shape", 1),
    "chain_colour": _hop("colour", 2),
    "chain_shape": _hop("shape", 2),
    "read": _sign("read", "What is written on the {} sign?", lambda sign: sign.text),
    "first": _sign("first", "What is the first character on the {} sign?", lambda sign: sign.text[0]),
    "last": _sign("last", "What is the last character on the {} sign?", lambda sign: sign.text[-1]),
    "says": _says,
    "background": _background,
    "absent": _absent,
}
OPEN = {"colour": tuple(COLOURS), "shape": SHAPES}  # answers that can be offered as options


def questions(scene: Scene, seed: int, kinds: tuple[str, ...] | None = None, each: int = 1) -> list[Question]:
    """At most `each` different questions of every kind (all but `absent` by default), in the order of the kinds."""
    rng = random.Random(f"questions {scene.seed} {seed}")
    drawn: list[Question] = []
    for kind in kinds or [k for k in KINDS if k != "absent"]:
        if kind not in KINDS:
            raise ValueError(f"unknown kind of question {kind!r}; there are {', '.join(KINDS)}")
        asked: dict[str, Question] = {}
        for _ in range(2 * each):
            question = KINDS[kind](scene, rng)
            if question and len(asked) < each:
                asked.setdefault(question.text, question)
        drawn += asked.values()
    return drawn


def with_options(question: Question, scene: Scene, rng: random.Random, n: int = 4) -> Question | None:
    """The same question with n shuffled options (fewer for two-valued answers); None where no options make sense."""
    answers = next((values for values in (*OPEN.values(), ("yes", "no")) if question.answer in values), None)
    if answers is None and question.kind in ("read", "count"):
        answers = tuple(_misread(question.answer, rng))
    if answers is None:
        return None
    wrong = [value for value in answers if value != question.answer]
    seen = [value for value in wrong if any(value in (t.colour, t.shape) for t in scene.things)]
    # options that are somewhere in the picture come first: the answer is not the only thing to be seen
    rng.shuffle(seen)
    rest = [value for value in wrong if value not in seen]
    rng.shuffle(rest)
    options = [question.answer, *(seen + rest)[: n - 1]]
    rng.shuffle(options)
    return replace(question, options=tuple(options))


def _misread(answer: str, rng: random.Random) -> list[str]:
    """Answers that differ from the true answer in one character."""
    if len(answer) == 1 and answer.isdigit():
        return [str(number) for number in range(8)]
    spellings = {answer}
    while len(spellings) < 4:
        place = rng.randrange(len(answer))
        pool = "0123456789" if answer.isdigit() else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        spellings.add(answer[:place] + rng.choice(pool) + answer[place + 1 :])
    return sorted(spellings)


def referring(scene: Scene, seed: int, beside: float = 0.4) -> tuple[str, Box] | None:
    """An expression that fits exactly one thing, and its box in pixels of the picture.

    beside: how often the thing is named by its neighbour, where it has one.
    """
    rng = random.Random(f"referring {scene.seed} {seed}")
    for thing, words in named(scene, rng):
        if rng.random() < beside:
            for step in rng.sample(list(STEPS), 4):
                other = neighbour(thing, step, scene)
                if other is not None:
                    return f"the shape directly {step} the {words}", other.box
        return f"the {words}", thing.box
    return None
