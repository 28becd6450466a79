"""Training batches for `smol`: several questions about one picture in one row, each as if it were asked alone.

A question sees the picture and itself and nothing of the other questions, and stands at the positions that it would
have alone: one row teaches exactly what so many single dialogues would, and the picture is paid for once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tiny import prompts
from tiny.drawn.drawing import draw
from tiny.smol.model import END, number
from tiny.smol.world import KINDS, VISUAL, smol_scene, targets
from tiny.training import lessons, sight

IGNORE = lessons.IGNORE
SKILLS = {kind: lessons.Skill((kind,)) for kind in KINDS}
OPENING = "<|im_start|>user\n"


@dataclass
class Lesson:
    """`index` says which patches are shown; `seen` [rows, 1, length, length] what sees what."""

    pictures: torch.Tensor
    index: torch.Tensor
    text: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    seen: torch.Tensor
    skills: list[str]  # of every answer


def bare(turns: lessons.Asked) -> list[tuple[str, str, str]]:
    """(question, answer, skill); nine questions in ten without the benchmarks' request for a short answer."""
    rows = []
    for text, (answer, skill) in turns.items():
        plain = text.removesuffix(f"\n{prompts.SHORT}")
        rows.append((text if sum(text.encode()) % 10 == 0 else plain, answer, skill))
    return rows


class Teacher:
    """Makes lessons out of seeds."""

    def __init__(self, tokens: PreTrainedTokenizerFast) -> None:
        self.tokens = tokens
        self.end = number(tokens, END)
        self.opening = self.ids(OPENING)
        self.cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Without anything put in front: the first token of the chat format is this model's BOS."""
        numbers: list[int] = self.tokens(text, add_special_tokens=False)["input_ids"]
        return numbers

    def turn(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids after the picture, and labels that are set on the answer and its end alone."""
        head = self.ids(f"\n{question}{END}\n<|im_start|>assistant\n")
        tail = [*self.ids(answer), self.end]
        return head + tail, [IGNORE] * len(head) + tail

    def lesson(
        self,
        first: int,
        size: int,
        n: int,
        weights: Mapping[str, float] | None = None,
        things: tuple[int, int] = (2, 8),
        thin: int | None = None,
    ) -> Lesson:
        """Up to n questions about each of `size` scenes; `thin`: so many patches that show nothing remain."""
        seen = (smol_scene(seed, things) for seed in range(first, first + 20 * size))
        scenes = [(here, bare(asked)) for here, asked in lessons.gathered(seen, size, n, weights, SKILLS)]
        busy = torch.from_numpy(np.stack([targets(s)[:, 0] > 0 for s, _ in scenes]))
        index = torch.arange(VISUAL).expand(len(scenes), -1) if thin is None else lessons.thinned(busy, thin, first)
        rows = [[self.turn(question, answer) for question, answer, _ in asked] for _, asked in scenes]
        pictures = torch.stack([sight.pixels(draw(s)) for s, _ in scenes])
        skills = [skill for _, asked in scenes for *_, skill in asked]
        return self.pack(pictures, index, rows, skills)

    def pack(
        self,
        pictures: torch.Tensor,
        index: torch.Tensor,
        rows: list[list[tuple[list[int], list[int]]]],
        skills: list[str],
    ) -> Lesson:
        """The lesson of pictures, patches that are shown, and (ids, labels) of the questions about each picture."""
        start, visual = len(self.opening), index.shape[1]
        longest = max(sum(len(ids) for ids, _ in row) for row in rows)
        text = torch.full((len(rows), longest), self.end)
        labels = torch.full((len(rows), start + visual + longest), IGNORE)
        after = torch.zeros(len(rows), longest, dtype=torch.long)
        part = torch.zeros(len(rows), start + visual + longest, dtype=torch.long)  # 0: the picture and what opens it
        part[:, start + visual :] = -1  # filled up at the end: sees itself, nothing sees it
        for k, row in enumerate(rows):
            at = 0
            for turn, (ids, wanted) in enumerate(row):
                until = at + len(ids)
                text[k, at:until] = torch.tensor(ids)
                labels[k, start + visual + at : start + visual + until] = torch.tensor(wanted)
                part[k, start + visual + at : start + visual + until] = turn + 1
                after[k, at:until] = start + VISUAL + torch.arange(len(ids))
                at = until
        opening = torch.arange(start).expand(len(rows), -1)
        positions = torch.cat([opening, start + index, after], 1)
        same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
        same &= part[:, :, None] >= 0
        same = same.tril() | torch.eye(part.shape[1], dtype=torch.bool)
        return Lesson(pictures, index, text, labels, positions, same[:, None], skills)
