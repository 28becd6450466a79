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
FIRST = ("colour", "shape", "exist", "size")
SECOND = (*FIRST, "count", "same", "where", "relation", "next_colour", "next_shape", "first", "read")
# how often each kind is asked in the tuning mix; several hops and reading weigh more, being harder
WEIGHTS = dict.fromkeys(KINDS, 1.0) | {
    "next_colour": 2.0,
    "next_shape": 2.0,
    "chain_colour": 2.0,
    "chain_shape": 2.0,
    "read": 3.0,
    "background": 0.5,
}


def _turn(question: Question, scene: Scene, rng: random.Random) -> tuple[str, str]:
    """One question in one of the formats it can be asked in."""
    if question.kind == "absent":
        return prompts.unsure(question.text), question.answer
    draw = rng.random()
    if draw < 0.35:
        offered = with_options(question, scene, rng)
        if offered:
            chinese = bool(offered.chinese) and rng.random() < 0.4
            hint = prompts.HINT if rng.random() < 0.2 else ""
            return prompts.choice(offered, hint, chinese), offered.letter
    if question.kind in ("read", "first", "last") and rng.random() < 0.5:
        return prompts.ocr(question.text, [sign.text for sign in scene.signs]), question.answer
    if draw < 0.45:
        return question.text, question.answer
    if draw < 0.58:
        return prompts.unsure(question.text), question.answer
    return prompts.short(question.text), question.answer


def turns(
    scene: Scene, seed: int, n: int, kinds: tuple[str, ...] = tuple(KINDS), plain: bool = False
) -> list[tuple[str, str]]:
    """n questions and answers about a scene; the kinds in proportion to WEIGHTS, one in fourteen asks for a box.

    `plain` asks for a short answer always; otherwise all the formats of the benchmarks occur.
    """
    rng = random.Random(f"turns {scene.seed} {seed}")
    asked: list[tuple[str, str]] = []
    for _ in range(4 * n):
        if len(asked) >= n:
            break
        if len(kinds) == len(KINDS) and rng.random() < 1 / 14:
            found = referring(scene, rng.randrange(1 << 30))
            if found:
                asked.append((prompts.refer(found[0]), prompts.box_answer(found[1], scene.size)))
            continue
        kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
        for question in questions(scene, rng.randrange(1 << 30), (kind,)):
            asked.append((prompts.short(question.text), question.answer) if plain else _turn(question, scene, rng))
    return list(dict(asked).items())


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
