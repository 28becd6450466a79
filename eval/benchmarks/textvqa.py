"""TextVQA val 0.5.1: reading in pictures. LLaVA's questions name the tokens that an OCR engine found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmarks.base import Benchmark, ten_answers
from eval.reading.read import Faults, listed, records, want
from eval.reading.sample import Row, Sample, Score, row_id
from eval.scoring.normalise import m4c_accuracy

QUESTIONS, TRUTH = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_0.5.1_val.json"
OCR = "Reference OCR token:"


class Textvqa(Benchmark):
    """Questions about the text in pictures, with ten human answers each."""

    folders = ("textvqa",)
    marks = (QUESTIONS,)
    expected_n = 5000
    metric = "VQA accuracy (M4C)"

    def read(self, home: Path, faults: Faults, media: bool, ocr: bool = True) -> Iterator[Sample]:
        """`ocr=False` leaves the line with the OCR tokens out of the questions: a much harder benchmark."""
        truth: dict[str, list[str]] = {}
        path = home / TRUTH
        for where, record in listed(path, faults, "data"):
            with faults.at(path, where):
                key = joined(want(record, "image_id"), want(record, "question"))
                if key in truth:
                    raise ValueError(f"asks {key!r} a second time; expected every question of a picture once")
                truth[key] = ten_answers(record)
        path, root = home / QUESTIONS, home / "train_images"
        for where, record in records(path, faults):
            with faults.at(path, where):
                id, name, text = want(record, "question_id"), want(record, "image"), want(record, "text")
                key = joined(id, asked(text))
                if key not in truth:
                    raise ValueError(f"{key!r} is not in {home / TRUTH}; expected the same version of TextVQA in both")
                if not ocr:
                    text = "\n".join(line for line in text.split("\n") if not line.startswith(OCR))
                yield Sample(id, text, root / name, group=name, target=truth[key], key=key, root=root)

    def key(self, row: Row) -> str:
        # LLaVA's question id is the picture's: only with the question, which the prompt holds, does it name a question.
        prompt = self.prompt(row)
        try:
            return joined(row_id(row), asked(prompt))
        except ValueError as error:
            raise ValueError(f"textvqa: the answer for {row_id(row)!r}: {error}") from None

    def item(self, sample: Sample, answer: str) -> float:
        return m4c_accuracy(answer, sample.target)

    def score(self, rows: Iterable[Row], samples: Sequence[Sample], judge: Any = None) -> Score:
        seen = set()  # what the answers' own prompts say: the two kinds of score are far apart

        def noted() -> Iterator[Row]:
            for row in rows:
                seen.add(OCR in str(row.get("prompt")))
                yield row

        score = super().score(noted(), samples, judge)
        with_ocr = "some" if len(seen) > 1 else seen.pop() if seen else None
        return replace(score, info={"normaliser": "m4c", "with_ocr": with_ocr})


def joined(image: str, question: str) -> str:
    """The key of a question: its picture's id and what is asked."""
    return f"{image}: {question.strip().lower()}"


def asked(prompt: str) -> str:
    """The question inside a prompt, in any of the forms that LLaVA's scorer knows."""
    if prompt.startswith("OCR tokens: "):
        match = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if match:
            return match[1]
    lines = prompt.split("\n")
    if len(lines) == 3 and any(line.startswith(OCR) for line in lines[:2]):
        return lines[1] if lines[0].startswith(OCR) else lines[0]
    if len(lines) == 2:
        return lines[0]
    raise ValueError(f"expected a question, a line {OCR!r} or none, and the instruction; found {prompt!r:.160}")
