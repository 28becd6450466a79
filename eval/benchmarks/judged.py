"""Benchmarks that a language model judges, and what stands in for the judge offline: matching words.

The stand-in is deterministic and is never reported under the official name: its scores are called `..._em`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.benchmarks.base import Benchmark
from eval.reading.sample import Row, Sample, Score
from eval.scoring.judge import Answered, Judge, judge_ids
from eval.scoring.normalise import m4c


class Judged(Benchmark):
    """A benchmark whose answers a language model grades, or else words that match."""

    task: str  # what the judge is asked (eval.scoring.judge.TASKS)

    def score(self, rows: Iterable[Row], samples: Sequence[Sample], judge: Judge | None = None) -> Score:
        self.require_truth(samples)
        answers = self.answers(rows, samples)
        if judge is None:
            score = self.tally(samples, answers, self.item)
            return replace(score, name=f"{self.name}_em", metric="share of answers that hold the true one (offline)")
        asked = [sample for sample in samples if sample.key in answers]
        verdicts = judge.grade(self.task, [Answered(s.text, s.target, answers[s.key]) for s in asked])
        said = {sample.key: verdict.value for sample, verdict in zip(asked, verdicts, strict=True)}
        graded = {key: value for key, value in said.items() if value is not None}
        if asked and not graded:
            raise ValueError(
                f"{self.name}: none of {len(asked):,} answers was judged: no reply of the judge was understood; "
                f"the first was {verdicts[0].reply!r:.80}. Start again to ask once more"
            )
        unjudged = [sample.key for sample in asked if sample.key not in graded]
        kept = [sample for sample in samples if sample.key not in said or sample.key in graded]
        score = self.tally(
            kept, {key: answers[key] for key in graded}, lambda sample, _: self.grade(graded[sample.key])
        )
        return replace(
            score,
            parts={**score.parts, **self.judged_parts(list(graded.values()), score.n)},
            info={**score.info, "judge": judge_ids(verdicts)},
            unjudged=tuple(unjudged),
        )

    def grade(self, verdict: Mapping[str, Any]) -> float:
        """0..1 for a judge's verdict."""
        raise TypeError(f"{type(self).__name__} does not say what a verdict is worth")

    def judged_parts(self, verdicts: Sequence[Mapping[str, Any]], n: int) -> dict[str, float]:
        """Sub-scores that only a judge's verdicts give; n: the questions that count."""
        return {}


def exact(truth: str, answer: str) -> bool:
    """Whether the answer is the truth, word for word."""
    return _words(truth) == _words(answer)


def contained(truth: str, answer: str) -> bool:
    """All the words of the truth, in order and side by side, somewhere in the answer."""
    return _within(_words(truth), _words(answer))


def contained_stems(truth: str, answer: str) -> bool:
    """The same with the endings of words taken off."""
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
    return m4c(text).split() or text.casefold().split()


def _within(short: list[str], long: list[str]) -> bool:
    return bool(short) and any(long[at : at + len(short)] == short for at in range(len(long)))
