"""VizWiz: the test set, which only EvalAI can score, and val, the stand-in that can be scored here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eval.benchmarks.base import SHORT, Array, Benchmark, means, questions, ten_answers
from eval.reading.read import Faults, label, listed, want
from eval.reading.sample import Row, Sample, row_id
from eval.scoring.normalise import m4c, m4c_accuracy

TEST, VAL = "llava_test.jsonl", "val.json"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


class Vizwiz(Benchmark):
    """Questions that blind people asked about their own pictures; some cannot be answered."""

    folders = ("vizwiz",)
    marks = (TEST, VAL)
    expected_n = 8000
    metric = "VQA accuracy"
    unanswered = "export the answers and upload them to EvalAI challenge 2185, or score val (split val)"

    def read(self, home: Path, faults: Faults, media: bool, split: str = "") -> Iterator[Sample]:
        """`split`: test or val; by default val where its pictures are, or where nothing else is.

        The download of the test set brings val.json along, so that the file alone says nothing.
        """
        split = split or ("val" if (home / "val").is_dir() or not (home / TEST).exists() else "test")
        if split == "val":
            return self._val(home, faults)
        if split == "test":
            return questions(home / TEST, home / "test", faults)
        raise ValueError(f"vizwiz has the splits test and val, not {split!r}")

    def _val(self, home: Path, faults: Faults) -> Iterator[Sample]:
        path, root = home / VAL, home / "val"
        for where, record in listed(path, faults):
            with faults.at(path, where):
                name, text = want(record, "image"), f"{want(record, 'question')}\n{UNANSWERABLE}\n{SHORT}"
                kind = label(record, "answer_type")
                yield Sample(name, text, root / name, target=ten_answers(record), category=kind, root=root)

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        val = any(sample.target for sample in samples)
        return [("vizwiz val" if val else "vizwiz test", len(samples), 4319 if val else self.expected_n)]

    def called(self, samples: Sequence[Sample]) -> str:
        return "vizwiz_val"

    def key(self, row: Row) -> str:
        return str(row["image"]) if "image" in row else row_id(row)

    def item(self, sample: Sample, answer: str) -> float:
        return m4c_accuracy(answer, sample.target)

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        said = sum(m4c(answer) == "unanswerable" for answer in answers.values())
        return {**means([s.category for s in samples], items), "said_unanswerable": 100 * said / len(samples)}
