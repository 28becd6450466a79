"""The word vectors, which are drawn once and never trained: what a patch can be named by has directions of its own."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from tiny import tokenizer
from tiny.training import sight

ORDERED = ("row", "column", "cell row", "cell column")


def table(tokens: PreTrainedTokenizerFast, width: int) -> torch.Tensor:
    """One vector of length one for each token.

    A patch is the sum of its words. Each group of names (sight.GROUPS) has directions of its own, so that the words of
    one patch do not blur each other. Places are waves over their index: near is similar, and a step is the same turn
    everywhere. All other words share the directions that are left, at random. Two spellings of one thing (a character
    with and without a space before it, an option's letter, a coordinate) share a vector.
    """
    vectors = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(0))
    named: list[int] = []
    first = 0
    for group in sight.GROUPS:
        ids = numbers(group, tokens)
        code = waves(len(ids)) if group in ORDERED else directions(len(ids))
        vectors[ids] = 0
        vectors[ids, first : first + code.shape[1]] = code
        named += ids
        first += code.shape[1]
    others = torch.ones(len(tokens), dtype=torch.bool)
    others[named] = False
    vectors[others, :first] = 0
    for spelling, other in tokenizer.spellings():
        vectors[tokenizer.number(tokens, other)] = vectors[tokenizer.number(tokens, spelling)]
    return F.normalize(vectors, dim=1)


def numbers(group: str, tokens: PreTrainedTokenizerFast) -> list[int]:
    """Of the tokens of a group's names."""
    return tokenizer.ids(filter(None, sight.GROUPS[group]), tokens)


def directions(n: int) -> torch.Tensor:
    """Unrelated words: a direction each, or, where there are many, the two ends of a direction."""
    if n <= 12:
        return torch.eye(n)
    half = torch.eye((n + 1) // 2)
    return torch.stack([half, -half], 1).flatten(0, 1)[:n]


def waves(n: int) -> torch.Tensor:
    """Cosines and sines of odd frequencies over twice the range, so that the ends are far from each other."""
    angle = torch.arange(n)[:, None] * torch.arange(1, n // 2 + 1, 2) * (math.pi / n)
    return torch.cat([angle.cos(), angle.sin()], 1)
