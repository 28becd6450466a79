"""TGIF-QA, MSVD-QA and MSRVTT-QA: short questions about clips, in Video-LLaVA's layout, with its prompt and judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.base import Array, means, truth_of
from eval.benchmarks.judged import Judged, contained, contained_stems, exact
from eval.reading.read import Faults, label, listed, want
from eval.reading.sample import Sample

ENDINGS = (".mp4", ".avi", ".mov", ".mkv")
CLIPS = (*ENDINGS, ".webm")  # what is taken for a clip where no benchmark says it
# The folder, where in it the clips lie, and the questions of the official set.
SETS = {
    "tgif": ("TGIF_Zero_Shot_QA", "mp4", 25751),
    "msvd": ("MSVD_Zero_Shot_QA", "videos", 13157),
    "msrvtt": ("MSRVTT_Zero_Shot_QA", "videos/all", 72821),
}


class VideoQA(Judged):
    """Questions about animated GIFs (all four kinds of TGIF-QA's test set), clips of YouTube, or clips of the web."""

    marks = ("test_q.json",)
    media = "video"
    conversation = "llava_v1"
    max_new_tokens = 1024
    task = "video"
    metric = "accuracy, yes / (yes + no) of a language model"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        folder, self.videos, self.expected_n = SETS[name]
        self.folders = (f"GPT_Zero_Shot_QA/{folder}", folder)

    def read(self, home: Path, faults: Faults, media: bool) -> Iterator[Sample]:
        truth: dict[str, tuple[str, str]] = {}
        source = home / "test_a.json"
        for where, record in listed(source, faults):
            with faults.at(source, where):
                truth[str(want(record, "question_id", str, int))] = want(record, "answer"), label(record, "type")
        path, root = home / "test_q.json", home / self.videos
        clips = {clip.name for clip in root.iterdir()} if media and root.is_dir() else set()
        for where, record in listed(path, faults):
            with faults.at(path, where):
                id, name = want(record, "question_id", str, int), want(record, "video_name")
                target, kind = truth_of(id, truth, source)
                ending = next((ending for ending in ENDINGS if name + ending in clips), ENDINGS[0])
                video = root / (name + ending)
                yield Sample(
                    id, want(record, "question"), video=video, group=name, target=target, category=kind, root=root
                )

    def item(self, sample: Sample, answer: str) -> float:
        return float(contained(sample.target, answer))

    def grade(self, verdict: Mapping[str, Any]) -> float:
        return {"yes": 1.0, "no": 0.0}[want(verdict, "pred").strip().lower()]

    def judged_parts(self, verdicts: Sequence[Mapping[str, Any]], n: int) -> dict[str, float]:
        """The mean of the judge's 0..5, cut to whole numbers as the official script does."""
        return {"score": sum(int(want(verdict, "score", int, float)) for verdict in verdicts) / n}

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        ways = {"exact": exact, "contained": contained, "contained_stems": contained_stems}
        shares = {
            f"em/{name}": 100
            * float(np.mean([way(s.target, answers[s.key]) if s.key in answers else 0.0 for s in samples]))
            for name, way in ways.items()
        }
        return {**shares, **means([sample.category for sample in samples], items, "type/")}
