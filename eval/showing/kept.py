"""One question's picture with the tokens that each run and arm kept of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from eval import benchmarks
from eval.answering.store import Folder, decode
from eval.reading.images import open_image
from eval.scoring.results import questions
from eval.showing import cells, drawings
from pruners.parts.canvas import padded


def name(key: str) -> str:
    """What the figure of a question is called."""
    return f"kept-{re.sub('[^A-Za-z0-9]+', '-', key)[:60]}"


def kept(
    folders: Sequence[Path],
    key: str,
    arms: Sequence[str] | None = None,
    data: str | None = None,
    model: str | None = None,
) -> Figure:
    """One question's picture, as every run and arm left it.

    key: of the question. arms: None: all. data: where the annotations are now, when they moved. model: the checkpoint,
    whose configuration says how it cuts pictures into tiles.
    """
    panels: dict[str, dict[str, tuple[Any, str]]] = {}
    title = ""
    for path in folders:
        info = Folder(path).info()
        for name, facts in info["benchmarks"].items():
            for arm in Folder(path).arms(name):
                row = next((row for row in Folder(path).rows(name, arm) if row["metadata"]["key"] == key), None)
                if row is None or "size" not in row["metadata"] or (arms is not None and arm not in arms):
                    continue
                root = data or facts["data"]
                sample = next(question for question in questions(benchmarks.get(name), root, None, facts.get("options"))
                              if question.key == key)  # fmt: skip
                title = f"{name}: {sample.text.splitlines()[0]}"
                canvas = canvas_for(facts, model)(tuple(row["metadata"]["size"]))
                stayed = row["metadata"]["kept"][-1] if "kept" in row["metadata"] else None
                shown = drawings.overlay(open_image(sample), None if stayed is None else decode(stayed), canvas)
                panels.setdefault(path.name, {})[arm] = (shown, row["text"])
    if not panels:
        among = f" in the arms {', '.join(arms)}" if arms else ""
        raise ValueError(
            f"no run has an answer about a picture with the key {key!r}{among}; keys stand in the rows' metadata"
        )
    return drawings.overlays(panels, title)


def canvas_for(facts: Mapping[str, Any], model: str | None) -> Callable[[tuple[int, int]], Any]:
    """How pictures of a benchmark were cut: by a checkpoint's config, or as one padded square."""
    if model is not None:
        return cells.canvas_of(model, facts.get("max_patches"))
    side = cells.square(facts.get("tokens"))
    if not side:
        raise ValueError(
            "the run does not say how its model cuts pictures into tokens; name the checkpoint with --model"
        )
    return lambda size: padded(size, side)
