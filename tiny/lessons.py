"""Training material: dialogues about scenes and clips, in every prompt format of the benchmarks."""

from __future__ import annotations

import random

import torch
from transformers import PreTrainedTokenizerFast

from tiny import prompts, tokenizer
from tiny.clips import Clip, clip_questions
from tiny.questions import KINDS, Question, questions, referring, with_options
from tiny.scenes import CELL, SIZES, Scene

IGNORE = -100
WORDS = 6  # at most so many words name one patch
EVERY = (*KINDS, "refer")
FIRST = ("colour", "shape", "exist", "size")
SECOND = (*FIRST, "count", "same", "where", "relation", "next_colour", "next_shape", "first", "read")
# (share, kinds, format, things, signs): one skill at a time, since each has to click on its own
DRILLS: tuple[tuple[int, tuple[str, ...], str, tuple[int, int], tuple[int, int]], ...] = (
    (1, ("exist",), "short", (1, 5), (0, 0)),
    (8, ("colour", "shape", "exist"), "choice", (1, 3), (0, 0)),
    (4, ("first", "last", "read"), "short", (0, 2), (1, 2)),
    (1, ("first", "last", "read"), "ocr", (0, 2), (1, 2)),
    (4, ("refer", "where"), "short", (1, 4), (0, 0)),
    (2, ("count", "compare"), "short", (2, 7), (0, 0)),
    (1, ("relation", "same"), "short", (2, 4), (0, 0)),
    (2, ("next_colour", "next_shape", "chain_colour", "chain_shape"), "short", (3, 7), (0, 0)),
    (1, FIRST, "short", (3, 9), (0, 1)),
)
# how often each kind is asked in the mix: what most benchmarks ask weighs more
WEIGHTS = dict.fromkeys(EVERY, 1.0) | {
    "exist": 3.0,
    "colour": 3.0,
    "shape": 3.0,
    "size": 1.5,
    "next_colour": 1.5,
    "next_shape": 1.5,
    "count": 1.5,
    "background": 0.5,
    "absent": 0.3,
}


def _turn(question: Question, scene: Scene, rng: random.Random, form: str) -> tuple[str, str] | None:
    """One question in one of the formats it can be asked in; None when the format does not fit it."""
    if form == "any":
        form = rng.choices(("short", "choice", "ocr", "bare", "unsure"), (45, 30, 10, 8, 7))[0]
        return _turn(question, scene, rng, form) or _turn(question, scene, rng, "short")
    if question.kind == "absent" or form == "unsure":
        return prompts.unsure(question.text), question.answer
    if form == "choice":
        offered = with_options(question, scene, rng)
        if offered is None:
            return None
        hint = prompts.HINT if rng.random() < 0.2 else ""
        return prompts.choice(offered, hint, bool(offered.chinese) and rng.random() < 0.4), offered.letter
    if form == "ocr":
        if question.kind not in ("read", "first", "last"):
            return None
        return prompts.ocr(question.text, [sign.text for sign in scene.signs]), question.answer
    return (question.text if form == "bare" else prompts.short(question.text)), question.answer


def turns(
    scene: Scene, seed: int, n: int, kinds: tuple[str, ...] = tuple(KINDS), form: str = "any"
) -> list[tuple[str, str]]:
    """n different questions and answers about a scene, the kinds in proportion to WEIGHTS; `refer` asks for a box."""
    rng = random.Random(f"turns {scene.seed} {seed}")
    asked: dict[str, str] = {}
    for _ in range(4 * n):
        if len(asked) >= n:
            break
        kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
        lot = rng.randrange(1 << 30)
        if kind == "refer":
            found = referring(scene, lot)
            if found:
                asked[prompts.refer(found[0])] = prompts.box_answer(found[1], scene.size)
            continue
        for question in questions(scene, lot, (kind,)):
            turn = _turn(question, scene, rng, form)
            if turn:
                asked[turn[0]] = turn[1]
    return list(asked.items())


def clip_turns(clip: Clip, seed: int) -> list[tuple[str, str]]:
    """All questions a clip allows, shuffled and bare: Video-LLaVA's benchmarks have no suffix."""
    asked = [(q.text, q.answer) for s in range(3) for q in clip_questions(clip, seed * 3 + s)]
    return random.Random(f"clip turns {clip.seed} {seed}").sample(list(dict.fromkeys(asked)), len(set(asked)))


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


def patch_words(scene: Scene) -> list[list[str]]:
    """The words of every patch of the padded picture, row by row: what the vision tower learns to name."""
    n, half = tokenizer.PATCHES, CELL // 8
    side = max(scene.cols, scene.rows) * half
    if side != n:
        raise ValueError(f"the longer side of scene {scene.seed} has {side} patches, not {n}")
    left, top = (n - scene.cols * half) // 2, (n - scene.rows * half) // 2
    words: dict[tuple[int, int], list[str]] = {}
    for thing in scene.things:
        x, y = thing.box[:2]
        cover = range(2) if SIZES[thing.size] > 8 else range(1)
        for dx in cover:
            for dy in cover:
                words[x // 8 + dx + left, y // 8 + dy + top] = [f" {thing.size}", f" {thing.colour}", f" {thing.shape}"]
    for sign in scene.signs:
        for place in range(4):
            for line in range(2):
                named = [f" {sign.colour}", " sign"]
                if line == sign.line and place < len(sign.text):
                    named.append(sign.text[place])
                words[sign.col * half + place + left, sign.row * half + line + top] = named
    filled = []
    for y in range(n):
        for x in range(n):
            inside = left <= x < n - left and top <= y < n - top
            here = words.get((x, y), [f" {scene.background}"]) if inside else [tokenizer.BORDER]
            filled.append([*here, tokenizer.ROWS[y], tokenizer.COLUMNS[x]])
    return filled


def word_ids(named: list[list[str]], tokens: PreTrainedTokenizerFast) -> list[list[int]]:
    """Words as ids, every list filled up with the id of <pad>."""
    vocabulary = tokens.get_vocab()
    rows = [[vocabulary[word.replace(" ", "▁")] for word in words] for words in named]
    return [row + [tokens.pad_token_id] * (WORDS - len(row)) for row in rows]


def patch_ids(scene: Scene, tokens: PreTrainedTokenizerFast) -> list[list[int]]:
    return word_ids(patch_words(scene), tokens)
