"""The artefact `grid`: what is kept of what is asked about, and the trends that its runs divide by."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import torch
from PIL import Image

from debias import trends
from debias.fitting.settle import settle
from eval.core.settings import Settings
from eval.papers import artefacts, grid, reproduce
from eval.papers.grid import kept
from eval.papers.task import Task
from eval.reading.sample import Sample
from pruners.parts.canvas import padded


def test_recall_counts_the_patches_of_what_is_asked_about(tmp_path):
    Image.new("RGB", (96, 48)).save(tmp_path / "a.png")  # on a square of 12 x 12 cells, rows 3 to 8 show the picture
    sample = Sample("q", "?", image=tmp_path / "a.png", meta={"boxes": [[0, 0, 16, 8]]})  # the first two cells of row 3
    row = {"metadata": {"key": "q", "kept": ["0-143", "0,36,40,143"]}}
    scored = SimpleNamespace(samples=[sample], arms={"none": SimpleNamespace(rows=[row])})
    recall, padding = kept(scored, "none", lambda size: padded(size, 12))
    assert recall[0] == 1 / 2
    assert padding[0] == 1 / 2


def test_a_part_of_the_grid_leaves_trends_for_the_other_part(tmp_path, monkeypatch):
    settled = settle(torch.exp(0.01 * torch.arange(144.0)).repeat(4, 1), draws=10)
    monkeypatch.setattr(grid, "fitted", lambda task: (task.here.mkdir(parents=True), ([settled] * 9, 144))[1])
    part = artefacts.artefact("grid").only("fastv-L2-*")
    asked = grid.prepare(Task(part, tmp_path, Settings(), part.benchmarks))
    (path,) = set(asked.trends.values())
    assert {one["method"] for one in trends.load(path)} == {"deeplayer", "fastv"}


def test_an_unfinished_run_is_left_out_of_the_tables_and_named_below_them(answered, world, tmp_path, monkeypatch):
    """Its unanswered questions would count as wrong otherwise."""
    part = artefacts.artefact("grid").only("fastv-L2-64,fastv-L16-64")
    part = replace(part, runs=tuple(replace(run, arms=("none", "both")) for run in part.runs))
    task = Task(part, tmp_path, Settings(data=world), ("gqa",))
    done, begun = part.runs
    for run in part.runs:
        shutil.copytree(answered.path, task.folder(run))
    shard = task.folder(begun) / "gqa" / "both.0.jsonl"
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:-3]))
    (task.here / "trends.json").write_text(json.dumps([{"rise": [1.0, 0.5, 1.5], "r2": 0.5, "found": True}]))
    assert [planned for planned, *_ in task.finished()] == [done]
    monkeypatch.setattr(reproduce, "answer", lambda *_: {})
    monkeypatch.setattr(grid, "prepare", lambda asked: asked)
    differences, _, scores = reproduce.reproduced(task)["tables"]
    assert {row[1] for row in differences["rows"]} == {row[1] for row in scores["rows"]} == {1}  # layer 2 of 32
    there, of = task.answers(begun)
    assert (of - there, of) == (3, task.answers(done)[0])
    assert scores["notes"][-1] == f"Left out, as unfinished: fastv-L16-64 ({there} of {of} answers)."
