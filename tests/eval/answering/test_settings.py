"""A run is a value: what it may hold, how flags mean it, and what comes out of it in Python."""

from __future__ import annotations

import argparse
import dataclasses
import json

import pytest

from eval import JudgeSettings, Settings, evaluate
from eval.answering.resolved import resolve
from eval.commands import flags
from eval.core.settings import command_line, several
from eval.evaluation import planned
from pruners.parts.scores import Scores
from pruners.parts.suppression import Suppression


def parsed(*words, method="fastv"):
    parser = argparse.ArgumentParser()
    flags.running(parser)
    args, fields = parser.parse_known_args([str(word) for word in words])
    args.fields = fields
    return flags.settings(args, method)


def test_without_flags_a_run_is_the_default():
    assert parsed() == Settings()
    assert Settings().given() == {}


def test_a_run_is_an_equal_and_hashable_value():
    one = Settings(arms="none, after", benchmarks=["MM-Vet", "sqa"], data="x", fields={"layer": 3})
    other = Settings(arms=("none", "both"), benchmarks="mmvet,scienceqa", data="x", fields={"layer": 3})
    assert one == other
    assert hash(one) == hash(other)
    assert one.arms == ("none", "both")
    assert dataclasses.replace(one, limit=3) != one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "fastvv"}, "fastvv"),
        ({"arms": ["bothh"]}, "bothh"),
        ({"benchmarks": ["popes"]}, "popes"),
        ({"limit": 0}, "limit=0: expected a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5: expected a whole number"),
        ({"dtype": "float8"}, "dtype='float8': expected one of auto"),
        ({"backend": "spoon"}, "backend='spoon': expected one of native, fork"),
        ({"full": True, "data": "x"}, "--full belongs to the embedded data"),
        ({"fields": {"keep": 3}}, "keep is a setting of its own"),
    ],
)
def test_what_a_run_cannot_be_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        Settings(**given)


RUNS = [
    Settings(),
    Settings("deeplayer", keep=0.25, fields={"scores": Scores("ratio", shallow=3, rope=False), "selection": "topk"}),
    Settings("deeplayer", fields={"selection": Suppression(radius=3.0, alike=False)}),
    Settings("pyramiddrop", keep=3, fields={"layers": (1, 2)}, arms=["none"], limit=7, stages="all", device="cpu"),
    Settings(benchmarks=["pope", "gqa"], options={"vqav2": {"split": "val"}}, share_prefix=True, batch_size=2),
    Settings(judge=JudgeSettings("http://localhost:1/v1", "m", timeout=7.0)),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.method)
def test_a_run_written_as_flags_is_read_as_itself(run):
    again = parsed(*command_line(run), method=run.method)
    assert {**vars(again), "fields": None} == {**vars(run), "fields": None}
    # the fields may be spelled in full; the method is the same
    assert resolve_pruner(again) == resolve_pruner(run)


def resolve_pruner(run):
    return resolve(dataclasses.replace(run, options={}, share_prefix=False)).pruner


def test_dotted_fields_belong_to_the_value_inside():
    run = Settings("deeplayer", keep=0.5, fields={"scores": "ratio", "scores.shallow": 1})
    assert resolve_pruner(run).scores == Scores("ratio", shallow=1)
    run = Settings("deeplayer", fields={"selection": "suppression", "selection.radius": 1.0})
    assert resolve_pruner(run).selection == Suppression(radius=1.0)
    with pytest.raises(ValueError, match="fastv has no field layer with fields of its own"):
        resolve_pruner(Settings("fastv", fields={"layer.x": 1}))


def test_texts_with_commas_are_several():
    assert several("a, b,,c") == ["a", "b", "c"] == several(["a ", "b", "", "c"])


@pytest.fixture
def run(checkpoints, world, tmp_path):
    return Settings(
        keep=0.3, arms=["none", "padding"], benchmarks=["gqa"], model=checkpoints["image"], data=world, limit=4,
        max_new_tokens=2, draws=20, report_samples=0, out=tmp_path / "run",
    )  # fmt: skip


def test_an_evaluation_in_python_writes_the_run_folder_and_reports_it(run):
    before = planned(run)
    assert before["benchmarks"] == {"gqa": 4}
    assert not run.out.exists()
    report = evaluate(run)
    assert report.complete
    assert report.folder == run.out
    assert set(report.scores["gqa"]) == {"none", "padding"}
    assert json.loads((run.out / "run.json").read_text())["settings"] == before["run"]
    assert json.loads((run.out / "scores.json").read_text())["scores"] == report.scores
    assert "gqa" in report.table()
    assert "<table>" in report._repr_html_()
    assert json.loads(json.dumps(report.to_dict(), default=str))["comparisons"]


def test_a_second_evaluation_answers_nothing_again(run):
    first = evaluate(run)
    rows = sorted(run.out.rglob("*.jsonl"))
    stamps = [path.stat().st_mtime_ns for path in rows if "lock" not in str(path)]
    again = evaluate(run)
    assert again.scores == first.scores
    assert again.throughput["answers"] == 0
    assert [path.stat().st_mtime_ns for path in rows if "lock" not in str(path)] == stamps
