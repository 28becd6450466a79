"""ScienceQA-IMG: the 2,017 of 4,241 school-book questions that come with a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.base import LETTER, Array, Benchmark, Statistic, mean, means, truth_of
from eval.reading.read import Faults, by_id, label, listed, want
from eval.reading.sample import Row, Sample, Score

QUESTIONS = "llava_test_CQM-A.json"
LETTERS = "ABCDE"


class Scienceqa(Benchmark):
    """Multiple choice from school books, answered by a letter."""

    folders = ("scienceqa",)
    marks = (QUESTIONS,)
    expected_n = 2017
    max_new_tokens = 1024
    metric = "accuracy on questions with a picture"

    def read(self, home: Path, faults: Faults, media: bool, text_only: bool = False) -> Iterator[Sample]:
        """`text_only=True`: also the questions without a picture, which count in the overall accuracy alone."""
        source = home / "problems.json"
        truth = by_id(source, "problem")
        path, root = home / QUESTIONS, home / "images" / "test"
        for where, record in listed(path, faults):
            with faults.at(path, where):
                id, name = want(record, "id", str, int), record.get("image")
                turns = want(record, "conversations", list)
                if len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
                    raise ValueError(f"question {id!r}: expected a question and an answer in 'conversations'")
                question, letter = (want(turn, "value") for turn in turns)
                known = truth_of(id, truth, source)
                with faults.at(source, f"problem {id!r}"):
                    choices, answer = want(known, "choices", list), want(known, "answer", int)
                    if not 0 <= answer < len(choices) <= len(LETTERS):
                        raise ValueError(
                            f"expected 1 to 5 choices and the answer among them, found {answer}: {choices}"
                        )
                if len(letter) == 1 and letter != LETTERS[answer]:
                    raise ValueError(
                        f"question {id!r}: the answer is {letter!r} here and {LETTERS[answer]!r} in {source}"
                    )
                if name is None and not text_only:
                    continue
                text = f"{question.replace('<image>', '').strip()}\n{LETTER}"
                yield Sample(
                    id,
                    text,
                    None if name is None else root / want(record, "image"),
                    target=answer,
                    category=label(known, "subject"),
                    root=root,
                    meta={"prompt": text if name is None else f"<image>\n{text}"},
                )

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        pictures = [sample for sample in samples if sample.image]
        return [("scienceqa with pictures", len(pictures), self.expected_n)]

    def score(self, rows: Iterable[Row], samples: Sequence[Sample], judge: Any = None) -> Score:
        self.require_truth(samples)
        answers = self.answers(rows, samples)
        pictures = [sample for sample in samples if sample.image]
        if answers.keys() <= {sample.key for sample in pictures}:
            samples = pictures  # many runs leave the questions without a picture out: no overall accuracy then
        return self.tally(samples, answers, self.item)

    def item(self, sample: Sample, answer: str) -> float | None:
        letter = parsed(answer)
        return None if letter is None else float(letter == LETTERS[sample.target])

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        return mean(items, _pictures(samples))

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        pictures = _pictures(samples)
        labels = [sample.category if sample.image is not None else "" for sample in samples]
        return means(labels, items, "subject/") | ({} if pictures.all() else {"overall": 100 * float(items.mean())})


def parsed(answer: str) -> str | None:
    """The letter, as LLaVA's scorer finds it: `B`, `B. ...` or one `The answer is B` with something after it."""
    if len(answer) == 1 and answer in LETTERS:
        return answer
    if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        return answer[0]
    letters = re.findall(r"The answer is ([A-Z]).", answer)
    return letters[0] if len(letters) == 1 else None


def _pictures(samples: Sequence[Sample]) -> Array:
    return np.array([sample.image is not None for sample in samples])
