"""One question about one file: answered in every arm, drawn into one figure and onto the terminal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.answering.checkpoints import layout
from eval.benchmarks.video import CLIPS
from eval.core.embedded import EMBEDDED, named
from eval.core.settings import Settings
from eval.core.tables import Table, say
from eval.core.tables import show as table
from eval.harnesses.pruned import Pruned
from eval.reading.images import open_image
from eval.reading.sample import Sample
from eval.reading.video import read_frames
from eval.serving.panels import Panel, in_arms, panels
from eval.showing import drawings, terminal
from pruners import catalogue
from pruners.models import Request

LONGEST = 64  # tokens of an answer, where the settings leave it open


def show(path: Path, question: str, settings: Settings, out: Path, how: str = "auto") -> dict[str, Any]:
    """Answer in the arms of the settings (by default unpruned, and all that the method has); draw into `out` and onto
    the terminal.

    Returns what was answered and kept in each arm, and where the figure lies.
    """
    how = terminal.kind(how)
    clip = path.suffix.lower() in CLIPS
    if settings.model is None:
        settings = replace(settings, model=str(EMBEDDED["video" if clip else "image"]))
    request = read(path, question, settings.model or "")
    pruned = Pruned(settings)
    drawn_panels = list(panels(in_arms(pruned, settings.arms), request, settings.max_new_tokens or LONGEST))
    label = f"{catalogue.title(settings.method)}, keep {pruned.chosen.pruner.keep:.3g}"
    drawn = drawings.overlays({label: {panel.arm: (panel.picture, panel.text) for panel in drawn_panels}}, question)
    out.write_bytes(drawings.rendered(drawn))
    if how != "none":
        many = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        pictures = {panel.arm: panel.picture for panel in drawn_panels}
        terminal.put("\n".join(terminal.gallery(pictures, how, shutil.get_terminal_size().columns, many)))
    table(answers(question, drawn_panels))
    say(f"the figure is in {out}")
    facts = {panel.arm: panel.facts() for panel in drawn_panels}
    return {"question": question, "method": repr(pruned.chosen.pruner), "model": settings.model, "arms": facts,
            "figure": str(out)}  # fmt: skip


def read(path: Path, question: str, model: str) -> Request:
    """The question with its picture or clip, which the model's family has to take."""
    if path.suffix.lower() not in CLIPS:
        return Request(question, [open_image(Sample(question, question, path))])
    laid_out = layout(named(model))
    if not laid_out.family.takes_clips():
        raise ValueError(f"{path}: models of type {laid_out.kind} take pictures, not clips; name another with --model")
    return Request(question, video=read_frames(path))


def answers(question: str, drawn: Sequence[Panel]) -> Table:
    """The answers, and how many tokens stayed behind the last cut."""
    rows = [
        [
            panel.arm,
            panel.text,
            panel.tokens if panel.kept is None else len(panel.kept),
            None if panel.kept is None else panel.padding,
        ]
        for panel in drawn
    ]
    note = f"kept: of {drawn[0].tokens} visual tokens, behind the last cut; padding: how many of them show only border"
    return Table(question, ["arm", "answer", "kept", "padding"], rows, [note])
