"""GQA testdev-balanced: compositional questions about 398 pictures, scored by equality of strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Array, Benchmark, means, truth_of
from eval.reading.read import Faults, by_id, label, records, want
from eval.reading.sample import Sample

QUESTIONS = "llava_gqa_testdev_balanced.jsonl"
TRUTH = ("data/testdev_balanced_questions.json", "data/questions1.2/testdev_balanced_questions.json")

KEPT = ("question", "types", "semantic", "groups", "boxes")  # boxes: of what is asked about, in our own data alone


class Gqa(Benchmark):
    """Questions about real scenes, with the program that answers each."""

    folders = ("gqa",)
    marks = (QUESTIONS,)
    expected_n = 12578
    metric = "accuracy"

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        source = next((home / name for name in TRUTH if (home / name).exists()), home / TRUTH[0])
        truth = by_id(source)
        path, root = home / QUESTIONS, home / "data" / "images"
        for where, record in records(path, faults):
            with faults.at(path, where):
                id = want(record, "question_id", str, int)
                known = truth_of(id, truth, source)
                with faults.at(source, f"question {id!r}"):
                    target = want(known, "answer")
                    if known.get("isBalanced", True):
                        name = want(record, "image")
                        meta = {key: known[key] for key in KEPT if key in known}
                        yield Sample(
                            id, want(record, "text"), root / name, group=name, target=target, meta=meta, root=root
                        )

    def item(self, sample: Sample, answer: str) -> float:
        return float(parsed(answer) == sample.target)

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        types = [_of(sample, "types") for sample in samples]
        structural = [label(kind, "structural") for kind in types]
        parts = means(["" if not kind else "open" if kind == "query" else "binary" for kind in structural], items)
        parts |= means(structural, items, "structural/")
        parts |= means([label(kind, "semantic") for kind in types], items, "semantic/")
        parts |= means([_words(sample) for sample in samples], items, "words/")
        parts |= means([_steps(sample) for sample in samples], items, "steps/")
        distribution = _distribution(samples, answers)
        return parts if distribution is None else {**parts, "distribution": distribution}


def parsed(answer: str) -> str:
    """The answer without its full stop and capitals, as GQA's script compares it."""
    return answer.rstrip(".").lower()


def _of(sample: Sample, name: str) -> dict[str, Any]:
    value = sample.meta.get(name)
    return value if isinstance(value, dict) else {}


def _words(sample: Sample) -> str:
    text = sample.meta.get("question")
    return f"{len(text.split()):02}" if isinstance(text, str) else ""


def _steps(sample: Sample) -> str:
    """Reasoning steps: the operations of the question's program that do more than read off the result."""
    program = sample.meta.get("semantic")
    if not isinstance(program, list):
        return ""
    steps = [f"{step.get('operation')}: {step.get('argument')}" for step in program if isinstance(step, dict)]
    trivial = ("exist", "query: name", "choose name")
    return f"{sum(not any(name in step for name in trivial) for step in steps):02}"


def _distribution(samples: Sequence[Sample], answers: Mapping[str, str]) -> float | None:
    """Distance between the answers' and the true distribution: chi-square by global group, question mean / 100."""
    gold: dict[str, Counter[str]] = {}
    ours: dict[str, Counter[str]] = {}
    for sample in samples:
        group = label(_of(sample, "groups"), "global")
        if group:
            gold.setdefault(group, Counter())[sample.target] += 1
            ours.setdefault(group, Counter())[parsed(answers.get(sample.key, ""))] += 1
    if not gold:
        return None
    total = sum(
        counts.total() * sum((ours[group][answer] - n) ** 2 / n for answer, n in counts.items())
        for group, counts in gold.items()
    )
    return total / sum(counts.total() for counts in gold.values()) / 100
