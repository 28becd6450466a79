"""MM-Vet: 218 open questions that a language model grades; without a grader, an offline stand-in under its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Array, means, questions
from eval.benchmarks.judged import Judged, contained
from eval.reading.read import Faults, by_id, want
from eval.reading.sample import Row, Sample, row_id

QUESTIONS, TRUTH = "llava-mm-vet.jsonl", "mm-vet.json"


class Mmvet(Judged):
    """Open questions, each of which needs one or more of six capabilities."""

    folders = ("mm-vet", "mmvet")
    marks = (QUESTIONS,)
    expected_n = 218
    max_new_tokens = 1024
    task = "mmvet"
    metric = "mean grade of a language model"

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        source = home / TRUTH
        truth = by_id(source)
        for sample in questions(home / QUESTIONS, home / "images", faults):
            name = f"v1_{sample.id}"
            with faults.at(source, name):
                if name not in truth:
                    raise ValueError(f"no such question, but {QUESTIONS} asks it; expected the same version in both")
                needs = want(truth[name], "capability", list)
                yield sample.but(target=want(truth[name], "answer"), meta={"needs": sorted(map(str, needs))})

    def key(self, row: Row) -> str:
        return row_id(row).removeprefix("v1_")

    def item(self, sample: Sample, answer: str) -> float:
        """The best of the alternatives (<OR>), each by the share of its elements (<AND>) that the answer holds."""
        shares = []
        for alternative in sample.target.split("<OR>"):
            elements = alternative.split("<AND>")
            shares.append(sum(contained(element, answer) for element in elements) / len(elements))
        return max(shares)

    def grade(self, verdict: Mapping[str, Any]) -> float:
        grade = float(want(verdict, "score", int, float))
        if not 0 <= grade <= 1:
            raise ValueError(f"{self.name}: expected a grade from 0 to 1, found {grade}")
        return grade

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        """By capability, over the questions that need it (among others), and by exact set of capabilities."""
        pairs = [(need, items[place]) for place, sample in enumerate(samples) for need in sample.meta["needs"]]
        sets = [", ".join(sample.meta["needs"]) for sample in samples]
        return {
            **means([need for need, _ in pairs], [item for _, item in pairs], "capability/"),
            **means(sets, items, "integration/"),
        }
