"""Training material: dialogues about scenes and clips, in every prompt format of the benchmarks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerFast

from tiny import prompts, tokenizer
from tiny.drawn.clips import Clip, clip_questions
from tiny.drawn.questions import KINDS, Question, named, questions, referring, with_options
from tiny.drawn.scenes import CELL, SIZES, Scene

IGNORE = -100
WORDS = 8  # at most so many words name one patch

Turn = tuple[str, str]
Words = dict[tuple[int, int], list[str]]  # by the place (x, y) of a patch
Asked = dict[str, tuple[str, str]]  # question -> its answer, and the skill that it trains
Seen = TypeVar("Seen", Scene, Clip)


@dataclass(frozen=True)
class Skill:
    """Something to learn: kinds of question in one prompt format, and what has to be known before."""

    kinds: tuple[str, ...]
    form: str = "short"
    after: tuple[str, ...] = ()
    things: int = 1  # so many make the easiest scene for it

    @property
    def signs(self) -> bool:
        """Is it about printed signs alone?"""
        return set(self.kinds) <= {*PRINT, "says"}


HOPS = ("next_colour", "next_shape", "chain_colour", "chain_shape")
PRINT = ("first", "last", "read")
FIRST = ("colour", "shape", "size", "exist")
# in the order in which they are learned, see tiny/training/curriculum.py
SKILLS = {
    "colour": Skill(("colour",)),
    "shape": Skill(("shape",)),
    "size": Skill(("size",)),
    "exist": Skill(("exist",)),
    "first": Skill(("first",), after=FIRST),
    "corner": Skill(("corner",), after=FIRST),
    "last": Skill(("last",), after=("first",)),
    "where": Skill(("where",), after=("corner",)),
    "read": Skill(("read",), after=("first",)),
    "region": Skill(("region",), after=("corner",)),
    "refer": Skill(("refer",), after=("corner",)),
    "lookup": Skill(("colour", "shape"), "lookup", FIRST),
    "relation": Skill(("relation",), after=("where",), things=2),
    "choice": Skill(("colour", "shape"), "choice", ("lookup",)),
    "next": Skill(("next_colour", "next_shape"), after=("corner",), things=2),
    "count": Skill(("count",), after=FIRST, things=2),
    "says": Skill(("says",), after=("read",)),
    "background": Skill(("background",), after=FIRST),
    "same": Skill(("same",), after=FIRST, things=2),
    "ocr": Skill(PRINT, "ocr", ("read",)),
    "chain": Skill(("chain_colour", "chain_shape"), after=("next",), things=3),
    "compare": Skill(("compare",), after=("count",), things=3),
    "chinese": Skill(("colour", "shape", *HOPS), "chinese", ("choice", "next"), things=2),
    "options": Skill(tuple(KINDS), "choice", ("choice", "read"), things=2),
    "absent": Skill(("absent",), "unsure", ("exist",)),
    "unsure": Skill(FIRST, "unsure", ("absent",)),
    "bare": Skill(tuple(k for k in KINDS if k != "absent"), "bare", ("relation",), things=2),
}
CLIP_SKILLS = {
    "frame": Skill(("frame",)),
    "action": Skill(("action",), after=("frame",)),
    "who": Skill(("who",), after=("frame",)),
    "times": Skill(("times",), after=("frame",)),
    "transition": Skill(("transition",), after=("action",)),
}


def _turn(question: Question, scene: Scene, rng: random.Random, form: str) -> Turn | None:
    """One question in one of the formats of the benchmarks; None when the format does not fit it."""
    if form in ("choice", "chinese", "lookup"):
        offered = with_options(question, scene, rng)
        if offered is None or (form == "chinese" and not offered.chinese):
            return None
        if form == "lookup":  # which letter is in front of this word? No picture is needed
            offered = replace(offered, text=f"What is {offered.answer}?")
        hint = prompts.HINT if form == "choice" and rng.random() < 0.2 else ""
        return prompts.choice(offered, hint, form == "chinese"), offered.letter
    if form == "ocr":
        return prompts.ocr(question.text, [sign.text for sign in scene.signs]), question.answer
    if form == "unsure":
        return prompts.unsure(question.text), question.answer
    return (question.text if form == "bare" else prompts.short(question.text)), question.answer


def turn(skill: Skill, scene: Scene, lot: int) -> Turn | None:
    """A question and its answer, None when the scene does not allow it."""
    rng = random.Random(lot)
    kind = rng.choice(skill.kinds)
    if kind == "refer":
        reference = referring(scene, lot)
        return reference and (prompts.refer(reference[0]), prompts.box_answer(reference[1], scene.size))
    if kind in PLACED:
        return PLACED[kind](scene, rng)
    for question in questions(scene, lot, (kind,)):
        return _turn(question, scene, rng, skill.form)
    return None


def corner(scene: Scene, rng: random.Random) -> Turn | None:
    """Where a thing begins: half of its box."""
    for thing, words in named(scene, rng):
        return f"{prompts.CORNER}the {words}", prompts.box_answer(thing.box, scene.size)[1:11]
    return None


def region(scene: Scene, rng: random.Random) -> Turn | None:
    """What stands in a box: the way back."""
    if not scene.things:
        return None
    thing = rng.choice(scene.things)
    return prompts.REGION + prompts.box_answer(thing.box, scene.size), f"{thing.size} {thing.colour} {thing.shape}"


# on the way to boxes and neighbours; no benchmark asks them
PLACED: dict[str, Callable[[Scene, random.Random], Turn | None]] = {"corner": corner, "region": region}


def clip_turn(skill: Skill, film: Clip, lot: int) -> Turn | None:
    """Video-LLaVA's benchmarks ask without a request for short answers; so do most lessons."""
    rng = random.Random(lot)
    for question in clip_questions(film, lot, (rng.choice(skill.kinds),)):
        return prompts.short(question.text) if rng.random() < 0.2 else question.text, question.answer
    return None


