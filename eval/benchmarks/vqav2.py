"""VQAv2: test-dev, which only EvalAI can score, and val2014, the stand-in that can be scored here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eval.benchmarks.base import SHORT, Array, Benchmark, means, questions, ten_answers, truth_of
from eval.reading.read import Faults, listed, want
from eval.reading.sample import Sample
from eval.scoring.normalise import vqa_official_accuracy

TEST_DEV = "llava_vqav2_mscoco_test-dev2015.jsonl"
VAL = "v2_OpenEnded_mscoco_val2014_questions.json"
VAL_TRUTH = "v2_mscoco_val2014_annotations.json"


class Vqav2(Benchmark):
    """Questions about COCO pictures with ten human answers each."""

    folders = ("vqav2",)
    marks = (TEST_DEV, VAL)
    expected_n = 107394
    metric = "VQA accuracy"
    unanswered = "export the answers and upload them to EvalAI challenge 830, or score val2014 (split val2014)"

    def read(self, home: Path, faults: Faults, media: bool, split: str = "") -> Iterator[Sample]:
        """`split`: test-dev or val2014; by default val2014 where its questions are."""
        split = split or ("val2014" if (home / VAL).exists() else "test-dev")
        if split == "val2014":
            return self._val(home, faults)
        if split == "test-dev":
            return questions(home / TEST_DEV, home / "test2015", faults)
        raise ValueError(f"vqav2 has the splits test-dev and val2014, not {split!r}")

    def _val(self, home: Path, faults: Faults) -> Iterator[Sample]:
        truth: dict[str, tuple[list[str], str]] = {}
        path = home / VAL_TRUTH
        for where, record in listed(path, faults, "annotations"):
            with faults.at(path, where):
                truth[str(want(record, "question_id", int))] = ten_answers(record), want(record, "answer_type")
        path, root = home / VAL, home / "val2014"
        for where, record in listed(path, faults, "questions"):
            with faults.at(path, where):
                id, name = want(record, "question_id", int), f"COCO_val2014_{want(record, 'image_id', int):012d}.jpg"
                text = f"{want(record, 'question')}\n{SHORT}"
                target, kind = truth_of(id, truth, home / VAL_TRUTH)
                yield Sample(id, text, root / name, group=name, target=target, category=kind, root=root)

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        val = any(sample.target for sample in samples)
        return [("vqav2 val2014" if val else "vqav2 test-dev", len(samples), 214354 if val else self.expected_n)]

    def called(self, samples: Sequence[Sample]) -> str:
        return "vqav2_val"

    def item(self, sample: Sample, answer: str) -> float:
        return vqa_official_accuracy(answer, sample.target)

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        return means([sample.category for sample in samples], items)
