"""POPE: does the model see objects that are not there? Three times 3,000 yes/no questions on COCO pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.benchmarks.base import Array, Benchmark, Statistic, ratio
from eval.reading.read import Faults, records, want
from eval.reading.sample import Sample

CATEGORIES = ("adversarial", "popular", "random")
PINNED = "the labels of POPE commit e3e39262, which LLaVA's questions were made from (random: 2,910)"


class Pope(Benchmark):
    """Yes/no questions in three categories, by how the absent objects were chosen."""

    folders = ("pope",)
    marks = ("llava_pope_test.jsonl",)
    expected_n = 8910
    metric = "mean F1 of the three categories"

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        labels: dict[tuple[str, str, str], str] = {}
        for category in CATEGORIES:
            path = home / "coco" / f"coco_pope_{category}.json"
            for where, record in records(path, faults):
                with faults.at(path, where):
                    label = want(record, "label")
                    if label not in ("yes", "no"):
                        raise ValueError(f"expected the label 'yes' or 'no', found {label!r:.40}")
                    key = (category, want(record, "image"), asked(want(record, "text")))
                    if key in labels:
                        raise ValueError(f"asks about {key[2]!r} in {key[1]} a second time; expected one label each")
                    labels[key] = label
        path = home / "llava_pope_test.jsonl"
        unused = dict.fromkeys(labels)
        for where, record in records(path, faults):
            with faults.at(path, where):
                category, name, text = want(record, "category"), want(record, "image"), want(record, "text")
                key = (category, name, asked(text))
                if key not in labels:
                    raise ValueError(
                        f"question {record.get('question_id')!r} ({category}, {name}, {key[2]!r}) has no label in "
                        f"{home / 'coco'}; expected {PINNED}"
                    )
                unused.pop(key, None)
                root = home / "val2014"
                yield Sample(
                    id=want(record, "question_id", int, str),
                    text=text,
                    image=root / name,
                    root=root,
                    group=name,
                    target=labels[key],
                    category=category,
                )
        if unused:
            category, name, thing = next(iter(unused))
            faults.add(
                home / "coco" / f"coco_pope_{category}.json",
                f"{len(unused):,} labels belong to no question of {path.name}, first {thing!r} in {name}; "
                f"expected {PINNED}",
            )

    def item(self, sample: Sample, answer: str) -> float:
        return float(parsed(answer) == sample.target)

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        masks = list(_masks(samples).values())
        yes = _yes(samples)

        def value(weights: Array) -> Array:
            # A wrong item is the opposite answer, so right and label give all four counts.
            scores = [_f1(weights @ (items * yes * m), weights @ ((1 - items) * m)) for m in masks]
            return np.asarray(100 * np.mean(scores, axis=0))

        return value

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        yes = _yes(samples)
        parts: dict[str, float] = {}
        for category, mask in _masks(samples).items():
            hit = (items * yes * mask).sum()
            wrong = (1 - items) * mask
            claimed, real = hit + (wrong * (1 - yes)).sum(), (yes * mask).sum()
            for name, top, bottom in (
                ("accuracy", (items * mask).sum(), mask.sum()),
                ("precision", hit, claimed),
                ("recall", hit, real),
                ("f1", 2 * hit, claimed + real),
                ("yes_ratio", claimed, mask.sum()),
            ):
                parts[f"{category}/{name}"] = float(100 * ratio(top, bottom))
        return parts

    def unclear(self, sample: Sample, answer: str) -> bool:
        """Neither word: POPE takes it for yes, and so do we, but it is counted."""
        return parsed(answer) == "yes" and "yes" not in answer.lower()


def parsed(answer: str) -> str:
    """POPE's parser: `no` when a whole word of the first sentence is No, no or not; everything else is `yes`."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def asked(text: str) -> str:
    """What is asked about. The wording around it differs between versions of POPE ("imange" in the old version)."""
    line = " ".join(text.partition("\n")[0].lower().split())
    match = re.fullmatch(r"is there an? (.+?) in the iman?ge ?\??", line)
    return match[1] if match else line.replace("imange", "image")


def _masks(samples: Sequence[Sample]) -> dict[str, Array]:
    names = sorted({sample.category for sample in samples})
    return {name: np.array([float(sample.category == name) for sample in samples]) for name in names}


def _yes(samples: Sequence[Sample]) -> Array:
    return np.array([float(sample.target == "yes") for sample in samples])


def _f1(hit: Array, wrong: Array) -> Array:
    return ratio(2 * hit, 2 * hit + wrong)
