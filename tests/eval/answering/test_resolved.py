"""What flags of `run` come to that only some families have."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eval.answering.resolved import Resolved
from eval.answering.store import numbered
from eval.cli import main
from eval.core.settings import FILLS, Settings, command_line


@pytest.fixture(scope="module")
def internvl(builders, tmp_path_factory):
    return builders.checkpoint("internvl", tmp_path_factory.mktemp("internvl") / "internvl")


def answered(out, model, world, *flags):
    common = [
        "--data",
        world,
        "--benchmarks",
        "gqa",
        "--limit",
        2,
        "--arms",
        "none",
        "--max-new-tokens",
        1,
        "--draws",
        20,
    ]
    common += ["--method", "random", "--keep", "0.5", "--batch-size", 2, "--report-samples", 0]
    assert main(["run", "--model", str(model), "--out", str(out), *map(str, common), *flags]) == 0
    rows = [row for _, row in numbered(out / "gqa" / "none.0.jsonl")]
    return json.loads((out / "run.json").read_text()), [row["metadata"]["counts"] for row in rows]


def test_fewer_tiles_are_fewer_tokens_and_another_run(internvl, world, tmp_path):
    usual, many = answered(tmp_path / "usual", internvl, world)
    fewer, few = answered(tmp_path / "fewer", internvl, world, "--max-patches", "1")
    assert usual["run"] != fewer["run"]
    assert fewer["settings"]["models"]["image"].endswith("at most 1 tiles")
    assert fewer["benchmarks"]["gqa"]["max_patches"] == 1
    assert json.dumps(few) != json.dumps(many)
    assert {json.dumps(count) for count in few} == {json.dumps(few[0])}, "one tile has one number of tokens"


def test_other_families_have_no_such_tiles(checkpoints, world, capsys):
    flags = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "gqa", "--max-patches", "6"]
    assert main(["run", *map(str, flags)]) == 2
    assert (
        "--max-patches belongs to families that cut a picture into so many tiles: internvl" in capsys.readouterr().err
    )


def test_another_filling_of_the_border_is_another_run(checkpoints):
    usual = Settings(model=checkpoints["image"], device="cpu")
    found = [Resolved(replace(usual, fill=fill), [], {"image": str(checkpoints["image"])}).identity() for fill in FILLS]
    assert len({one["models"]["image"] for one in found}) == len(FILLS)
    assert "fill" not in str(found[0])  # runs from before keep their names
    assert command_line(replace(usual, fill="mirror"))[-2:] == ["--fill", "mirror"]


def test_a_filling_is_refused_where_nothing_is_padded_or_others_pad(internvl, checkpoints):
    asked = Settings(fill="mirror", device="cpu")
    with pytest.raises(ValueError, match="--fill mirror belongs to families that pad pictures to a square: llava, vid"):
        Resolved(asked, [], {"image": str(internvl)})
    with pytest.raises(ValueError, match="the authors' code pads pictures itself"):
        Resolved(replace(asked, backend="fork"), [], {"image": str(checkpoints["image"])})
    with pytest.raises(ValueError, match="fill='blue': expected one of mean, constant, random, mirror"):
        Settings(fill="blue")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--zero", "--tensor-parallel"], "--zero and --tensor-parallel are two ways to hold one model together"),
        (["--zero", "--backend", "fork"], "--zero belongs to the native backend"),
        (["--tensor-parallel", "--backend", "fork"], "--tensor-parallel belongs to the native backend"),
        (["--zero", "--device", "auto"], "--device auto spreads a model in one process, --zero over several"),
        (["--zero", "--dtype", "8bit"], "--dtype 8bit belongs to the native backend in one process a model"),
    ],
)
def test_one_way_to_hold_a_model_together(checkpoints, world, capsys, monkeypatch, flags, said):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    common = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "gqa"]
    assert main(["run", *map(str, common), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--zero", "--tensor-parallel"])
def test_one_process_holds_nothing_together(checkpoints, world, capsys, tmp_path, flag):
    common = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "gqa", "--out", tmp_path / "run"]
    assert main(["run", *map(str, common), flag]) == 2
    assert "over the processes of one launch, and there is only this one" in capsys.readouterr().err
