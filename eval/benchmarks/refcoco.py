"""RefCOCO, RefCOCO+ and RefCOCOg: which region does an expression describe? Eight splits in Qwen-VL's files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from eval.benchmarks.base import Array, Benchmark, Statistic, mean, means
from eval.reading.read import Faults, records, want
from eval.reading.sample import Sample
from eval.scoring.box import FRAMES, find_box, iou, tidy, to_pixels

SIZES = {
    "refcoco": {"val": 10834, "testA": 5657, "testB": 5095},
    "refcoco+": {"val": 10758, "testA": 5726, "testB": 4889},
    "refcocog": {"val": 4896, "test": 9602},
}
PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: "
STYLES = {"llava": "{}", "internvl": "<ref>{}</ref>"}


class Refcoco(Benchmark):
    """Expressions that each describe one region, answered by a box; also RefCOCO+ and RefCOCOg."""

    folders = ("refcoco", "data/refcoco")
    max_new_tokens = 100
    metric = "accuracy at IoU >= 0.5, mean of the splits"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.marks = tuple(f"{name}_{split}.jsonl" for split in SIZES[name])
        self.expected_n = sum(SIZES[name].values())

    def read(
        self, home: Path, faults: Faults, media: bool, split: str = "", style: str = "llava", frame: str = ""
    ) -> Iterator[Sample]:
        """`split`: one of the set's; by default every split whose file is there.

        `style`: the wording, llava or internvl. `frame`: what answers are relative to, the padded square (LLaVA-1.5,
        the default of its style) or the original picture.
        """
        known = SIZES[self.name]
        if split and split not in known:
            raise ValueError(f"{self.name} has the splits {', '.join(known)}, not {split!r}")
        if style not in STYLES:
            raise ValueError(f"expected the style {' or '.join(STYLES)}, found {style!r}")
        frame = frame or ("square" if style == "llava" else "original")
        if frame not in FRAMES:
            raise ValueError(f"expected the frame {' or '.join(FRAMES)}, found {frame!r}")
        for name in [split] if split else [name for name in known if (home / f"{self.name}_{name}.jsonl").exists()]:
            yield from self._split(home, name, style, frame, media, faults)

    def _split(self, home: Path, split: str, style: str, frame: str, media: bool, faults: Faults) -> Iterator[Sample]:
        path = home / f"{self.name}_{split}.jsonl"
        for number, (where, record) in enumerate(records(path, faults)):
            with faults.at(path, where):
                width, height = want(record, "width", int), want(record, "height", int)
                box = want(record, "bbox", list)
                if min(width, height) < 1:
                    raise ValueError(f"expected a width and a height of at least 1, found {width} x {height}")
                if len(box) != 4 or not all(isinstance(value, int | float) for value in box):
                    raise ValueError(f"expected four numbers in 'bbox' (x1, y1, x2, y2 in pixels), found {box!r:.80}")
                if not (box[0] < box[2] and box[1] < box[3]):
                    raise ValueError(f"expected x1 < x2 and y1 < y2 in 'bbox', found {box} (x, y, width, height?)")
                name = want(record, "image")
                image, root = place(home, name) if media else (home / name, home)
                yield Sample(
                    f"{self.name}_{split}_{number}",
                    PROMPT + STYLES[style].format(want(record, "sent")),
                    image,
                    group=name,
                    target=tidy(box, width, height),
                    category=split,
                    root=root,
                    meta={"size": (width, height), "frame": frame},
                )

    def sizes(self, samples: Sequence[Sample]) -> list[tuple[str, int, int]]:
        known = SIZES[self.name]
        counts = {split: sum(sample.category == split for sample in samples) for split in known}
        return [(f"{self.name} {split}", n, known[split]) for split, n in counts.items() if n]

    def item(self, sample: Sample, answer: str) -> float | None:
        return overlap(sample, answer, sample.meta["frame"])

    def statistic(self, samples: Sequence[Sample], items: Array) -> Statistic:
        splits = sorted({sample.category for sample in samples})
        masks = [np.array([sample.category == split for sample in samples]) for split in splits]
        values = [mean(items, mask) for mask in masks]
        return lambda weights: np.mean([value(weights) for value in values], axis=0)

    def parts(self, samples: Sequence[Sample], items: Array, answers: Mapping[str, str]) -> dict[str, float]:
        parts = means([sample.category for sample in samples], items)
        for frame in FRAMES:
            values = np.array([overlap(s, answers[s.key], frame) or 0.0 if s.key in answers else 0.0 for s in samples])
            parts |= means([sample.category for sample in samples], values, f"{frame}/")
        return parts

    def info(self, samples: Sequence[Sample], answers: Mapping[str, str]) -> dict[str, Any]:
        return {"frame": samples[0].meta["frame"], "splits": sorted({sample.category for sample in samples})}


def overlap(sample: Sample, answer: str, frame: str) -> float | None:
    """1 where the answer's box covers the true box; None without a box."""
    box = find_box(answer)
    return None if box is None else float(iou(to_pixels(box, sample.meta["size"], frame), sample.target) >= 0.5)


def place(home: Path, name: str) -> tuple[Path, Path]:
    """(path, folder it must not leave) of a picture. The files name pictures from the folder that a script ran in:
    `data/coco/...` may lie below the data root, below the folder that holds it, or, without `data/`, in the root."""
    root, parts = home.parent, PurePosixPath(name).parts
    below = parts[1:] if parts[:1] == ("data",) else parts
    if not name.startswith("/") and ".." not in parts:
        for base, path in ((root, parts), (root.parent, parts), (root, below), (home, parts)):
            if os.path.exists(base.joinpath(*path)):
                return base.joinpath(*path), base.joinpath(*path[: -len(below)], *below[: len(below) > 1])
    return root / name, root
