"""`--as-released`: what it chooses, refuses and shows. What it computes is held in tests/golden and tests/forks."""

import json

import pytest

from debias import Trend
from debias import trends as files
from eval.cli import main
from eval.papers import artefacts
from eval.papers.reproduce import released


def run(*flags):
    return main(["run", *map(str, flags)])


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "sparsevlm", "himap", "tokencarve"])
def test_every_arm_of_the_release_runs(method, checkpoints, world, tmp_path, capsys):
    common = ["--method", method, "--model", checkpoints["image"], "--data", world, "--benchmarks", "gqa", "--limit", 2]
    common += ["--max-new-tokens", 2, "--draws", 20, "--report-samples", 0, "--keep", 0.5]
    record = {"method": method, "benchmark": files.EVERY, **files.describe(Trend.exponential(0.02))}
    files.dump([record], tmp_path / "trends.toml")
    common += ["--trend", tmp_path / "trends.toml"]
    assert run(*common, "--as-released", "--out", tmp_path / "released") == 0
    assert run(*common, "--dry-run", "--json") == 0
    corrected = json.loads(capsys.readouterr().out)
    info = json.loads((tmp_path / "released" / "run.json").read_text())
    assert info["settings"]["trend"] == f"{corrected['run']['trend']}, as released"
    assert info["settings"]["versions"] == corrected["run"]["versions"]
    said = info["benchmarks"]["gqa"]["debias"]
    assert list(said) == ["none", "padding", "both"]
    assert all("release=Release(" in one for one in said.values())
    assert ("mode='mask'" in info["settings"]["method"]) == (method == "fastv")
    assert ("rule='cropped'" in said["padding"]) == (method == "fastv")
    assert ("rule='antialiased'" in said["both"]) == (method == "sparsevlm")
    assert run(*common, "--as-released", "--mode", "gather", "--dry-run") == (0 if method == "fastv" else 2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "vispruner"], "the release does not run vispruner"),
        (["--method", "random"], "the release does not run random"),
        (["--arms", "none,trend"], "the release does not run the arm trend"),
        (["--stages", "all"], "release debiases the first cut alone"),
        (["--trend", "online"], "release has no online trend"),
    ],
)
def test_what_the_release_does_not_run_is_refused_before_anything_is_loaded(flags, said, checkpoints, world, capsys):
    common = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "gqa", "--dry-run", "--as-released"]
    assert run(*common, *flags) == 2
    assert said in capsys.readouterr().err


def test_an_artefact_has_every_run_of_the_release_both_ways():
    main_table = artefacts.artefact("main")
    twice = released(main_table)
    labels = [one.label for one in twice.runs]
    assert labels[:3] == ["unpruned", "fastv", "fastv-as-released"]
    assert "illava-as-released" not in labels
    assert len(labels) == len(main_table.runs) + 5
    assert [one.label for one in twice.runs if one.as_released] == [name for name in labels if "released" in name]
    shown = {one.label for one in twice.runs if twice.shows(one)}
    assert shown == {*(name for name in labels if "released" in name), "unpruned", "illava"}
    assert all(main_table.shows(one) for one in main_table.runs)
    with pytest.raises(ValueError, match="vispruner has no run of the release's methods"):
        released(artefacts.artefact("vispruner"))


@pytest.mark.long
def test_reproduce_shows_both(world, tmp_path, capsys):
    words = ["--data", world, "--benchmarks", "gqa", "--limit", 2, "--draws", 20]
    words += ["--max-new-tokens", 1, "--report-samples", 0, "--out", tmp_path, "--json"]
    assert main(["reproduce", "main", "--as-released", *map(str, words)]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    whose = {(row[0], row[2]) for row in table["rows"]}
    assert {("fastv", "ours"), ("fastv-as-released", "ours"), ("fastv-as-released", "published: main")} <= whose
    assert ("fastv", "published: main") not in whose
    info = json.loads((tmp_path / "main" / "fastv-as-released" / "run.json").read_text())
    assert info["settings"]["trend"].endswith("as released")
