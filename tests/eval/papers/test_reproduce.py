"""The published tables agree with themselves, and every artefact runs from the first question to its table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from eval.answering.resolved import Resolved, resolve
from eval.benchmarks import NAMES
from eval.bias import fitting
from eval.cli import main
from eval.core.settings import Settings
from eval.core.tables import between
from eval.papers import artefacts, budgets, reproduce, strengths
from eval.papers.task import Task
from eval.scoring import compare
from eval.scoring.averages import AVERAGES
from eval.scoring.contrast import SLOW_DRAWS
from eval.scoring.results import results
from pruners import find, names
from pruners.models import family
from pruners.parts.canvas import padded, tiled
from tiny import benchmarks as tiny_benchmarks
from tiny.smol import data as smol_data

KNOWN = artefacts.artefacts()


# -- what is declared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", artefacts.tables())
def test_published_means_agree_with_their_parts(name):
    table = artefacts.tables()[name]
    assert table["source"]
    assert table["protocol"]
    assert table["how"] in ("read", "reported", "computed")
    assert table.get("conflicts", name) in artefacts.tables()
    for row in table["rows"]:
        assert len(row["values"]) == len(table["columns"]), row
        cells = dict(zip(table["columns"], row["values"], strict=True))
        if "overall" in cells:  # the sets have three, three and two splits
            parts = 3 * cells["refcoco"] + 3 * cells["refcoco+"] + 2 * cells["refcocog"]
            assert cells["overall"] == pytest.approx(parts / 8, abs=0.0101), row
        if "mean" in row:
            mean = AVERAGES["avg10"](cells) if table["mean"] == "avg10" else np.mean(row["values"])
            assert row["mean"] == pytest.approx(mean, abs=0.0501 if table["id"] == "ablation" else 0.00501), row


def test_artefacts_name_what_there_is():
    for one in KNOWN.values():
        assert set(one.benchmarks) <= set(NAMES)
        assert set(one.published) <= set(artefacts.tables())
        assert len({run.label for run in one.runs}) == len(one.runs)
        assert one.measure in reproduce.MEASURES


@pytest.mark.parametrize(("name", "kind"), [("methods", "llava"), ("methods-video", "video_llava")])
def test_every_method_that_its_model_can_run_is_in_the_table_of_methods(name, kind):
    possible = {method for method in names() if find(method).serves(family(kind))}
    runs = [run for run in KNOWN[name].runs if run.arms != ("unpruned",)]
    assert {run.method for run in runs} == possible
    assert {len([run for run in runs if run.method == method]) for method in possible} == {3}


@pytest.mark.parametrize(
    "name", [name for name, one in KNOWN.items() if one.measure in reproduce.ANSWERED and one.published]
)
def test_published_rows_find_their_runs(name):
    """Every artefact that names published tables shows a row of each of them; the columns hold their values."""
    one = KNOWN[name]
    for table in one.published:
        rows = [
            row for row in artefacts.published((table,)) for run in one.runs for arm in run.arms if row.of(run, arm)
        ]
        assert rows, table
        assert any(set(row.values) & set(one.columns) for row in rows)
    assert not one.beside or artefacts.beside(one)


def values(table, **said):
    """The published values of the rows of which all of this is said."""
    said = {"arm": "none", **said}
    rows = [row for row in artefacts.tables()[table]["rows"] if said.items() <= {"arm": "none", **row}.items()]
    assert len(rows) == 1, (table, said)
    return rows[0]["values"]


def test_reported_numbers_agree_where_two_tables_hold_the_same_one():
    assert values("rope-free", name="fastv") == values("main", name="fastv")
    assert values("rope-free", name="fastv", arm="both") == values("main", name="fastv", arm="both")
    assert values("padding-mode", name="mean") == values("ablation", name="fastv")[:1]
    assert values("padding-mode", name="mean", arm="padding") == values("ablation", name="fastv", arm="padding")[:1]
    gain = values("ablation", name="fastv", arm="both")[2] - values("ablation", name="fastv")[2]
    assert values("gains-by-budget", arm="both", budget=256)[0] < gain
    assert gain < values("gains-by-budget", arm="both", budget=64)[0]


def test_sums_that_do_not_fit_are_said():
    """What `amiss` says of a table follows from its numbers, and stands below every table that shows it."""
    means = {row["arm"]: row["mean"] for row in artefacts.tables()["ablation"]["rows"] if row["name"] == "fastv"}
    gain = {arm: round(mean - means["none"], 1) for arm, mean in means.items()}
    assert (gain["trend"], gain["padding"], gain["both"]) == (2.0, 2.2, 2.6)
    assert artefacts.tables()["ablation"]["amiss"].count("+2.0, +2.2, together +2.6") == 1
    silenced = values("padding-mode", name="mean", arm="padding")[0]
    over = [round(silenced - values("padding-mode", name=name)[0], 1) for name in ("mean", "random")]
    assert over == [3.1, 2.2]
    assert "counts +2.1" in artefacts.tables()["padding-mode"]["amiss"]
    assert any("ablation does not add up" in note for note in artefacts.sources(KNOWN["ablation"]))


def test_nothing_reported_passes_for_the_papers_own_words():
    for table in artefacts.tables().values():
        if "2508.17807" in table["source"] and table["how"] == "reported":
            assert "third-party summary" in table["source"], table["id"]


def test_the_map_of_the_paper_leads_somewhere():
    shown = artefacts.paper()
    assert all(one.artefact in KNOWN or (one.artefact is None and one.note) for one in shown)
    ours = {
        name
        for name, one in KNOWN.items()
        for table in one.published
        if "2508.17807" in artefacts.tables()[table]["source"]
    }
    assert ours <= {one.artefact for one in shown}


def test_a_list_of_budgets_or_depths_is_a_run_each():
    assert [run.keep for run in KNOWN["budgets"].runs] == [32, 64, 96, 128, 192, 256, 320]
    assert [(run.label, run.depth) for run in KNOWN["layers-sweep"].runs][:2] == [("fastv-L1", 1), ("fastv-L2", 2)]
    assert {run.called for name in ("budgets", "layers-sweep") for run in KNOWN[name].runs} == {"fastv"}


def test_rows_of_methods_that_are_not_run_stand_at_their_budget():
    assert {row.label for row in artefacts.beside(KNOWN["main"])} == {"tome", "visionzip", "prumerge+"}
    assert [row.label for row in artefacts.beside(KNOWN["budget-192"])] == ["visionzip"]


def test_steepness_of_released_weights():
    """The last weights of HiMAP's released vectors lie between 0.2738 and 0.4273; PyramidDrop's are steeper."""
    assert strengths.released("himap") == pytest.approx((-np.log(0.42725176), -np.log(0.27375518)), abs=1e-4)
    low, high = artefacts.tables()["strength"]["scores"]
    assert low < strengths.released("fastv")[0] < high
    assert strengths.released("pyramiddrop")[1] > high
    assert strengths.released("illava") is None


def test_gains_are_those_of_compare(answered):
    found = budgets.of_run(results(answered))
    assert list(found) == ["pope", "gqa", "mean"]
    contrasts = compare.within(results(answered), "none", SLOW_DRAWS)
    assert [one.delta for one in contrasts] == pytest.approx([measured[0] for measured in found.values()])


def test_every_filling_is_compared_with_the_first_one_seen(answered, tmp_path, monkeypatch):
    scored = [replace(one, arms={"none": one.arms["none"], "padding": one.arms["both"]}) for one in results(answered)]
    task = Task(replace(KNOWN["padding"], runs=KNOWN["padding"].runs[:2]), tmp_path, Settings(), ("pope", "gqa"))
    monkeypatch.setattr(Task, "finished", lambda self: [(planned, None, scored) for planned in self.artefact.runs])
    monkeypatch.setattr(budgets.measures, "scores", lambda _: [])
    (table,) = budgets.fillings(task)
    whole = compare.within(scored, "none", SLOW_DRAWS)[-1]
    silenced = between(whole.delta, whole.low, whole.high), f"{min(1.0, 3 * whole.p):.3f}"
    expected = {"mean, silenced": silenced, "constant, seen": ("+0.0 [0.0, 0.0]", "1.000")}
    assert {row[0]: (row[1], row[3]) for row in table.rows} == {**expected, "constant, silenced": silenced}
    assert table.notes[1].startswith("constant, seen: scores as mean, seen does on every question")


def test_a_published_row_belongs_to_one_setting():
    ratio = {run.label: run for run in KNOWN["ratio"].runs}
    rows = artefacts.published(("ratio",))
    for label, value in (("raw-L4", 38.70), ("raw-L12", 66.32), ("ratio-L12-2", 61.10), ("ratio-L12-3", 54.63)):
        assert [row.values["overall"] for row in rows if row.of(ratio[label], "none")] == [value]
    assert not any(row.of(ratio["ratio-L12-8"], "none") for row in rows)
    video = next(run for run in KNOWN["video"].runs if run.label == "fastv")
    found = [row.values for row in artefacts.published(("video-fastervlm",)) if row.of(video, "none")]
    assert [values["tgif"] for values in found] == [19.4]  # 512 of 2048 is a quarter


# -- running -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, world, tmp_path):
    """Flags of a quick run on the embedded models: two benchmarks of an artefact, one budget of those of many."""
    monkeypatch.setattr(Resolved, "heldout", lambda *_: world)
    monkeypatch.setattr(fitting, "QUESTIONS", 2)
    monkeypatch.setattr(artefacts, "artefacts", lambda: {name: shortened(one) for name, one in KNOWN.items()})
    flags = ["--data", str(world), "--out", str(tmp_path / "out"), "--limit", "2"]
    return [*flags, "--max-new-tokens", "2", "--draws", "20", "--report-samples", "0"]


def shortened(one):
    runs = one.runs
    if one.name == "baselines":
        runs = tuple(run for run in runs if run.keep == 64)
    if one.measure in ("strength", "sinks"):
        runs = runs[:2]
    if one.measure == "gains":
        runs = tuple(run for run in runs if run.keep in (None, 64, 128, 256))[:2]
    if one.measure == "ways":
        some = ("raw", "exponential", "blank-mean", "suppression", "feather", "padding-bilinear")
        runs = tuple(run for run in runs if run.label.removeprefix("fastv-128-L2-") in some)
    if one.measure == "grid":
        runs = tuple(run for run in runs if run.keep in (None, 64) and run.depth in (None, 4, 16))
    if one.measure == "budgets":
        low = min(run.keep for run in runs if run.keep)
        runs = tuple(run for run in runs if run.keep in (None, low) or (run.method, run.keep) == ("fastv", 2 * low))
        some = ("unpruned", "random", "grid", "fastv", "divprune", "evs", "vidcom2")  # scripts run every method
        runs = tuple(run for run in runs if run.label.split("-")[0] in some)
    return replace(one, benchmarks=one.benchmarks[:2], runs=runs)


def run(capsys, *words):
    capsys.readouterr()
    code = main(["reproduce", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 or out.strip() else None, err


FIGURES = {
    "main": ["radar"],
    "methods-video": ["budget", "debias-by-method", "debiased-random-by-method"],
    "methods": ["budget", "debias-by-method", "debiased-random-by-method"],
    "bias": ["attention-maps", "attention-trends", "attention-layers", "attention-heads"],
    "ratio": ["ratio"],
    "budgets": ["gains"],
    "strength": ["strength"],
    "activations": ["activations"],
    "padding": ["fillings"],
    "layers-sweep": ["gains"],
    "grid": ["layers-64"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", KNOWN)
def test_every_artefact_runs(name, quick, capsys, tmp_path):
    code, found, err = run(capsys, name, *quick)
    assert code == 0, err
    table = found["tables"][0]
    assert all(one["rows"] for one in found["tables"])
    ours = [row for row in table["rows"] if "ours" in row]
    if KNOWN[name].beside:
        assert {row[0] for row in table["rows"]} >= {row.label for row in artefacts.beside(shortened(KNOWN[name]))}
    if KNOWN[name].measure == "scores":
        assert len(ours) == sum(len(one.arms) for one in shortened(KNOWN[name]).runs)
        assert all(any(isinstance(cell, float) for cell in row[3:]) for row in ours)
    for figure in FIGURES.get(name, ()):
        assert (tmp_path / "out" / name / "figures" / f"{figure}.svg").is_file(), figure
    assert {"table.md", "table.csv", "table.tex", "artefact.json"} <= {
        p.name for p in (tmp_path / "out" / name).iterdir()
    }


@pytest.mark.parametrize("name", ["refcoco", "bias"])
def test_a_dry_run_plans_every_run_and_leaves_nothing(name, quick, capsys, tmp_path):
    code, found, err = run(capsys, name, *quick, "--dry-run")
    assert (code, found["failed"]) == (0, {}), err
    assert err.count("rows would go to") == len(KNOWN[name].runs)
    assert "nothing was run" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_what_is_done_and_what_is_missing(quick, capsys, tmp_path):
    code, before, _ = run(capsys, "rope", *quick, "--list")
    assert code == 0
    assert all(one["of"] is None for one in before["runs"].values())
    assert run(capsys, "rope", *quick)[0] == 0
    _, after, _ = run(capsys, "rope", *quick, "--list")
    assert all(one["answers"] == one["of"] > 0 for one in after["runs"].values())
    command = after["runs"]["fastv-without-rope"]["command"]
    assert command.startswith("python -m eval run ")
    assert "--layer 2 --selection topk --scores.no-rope" in command
    rows = sorted((tmp_path / "out").rglob("*.jsonl"))
    stamps = [path.stat().st_mtime_ns for path in rows]
    assert run(capsys, "rope", *quick)[0] == 0  # nothing is answered twice
    assert [path.stat().st_mtime_ns for path in rows] == stamps


@pytest.mark.long
@pytest.mark.parametrize("name", ["strength", "activations", "layers-sweep"])
def test_artefacts_take_a_model(name, quick, checkpoints, capsys, tmp_path):
    """A random one of 36 tokens and 4 layers, where the embedded one has 144 and 12."""
    code, found, err = run(capsys, name, *quick, "--model", str(checkpoints["image"]), "--benchmarks", "vqav2")
    assert code == 0, err
    assert "embedded" not in err
    table = found["tables"][0]
    if name == "activations":
        assert [row[0] for row in table["rows"]] == [0, 1, 2, 3]
    elif name == "layers-sweep":
        info = json.loads((tmp_path / "out" / name / "fastv-L1" / "run.json").read_text())
        assert info["settings"]["models"]["image"].startswith("llava ")
    else:  # a run that the model is too small for is said, and the others go on
        assert any("fastv 8 of 36 tokens" in note for note in table["notes"])
        assert any("pyramiddrop was left out: PyramidDrop cannot keep 8 of 36" in note for note in table["notes"])


@pytest.mark.long
def test_a_checkpoint_without_a_prior_gets_one(monkeypatch, quick, builders, capsys, tmp_path):
    model = builders.checkpoint("llava", tmp_path / "model", layers=4)
    only = tuple(run for run in KNOWN["refcoco"].runs if run.method == "d2pruner")
    monkeypatch.setattr(artefacts, "artefacts", lambda: {"refcoco": replace(KNOWN["refcoco"], runs=only)})
    code, _, err = run(capsys, "refcoco", *quick, "--benchmarks", "refcoco+", "--model", str(model))
    assert code == 0, err
    assert (tmp_path / "out" / "refcoco" / "prior.json").is_file()
    assert [path.name for path in (tmp_path / "out" / "refcoco" / "d2pruner").glob("ref*")] == ["refcoco+"]


def test_only_benchmarks_that_the_artefact_has(capsys):
    code, found, _ = run(capsys, "methods", "--benchmarks", "GQA,pope", "--list")
    assert code == 0
    assert found["runs"]["fastv-64"]["benchmarks_to_come"] == ["gqa", "pope"]
    assert " --benchmarks gqa,pope " in found["runs"]["fastv-64"]["command"]
    code, _, err = run(capsys, "methods", "--benchmarks", "refcoco", "--list")
    assert code == 1
    assert "unknown benchmark of methods 'refcoco'" in err


def test_data_that_lacks_everything_and_unknown_names(capsys, tmp_path):
    code, _, err = run(capsys, "main", "--data", str(tmp_path))
    assert code == 2
    assert "holds none of the benchmarks" in err
    assert run(capsys, "mian")[2].count("did you mean main") == 1
    assert run(capsys)[0] == 1


def test_list_names_every_artefact_and_ends_with_the_map_of_the_paper(capsys):
    code, found, err = run(capsys, "--list")
    assert code == 0
    assert err.index("What can be reproduced") < err.index("The debiasing paper's tables and figures")
    assert err.rindex(found["paper"][-1]["item"].split(",")[0]) > err.rindex("Table IX")
    assert list(found["artefacts"]) == list(KNOWN)
    assert {one["item"] for one in found["paper"]} >= {"Table II", "Table V", "Figure 1"}


# -- cells ---------------------------------------------------------------------------------------------------------


def test_cells_of_a_padded_square():
    canvas = padded((40, 20), 4)
    assert canvas.size == (40, 40)
    assert canvas.cells[5].tolist() == [10, 10, 20, 20]
    assert canvas.box((0, 0, 40, 20)) == (0, 10, 40, 30)  # the picture lies in the middle


def test_cells_of_tiles_and_their_thumbnail():
    canvas = tiled((640, 320), (2, 1), 112, 4)
    assert canvas.size == (224, 112)
    assert len(canvas.cells) == 3 * 16
    assert canvas.cells[16].tolist() == [112, 0, 140, 28]  # first of the right tile
    assert canvas.cells[32].tolist() == [0, 0, 56, 28]  # first of the thumbnail, which shows everything
    assert canvas.box((320, 0, 640, 320)) == (112, 0, 224, 112)


def test_a_list_of_depths_and_budgets_is_a_run_for_every_pair():
    labels = [run.label for run in KNOWN["grid"].runs]
    assert len(labels) == len(set(labels)) == 1 + 2 * 4 + 2 * 40
    assert "fastv-L10-192" in labels
    some = KNOWN["grid"].only("unpruned, mis-L*-64")
    assert [run.label for run in some.runs][:2] == ["unpruned", "mis-L1-64"]
    assert {run.keep for run in some.runs} == {None, 64}
    with pytest.raises(ValueError, match="no such run; it has unpruned"):
        KNOWN["grid"].only("other-*")


def test_an_artefact_on_a_world_of_ours_takes_the_benchmarks_that_it_has(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_benchmarks, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setitem(smol_data.SIZES, "default", 6)
    shutil.copytree(checkpoints["image"], tmp_path / "smol")
    (tmp_path / "smol" / "origin.json").write_text('{"world": "smol"}')
    base = Settings(model=str(tmp_path / "smol"))
    found, absent = reproduce.held(Task(KNOWN["methods"], tmp_path, base, KNOWN["methods"].benchmarks))
    assert (found.benchmarks, absent) == (("gqa",), [])
    found, _ = reproduce.held(Task(KNOWN["iou"], tmp_path, base, KNOWN["iou"].benchmarks))
    assert found.benchmarks == ("refcoco",)
    assert [b.name for b, _ in resolve(found.settings(found.artefact.runs[0])).benchmarks] == ["refcoco"]
    assert [b.name for b, _ in resolve(base).benchmarks] == ["gqa"]  # boxes for those who ask for them
    for name, said in (
        ("refcoco", "was not taught to answer with a box"),
        ("main", "world of smol holds none of pope"),
    ):
        wanted = KNOWN[name].benchmarks if name == "refcoco" else ("pope",)
        with pytest.raises(ValueError, match=said):
            reproduce.held(Task(KNOWN[name], tmp_path, base, wanted))
