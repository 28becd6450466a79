"""Benchmarks that a language model judges, and what stands in for the judge offline: matching words.

The stand-in is deterministic and is never reported under the official name: its scores are called `..._em`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.benchmarks.base import Benchmark, shown
from eval.normalise import m4c
from eval.sample import Row, Sample, Score


class Judged(Benchmark):
    def score(self, rows: Iterable[Row], samples: Sequence[Sample], judged: Mapping[str, Any] | None = None) -> Score:
        score = super().score(rows, samples, judged)
        if judged is not None:
            return score
        return replace(score, name=f"{self.name}_em", metric="share of answers that hold the true one (offline)")

    def judgement(self, sample: Sample, judged: Mapping[str, Any]) -> Any:
        """What the judge said; None where it said nothing that could be read. A run half judged has no score."""
        if sample.key not in judged:
            raise ValueError(f"{self.name}: {shown(sample.key)} has an answer but no judgement; expected one for each")
        return judged[sample.key]


def exact(truth: str, answer: str) -> bool:
    return _words(truth) == _words(answer)


def contained(truth: str, answer: str) -> bool:
    """All the words of the truth, in order and side by side, somewhere in the answer."""
    return _within(_words(truth), _words(answer))


def contained_stems(truth: str, answer: str) -> bool:
    return _within([stem(word) for word in _words(truth)], [stem(word) for word in _words(answer)])


def stem(word: str) -> str:
    """A rough stem: enough for slice, slices, sliced and slicing to meet."""
    for suffix, rest in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(suffix) and len(word) >= len(suffix) + 3:
            word = word.removesuffix(suffix) + rest
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def _words(text: str) -> list[str]:
    """Normalised words; where the normaliser leaves nothing (the answer is "a"), the words as they are."""
    return m4c(text).split() or text.lower().split()


def _within(short: list[str], long: list[str]) -> bool:
    return bool(short) and any(long[at : at + len(short)] == short for at in range(len(long) - len(short) + 1))
