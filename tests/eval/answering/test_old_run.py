"""A run folder that was written before a run was a value (tests/eval/old_run) is read, reported and compared as before.

It was made by `python -m eval run --method fastv --keep 32 --benchmarks pope,mmbench --limit 4 --arms none,both`; only
the place of the data was taken out of its run.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.answering.store import Folder
from eval.cli import main
from eval.scoring.results import results
from tiny.benchmarks import ensure

KEPT = Path(__file__).parents[1] / "old_run"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(KEPT, tmp_path / "run"))


def test_its_scores_are_the_recorded_ones(run):
    recorded = json.loads((run / "scores.json").read_text())["scores"]
    found = {one.benchmark.name: one.arms for one in results(Folder(run), ensure())}
    assert set(found) == set(recorded)
    for name, arms in recorded.items():
        for arm, said in arms.items():
            assert found[name][arm].score.value == said["value"]
            assert found[name][arm].score.parts == said["parts"]
            assert found[name][arm].tokens == said["tokens"]


def test_it_is_compared_and_reported(run, capsys):
    assert main(["compare", str(run), "--data", str(ensure()), "--draws", "50", "--json"]) == 0
    found = {(one["benchmark"], one["b"]): one for one in json.loads(capsys.readouterr().out)["comparisons"]}
    assert found["pope", "both"]["n"] == 6
    assert main(["report", str(run), "--data", str(ensure()), "--samples", "1"]) == 0
    assert "FastV" in (run / "report.html").read_text(encoding="utf-8")