def turns(seen: Scene | Clip, n: int, weights: Mapping[str, float], skills: Mapping[str, Skill]) -> Asked:
    """At most n different questions; weights say how often each skill is asked."""
    rng = random.Random(f"turns {seen.seed}")
    asked: Asked = {}
    for name in rng.choices(list(weights), list(weights.values()), k=3 * n):
        if len(asked) == n:
            break
        lot = rng.randrange(1 << 30)
        lesson = turn(skills[name], seen, lot) if isinstance(seen, Scene) else clip_turn(skills[name], seen, lot)
        if lesson:
            asked[lesson[0]] = lesson[1], name
    return asked


def gathered(
    seen: Iterable[Seen], size: int, n: int, weights: Mapping[str, float] | None, skills: Mapping[str, Skill]
) -> list[tuple[Seen, Asked]]:
    """The first `size` scenes or clips that allow a question, with their `turns`. weights: None: all skills alike."""
    asked = ((here, turns(here, n, weights or dict.fromkeys(skills, 1.0), skills)) for here in seen)
    return list(itertools.islice((pair for pair in asked if pair[1]), size))


def thinned(busy: torch.Tensor, empty: int, seed: int) -> torch.Tensor:
    """[rows, m] places of the visual tokens that are left of [rows, n]: the busy ones, and `empty` others by lot."""
    noise = torch.rand(busy.shape, generator=torch.Generator().manual_seed(seed))
    most = min(busy.shape[1], int(busy.sum(1).max()) + empty)
    return (busy + noise / 2).topk(most, 1).indices.sort(1).values


def right(logits: torch.Tensor, labels: torch.Tensor, end: int = tokenizer.END) -> list[bool]:
    """For every answer, which ends with the token `end`: whether all its tokens are the most likely."""
    ends = labels == end
    answer = ends.cumsum(0) - ends.long()
    misses = torch.zeros(int(ends.sum()), device=labels.device).index_add(
        0, answer, (logits.argmax(-1) != labels).float()
    )
    return (misses == 0).tolist()


def encode(
    dialogue: list[tuple[str, str]],
    tokens: PreTrainedTokenizerFast,
    visual: int,
    media: str = "<image>",
    system: str = prompts.SYSTEM,
) -> tuple[list[int], list[int]]:
    """Ids, and labels that are set on the answers alone; the media token is repeated for every visual token."""
    ids, labels = [tokens.bos_token_id], [IGNORE]
    repeated = media * visual
    for place, (question, answer) in enumerate(dialogue):
        asked = prompts.dialogue([(question, "")], system if place == 0 else "", media if place == 0 else "")
        head = tokens.encode(asked.replace(media, repeated).lstrip(), add_special_tokens=False)
        tail = tokens.encode(f" {answer}</s>", add_special_tokens=False)
        ids += head + tail
        labels += [IGNORE] * len(head) + tail
    return ids, labels


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded on the right: attention is causal, so nothing sees the padding and no mask is needed."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (longest - len(row)) for _, row in rows])
    return ids, labels


def name_thing(words: Words, x: int, y: int, size: str, colour: str, shape: str) -> None:
    """Names the patches that a thing covers, of which the upper left, at (x, y), is the one that it is counted by."""
    cover = range(2 if SIZES[size] > 8 else 1)
    for dx, dy in itertools.product(cover, cover):
        words[x + dx, y + dy] = [f" {size}", f" {colour}", f" {shape}", *[tokenizer.HEAD] * (dx + dy == 0)]


def filled(words: Words, ground: str, n: int, left: int = 0, top: int = 0) -> list[list[str]]:
    """The words of all n x n patches, row by row: those given, or the ground; and the place of the patch and its cell.
    So many columns at the left and right, and rows at the top and bottom, are border."""
    half = CELL // 8
    patches = []
    for y, x in itertools.product(range(n), range(n)):
        place = [tokenizer.ROWS[y], tokenizer.COLUMNS[x]]
        if left <= x < n - left and top <= y < n - top:
            cell = [tokenizer.CELL_ROWS[(y - top) // half], tokenizer.CELL_COLUMNS[(x - left) // half]]
            patches.append([*words.get((x, y), [f" {ground}"]), *cell, *place])
        else:
            patches.append([tokenizer.BORDER, *place])
    return patches


def patch_words(scene: Scene) -> list[list[str]]:
    """The words of every patch of the padded picture, row by row: what the vision tower learns to name."""
    n, half = tokenizer.PATCHES, CELL // 8
    side = max(scene.cols, scene.rows) * half
    if side != n:
        raise ValueError(f"the longer side of scene {scene.seed} has {side} patches, not {n}")
    left, top = (n - scene.cols * half) // 2, (n - scene.rows * half) // 2
    words: Words = {}
    for thing in scene.things:
        x, y = thing.box[0] // 8 + left, thing.box[1] // 8 + top
        name_thing(words, x, y, thing.size, thing.colour, thing.shape)
    for sign in scene.signs:
        for place in range(4):
            for line in range(2):
                named = [f" {sign.colour}", " sign"]
                if line == sign.line and place < len(sign.text):
                    named += [sign.text[place], tokenizer.PLACES[place]]
                words[sign.col * half + place + left, sign.row * half + line + top] = named
    return filled(words, scene.background, n, left, top)


def word_ids(named: list[list[str]], tokens: PreTrainedTokenizerFast) -> list[list[int]]:
    """Words as ids, every list filled up with the id of <pad>."""
    rows = [tokenizer.ids(words, tokens) for words in named]
    return [row + [tokens.pad_token_id] * (WORDS - len(row)) for row in rows]
