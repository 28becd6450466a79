"""MME: two yes/no questions per picture in fourteen categories, scored by question and by picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.benchmarks.base import SHORT, Array, Benchmark, Statistic, all_right, ratio
from eval.reading.read import Faults, lines, records, want
from eval.reading.sample import Row, Sample, row_id

QUESTIONS = "llava_mme.jsonl"
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ENDING = "Please answer yes or no."


class Mme(Benchmark):
    """Yes/no questions in pairs about one picture."""

    folders = ("MME", "mme")
    marks = (QUESTIONS,)
    expected_n = 2374
    metric = "perception, the sum of accuracy and accuracy+ over its ten categories (at most 2000)"

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        root = home / "MME_Benchmark_release_version"
        if (root / "MME_Benchmark").is_dir():
            root = root / "MME_Benchmark"
        truths: dict[Path, dict[str, str]] = {}
        path = home / QUESTIONS
        for where, record in records(path, faults):
            with faults.at(path, where):
                id, name, text = want(record, "question_id"), want(record, "image"), want(record, "text")
                category = id.partition("/")[0]
                if category not in PERCEPTION + COGNITION:
                    raise ValueError(f"expected a question_id that begins with a category of MME, found {id!r:.80}")
                source = _truth(root, category, id)
                if source not in truths:
                    truths[source] = dict(_pairs(source, faults))
                question = asked(text)
                if question not in truths[source]:
                    raise ValueError(f"{question!r} is not in {source}; expected the questions of that file")
                yield Sample(
                    id,
                    text,
                    root / name,
                    group=id,
                    target=truths[source][question],
                    category=category,
                    key=joined(id, question),
                    root=root,
                )

    def key(self, row: Row) -> str:
        return joined(row_id(row), asked(self.prompt(row)))  # both questions about a picture have its id

    def item(self, sample: Sample, answer: str) -> float | None:
        word = parsed(answer)
        return None if word is None else float(word == sample.target)

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        categories = [self._category(samples, items, name) for name in PERCEPTION if _any(samples, name)]
        # Of few questions none may be about perception; that is 0 points, for every replicate.
        return lambda weights: sum((value(weights) for value in categories), np.zeros(weights.shape[:-1]))

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        ones = np.ones(len(items))
        parts = {
            name: float(self._category(samples, items, name)(ones))
            for name in PERCEPTION + COGNITION
            if _any(samples, name)
        }
        perception = sum(parts.get(name, 0) for name in PERCEPTION)
        cognition = sum(parts.get(name, 0) for name in COGNITION)
        return {"perception": perception, "cognition": cognition, "total": perception + cognition, **parts}

    def _category(self, samples: Sequence[Sample], items: Array, name: str) -> Statistic:
        """Accuracy by question plus accuracy by picture, where all questions about it must be right; at most 200."""
        mask = np.array([float(sample.category == name) for sample in samples])
        both, first = all_right(samples, items)
        first = first * mask
        return lambda weights: (
            100 * (ratio(weights @ (items * mask), weights @ mask) + ratio(weights @ (both * first), weights @ first))
        )


def parsed(answer: str) -> str | None:
    """MME's parser: yes, or else no, in the first four characters; so `know` is a no."""
    answer = " ".join(answer.lower().split())  # a line break would shift the columns of MME's own answer files
    return next((word for word in ("yes", "no") if word in answer[:4]), None)


def asked(text: str) -> str:
    """The bare question: LLaVA's instruction and MME's own ending are taken off, whatever the spaces between."""
    text = " ".join(text.replace(SHORT, "").split())
    return text.removesuffix(ENDING).strip()


def joined(id: str, question: str) -> str:
    """The key of a question: its picture's id alone belongs to two."""
    return f"{id}: {question}"


def _truth(root: Path, category: str, id: str) -> Path:
    """MME comes in two shapes: pictures and texts in folders of their own, or side by side."""
    name = id.rpartition("/")[2].partition(".")[0] + ".txt"
    apart = root / category / "questions_answers_YN" / name
    return apart if os.path.exists(apart) else root / category / name


def _pairs(path: Path, faults: Faults) -> Iterator[tuple[str, str]]:
    for where, line in lines(path):
        with faults.at(path, where):
            question, tab, answer = line.strip().rpartition("\t")
            if not tab or answer.strip().lower() not in ("yes", "no"):
                raise ValueError(f"expected a question, a tab, and Yes or No; found {line!r:.120}")
            yield asked(question), answer.strip().lower()


def _any(samples: Sequence[Sample], category: str) -> bool:
    return any(sample.category == category for sample in samples)
