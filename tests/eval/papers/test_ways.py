"""The artefact `ways`: its product of runs, its correction over all of them, and its sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from eval.answering.checkpoints import layout
from eval.cli import main
from eval.core.settings import Settings
from eval.papers import artefacts, ways
from eval.papers.task import Task, as_costly, moved
from eval.papers.ways import block, corrected
from eval.reading.sample import Sample
from eval.scoring import verdict
from eval.scoring.contrast import Contrast
from eval.showing import charts
from pruners import make
from pruners.parts.canvas import padded

PRODUCT = artefacts.artefact("ways").product


def contrast(delta, low, high, p, up=3, down=1, least=2.0):
    return Contrast("average", "raw", "x", 50.0, 50.0 + delta, delta, low, high, p, "sign flips", up, down, 96, 48,
                    0, 0, 0, 0, None, None, least, p, p < 0.05)  # fmt: skip


def test_the_runs_are_every_method_budget_layer_and_way_once():
    axes = ["budgets=64,128", "layers=2,8", "methods=fastv,himap", "ways=online,feather,weighted"]
    runs = PRODUCT.narrowed(axes).runs()
    expected = []
    for layer in (2, 8):
        for keep in (64, 128):
            for method in ("fastv", "himap"):
                ways = ["raw", "online"]
                if method == "fastv":
                    ways += ["feather", *(["weighted"] if layer == 8 else [])]
                expected += [f"{method}-{keep}-L{layer}-{way}" for way in ways]
    assert [run.label for run in runs] == expected
    assert block(runs[0]) == ("fastv", 64, 2)
    assert {run.arms for run in runs if run.way == "online"} == {("trend",)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget=3"], "unknown axis 'budget' .did you mean budgets"),
        (["budgets=x"], "whole numbers of at least 1"),
        (["budgets="], "expected AXIS=VALUES"),
        (["ways=onlin"], "did you mean online"),
        (["methods=vispruner"], "vispruner"),
    ],
)
def test_axes_that_cannot_be_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        PRODUCT.narrowed(words)
    with pytest.raises(ValueError, match="the runs of main are listed one by one"):
        artefacts.artefact("main").narrowed(["budgets=64"])


def test_cuts_move_by_as_many_layers():
    def where(method, depth, like=None, layers=32):
        run = artefacts.Planned("x", method, ("none",), "x", 128, depth=depth, like=like)
        return moved(run, method, layers)

    assert where("fastv", 8) == {"layer": 8}
    assert where("himap", 8, layers=12) == {"layer": 3}
    assert where("pyramiddrop", 2) == {}
    assert where("pyramiddrop", 8) == {"layers": (8, 16, 26)}
    assert where("sparsevlm", 8) == {"layers": (9, 13, 22)}
    assert where("feather", 2, like="fastv") == {"layers": (2, 10)}
    assert where("feather", 8, like="fastv") == {}


@pytest.mark.parametrize("depth", [2, 8])
def test_what_stands_in_for_a_method_leaves_as_many_tokens(depth):
    run = next(run for run in PRODUCT.narrowed([f"layers={depth}"]).runs() if run.way == "feather")
    wanted = make("fastv", keep=128, layer=depth).mean_count(32, 576)
    method = make("feather", keep=as_costly(run), **moved(run, "feather"))
    assert method.mean_count(32, 576) == pytest.approx(wanted, abs=0.5)
    settings = Task(artefacts.artefact("ways"), Path("x"), Settings(), ("gqa",)).settings(run)
    assert settings.keep == as_costly(run) / 576


def test_a_block_says_what_is_kept_and_where_it_is_cut_on_this_model(monkeypatch):
    task = Task(artefacts.artefact("ways"), Path("x"), Settings(), ("gqa",))
    shallow, deep = (PRODUCT.narrowed([f"layers={layer}"]).runs()[0] for layer in (2, 8))
    assert task.place(shallow) == "FastV, 32 of 144 tokens, cut before layer 1 of 12 (128 and 2 for 576 and 32)"
    assert task.place(deep) == "FastV, 32 of 144 tokens, cut before layer 3 of 12 (128 and 8 for 576 and 32)"
    monkeypatch.setattr("eval.papers.task.layout", lambda model: replace(layout(model), tokens=576))
    monkeypatch.setattr("eval.papers.task.config_of", lambda _: {"num_hidden_layers": 32})
    assert task.place(shallow) == "FastV, 128 of 576 tokens, cut before layer 2 of 32"


def test_correction_is_holms_over_all_and_what_could_be_seen_is_told_at_its_level():
    found = corrected({"a": contrast(4, 1, 7, 0.01), "b": contrast(3, 0.5, 6, 0.03), "c": contrast(1, -1, 3, 0.5)})
    assert [one.p_holm for one in found.values()] == pytest.approx([0.03, 0.06, 0.5])
    assert [one.differs for one in found.values()] == [True, False, False]
    one, all_ = (norm.ppf(1 - level / 2) + norm.ppf(0.8) for level in (0.05, 0.05 / 3))
    assert found["c"].least == pytest.approx(2.0 * all_ / one)
    assert corrected({}) == {}


def test_every_row_is_one_sentence_with_its_number_and_interval():
    better = replace(contrast(4, 1, 7, 0.01), differs=True)
    assert verdict.against(better, "raw") == "better than raw by +4.0 [1.0, 7.0] (n = 96)."
    worse = replace(contrast(-4, -7, -1, 0.01), differs=True)
    assert verdict.against(worse, "raw") == "worse than raw by −4.0 [−7.0, −1.0] (n = 96)."
    said = verdict.against(replace(contrast(1, -1, 3, 0.5), differs=False), "raw")
    assert said.startswith("not distinguishable from raw: +1.0 [−1.0, 3.0] (n = 96); with so many questions a true")
    same = replace(contrast(0, 0, 0, 1.0, 0, 0), differs=False)
    assert verdict.against(same, "raw") == "scores as raw does on every question (n = 96)."


def test_the_heat_map_shows_every_difference_and_marks_those_that_differ():
    cells = {
        "online": {"FastV": contrast(4, 1, 7, 0.01), "HiMAP": contrast(-1, -3, 1, 0.5)},
        "feather": {"FastV": contrast(0, -1, 1, 1.0)},
    }
    axis = charts.heat(cells, "points").axes[0]
    assert [text.get_text() for text in axis.texts] == ["+4.0*", "−1.0", "+0.0"]
    assert [text.get_fontweight() for text in axis.texts] == ["bold", "normal", "normal"]
    shown = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, [[4, -1], [0, np.nan]])


def test_a_way_that_was_begun_and_could_not_be_done_is_left_out(tmp_path):
    artefact = artefacts.artefact("ways").narrowed(["methods=fastv", "ways=online"])
    task = Task(artefact, tmp_path, Settings(), ("gqa",))
    for run in artefact.runs:
        task.folder(run).mkdir(parents=True)
        (task.folder(run) / "run.json").write_text('{"run": "r", "settings": {}, "benchmarks": {}}')
    (table,) = ways.ways(task)
    assert table.rows == []


def test_recall_is_the_mean_over_benchmarks_that_say_where_things_are(tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")  # 12 x 12 cells of 8 pixels

    def scored(kept, **meta):
        rows = [{"metadata": {"key": "q", "kept": [kept]}}]
        return SimpleNamespace(samples=[Sample("q", "?", image=tmp_path / "a.png", meta=meta)],
                               arms={"trend": SimpleNamespace(rows=rows)})  # fmt: skip

    def canvas(size):
        return padded(size, 12)

    first_two = {"boxes": [[0, 0, 16, 8]]}
    assert ways.recalled([scored("0,5", **first_two), scored("0-3", **first_two), scored("7")], canvas) == "0.75"
    assert ways.recalled([scored("7")], canvas) is None


def test_axes_belong_to_the_artefact_that_has_some(capsys):
    assert main(["reproduce", "main", "--list", "--axis", "budgets=64"]) == 1
    assert "listed one by one" in capsys.readouterr().err
