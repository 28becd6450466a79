"""A study runs from its plan: every cut in every arm, the planned comparisons, and what it may be called."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from scipy.stats import binomtest

from debias import trends
from eval.answering.store import numbered
from eval.cli import main
from eval.core.settings import Settings
from eval.papers import study
from eval.papers.confirm import Begun, may_confirm

PLAN = Path(__file__).parents[3] / "assets" / "studies" / "smol.toml"


@pytest.fixture(scope="module")
def plan(tmp_path_factory, checkpoints):
    """The plan of smol, made small: a random model of few layers and four pictures."""
    text = PLAN.read_text(encoding="utf-8")
    for old, new in (
        ('model = "smol"', f"model = {str(checkpoints['image'])!r}"),
        ("n = 600 ", "n = 6 "),
        ("padded = 400", "padded = 4"),
        ("n = 240", "n = 4"),
        ("layers = [4, 10]", "layers = [1, 2]"),
        ("keep = [64, 128]", "keep = [4, 8]"),
        ("\nlayer = 4\nkeep = 64", "\nlayer = 1\nkeep = 4"),
        ('dtype = "bfloat16"', 'dtype = "float32"'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("study") / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(plan):
    out = plan.parent / "out"
    assert main(["study", str(plan), "--out", str(out)]) == 0
    return out


def test_every_cut_is_answered_in_every_arm(run):
    for layer, keep in product((1, 2), (4, 8)):
        folder = run / f"layer-{layer}-keep-{keep}"
        settings = json.loads((folder / "run.json").read_text())
        assert f"layer={layer}" in settings["settings"]["method"]
        assert f"keep={keep}" in settings["settings"]["method"]
        assert f"trends-layer-{layer}.toml" in settings["settings"]["trend"]
        for arm in ("none", "trend", "padding", "both"):
            assert len(list(numbered(folder / "gqa" / f"{arm}.0.jsonl"))) == 6
        (trend,) = trends.load(run / f"trends-layer-{layer}.toml")
        assert trend["layer"] == layer
        assert trend["questions"] == 4
    assert len(list(numbered(run / "unpruned" / "gqa" / "unpruned.0.jsonl"))) == 6


def test_comparisons_are_exact_mcnemar_and_holm_over_the_secondary_ones(run):
    told = json.loads((run / "study.json").read_text())
    first, *others = told["comparisons"]
    assert (first["benchmark"], first["b"]) == ("4 tokens before layer 1", "both")
    assert len(others) == 11
    for one in told["comparisons"]:
        exact = binomtest(one["up"], one["up"] + one["down"]).pvalue if one["up"] + one["down"] else 1.0
        assert one["p"] == pytest.approx(exact)
    assert first["p_holm"] == first["p"]
    ordered, floor = sorted(others, key=lambda one: one["p"]), 0.0
    for place, one in enumerate(ordered):
        floor = max(floor, min(1.0, (11 - place) * one["p"]))
        assert one["p_holm"] == pytest.approx(floor)


def test_a_plan_outside_history_confirms_nothing(run):
    told = json.loads((run / "study.json").read_text())
    assert not told["confirmed"]
    assert "not a confirmation" in (run / "table.md").read_text()


def test_a_study_goes_on_and_refuses_a_changed_plan(run, plan, capsys):
    begun = (run / "begun.json").read_text()
    assert main(["study", str(plan), "--out", str(run)]) == 0
    assert "loading" not in capsys.readouterr().err  # nothing is answered twice
    assert (run / "begun.json").read_text() == begun
    changed = plan.with_name("changed.toml")
    changed.write_text(plan.read_text() + "# another word\n")
    assert main(["study", str(changed), "--out", str(run)]) == 1
    assert "another version of" in capsys.readouterr().err


def test_another_model_or_precision_than_planned_confirms_nothing(plan):
    asked = study.load(plan)
    begun = Begun("2026-01-01T00:00:00+00:00", "", asked.digest)
    assert "not float16" in may_confirm(asked, begun, Settings(dtype="float16")).why
    assert "not another" in may_confirm(asked, begun, Settings(model="another")).why
    assert "not in one git history" in may_confirm(asked, begun, Settings()).why


def test_a_rehearsal_sees_no_question_of_the_study(run, plan, tmp_path):
    assert main(["study", str(plan), "--out", str(tmp_path / "out"), "--rehearse", "2"]) == 0
    told = json.loads((tmp_path / "out" / "study.json").read_text())
    assert not told["confirmed"]
    assert "rehearsal on 2 other pictures" in told["why"]
    asked = [
        set((folder / "gqa" / "llava_gqa_testdev_balanced.jsonl").read_text().splitlines())
        for folder in (run / "data" / "pictures", tmp_path / "out" / "data" / "pictures-2")
    ]
    assert [len(lines) for lines in asked] == [6, 2]
    assert not asked[0] & asked[1]
