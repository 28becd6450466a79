"""Multiple-choice benchmarks: ScienceQA as LLaVA reads it, and both MMBench tables with their rotations."""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tiny.drawn import world
from tiny.drawn.questions import CHINESE, Question
from tiny.drawn.scenes import COLOURS, SHAPES, Scene
from tiny.layouts.lots import Lots

COLUMNS = (
    *("index", "question", "hint", "A", "B", "C", "D", "answer"),
    *("category", "image", "source", "l2-category", "comment", "split"),
)
ROTATION = 1_000_000  # MMBench: index = question + rotation * one million

# kind -> MMBench's category and the level above it
MMBENCH_KINDS = {
    "colour": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "next_colour": ("spatial_relationship", "relation_reasoning"),
    "shape": ("object_localization", "finegrained_perception (instance-level)"),
    "chain_shape": ("spatial_relationship", "relation_reasoning"),
    "read": ("ocr", "finegrained_perception (instance-level)"),
    "count": ("attribute_comparison", "finegrained_perception (cross-instance)"),
    "chain_colour": ("spatial_relationship", "relation_reasoning"),
    "next_shape": ("spatial_relationship", "relation_reasoning"),
}


def scienceqa(lots: Lots) -> None:
    """Two questions of three have a picture; the rest are answered from the text alone, as in the real test set."""
    asked: list[dict[str, Any]] = []
    problems: dict[str, Any] = {}
    kinds = tuple(MMBENCH_KINDS)
    pictured = _chosen(lots, kinds, max(4, lots.n * 2 // 3), (2, 3, 4, 5))
    worded = (_from_text(lots.rng(("text", k))) for k in range(max(2, lots.n // 3)))
    for scene, question, hint in [*((s, q, "") for s, q in pictured), *((None, q, h) for q, h in worded)]:
        pid = str(5 + 3 * len(asked))
        lines = [f"Context: {hint}"] * bool(hint) + [question.text]
        lines += [f"{letter}. {option}" for letter, option in zip("ABCDE", question.options, strict=False)]
        answer = question.options.index(question.answer)
        record: dict[str, Any] = {"id": pid}
        if scene is not None:
            record["image"] = f"{pid}/image.png"
            lines.insert(0, "<image>")
            lots.picture(scene, f"scienceqa/images/test/{pid}/image.png")
        record["conversations"] = [
            {"from": "human", "value": "\n".join(lines)},
            {"from": "gpt", "value": "ABCDE"[answer]},
        ]
        asked.append(record)
        problems[pid] = {
            "question": question.text,
            "choices": list(question.options),
            "answer": answer,
            "hint": hint,
            "image": "image.png" if scene is not None else None,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science" if scene is not None else "language science",
            "topic": question.kind,
            "category": question.kind,
            "skill": question.kind,
            "lecture": "",
            "solution": "",
            "split": "test",
        }
    lots.json(asked, "scienceqa/llava_test_CQM-A.json")
    lots.json(problems, "scienceqa/problems.json")
    lots.json({"train": [], "val": [], "test": list(problems)}, "scienceqa/pid_splits.json")


def _chosen(lots: Lots, kinds: tuple[str, ...], n: int, sizes: tuple[int, ...]) -> Iterator[tuple[Scene, Question]]:
    """n questions with options, the right answers spread evenly over the letters."""
    places: dict[int, int] = {}
    for picture, scene, group in lots.asked(kinds, each=1, n=8 * n, signs=(1, 2)):
        rng = lots.rng(("options", picture))
        question = world.with_options(group[0], scene, rng, sizes[picture % len(sizes)])
        if question is None:
            continue
        options = [option for option in question.options if option != question.answer]
        place = places.get(len(options), 0)
        places[len(options)] = place + 1
        options.insert(place % (len(options) + 1), question.answer)
        yield scene, replace(question, options=tuple(options))
        n -= 1
        if n == 0:
            return


def _from_text(rng: random.Random) -> tuple[Question, str]:
    shapes, colours = rng.sample(SHAPES, 2), rng.sample(list(COLOURS), 4)
    hint = f"The {shapes[0]} is {colours[0]}. The {shapes[1]} is {colours[1]}."
    asked = rng.randrange(2)
    options = rng.sample(colours, 4)
    question = Question("text", f"What colour is the {shapes[asked]}?", colours[asked], (), tuple(options))
    return question, hint


def mmbench(lots: Lots) -> None:
    """The table with its pictures; every question once for each rotation of its options."""
    kinds = tuple(MMBENCH_KINDS)
    questions = _chosen(lots, kinds, max(4, lots.n // 3), (4, 4, 3, 4, 2))
    _write_table(lots.path("mmbench/mmbench_dev_20230712.tsv"), questions)


def mmbench_cn(lots: Lots) -> None:
    """Questions, options and the request for a letter in Chinese."""
    kinds = ("colour", "next_colour", "shape", "chain_shape", "chain_colour", "next_shape")
    questions = (
        (scene, replace(q, text=q.chinese, answer=CHINESE[q.answer], options=tuple(CHINESE[o] for o in q.options)))
        for scene, q in _chosen(lots, kinds, max(4, lots.n // 3), (4, 4, 3, 4, 2))
    )
    _write_table(lots.path("mmbench_cn/mmbench_dev_cn_20231003.tsv"), questions)


def _write_table(path: Path, questions: Iterator[tuple[Scene, Question]]) -> None:
    rows: list[dict[str, Any]] = []
    for number, (scene, question) in enumerate(questions):
        category, above = MMBENCH_KINDS[question.kind]
        for turn in range(len(question.options)):
            options = [*question.options[turn:], *question.options[:turn]]
            rows.append(
                {
                    "index": 241 + 3 * number + turn * ROTATION,
                    "question": question.text,
                    **dict(zip("ABCD", options, strict=False)),
                    "answer": "ABCD"[options.index(question.answer)],
                    "category": category,
                    "image": _base64(world.draw(scene)),
                    "source": "a tiny world",
                    "l2-category": above,
                    "split": "dev",
                }
            )
    rows.sort(key=lambda row: int(row["index"]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
