"""What flags of `run` come to that only some families have."""

from __future__ import annotations

import json

import pytest

from eval.cli import main
from eval.store import read


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
    rows = read(out / "gqa" / "none.0.jsonl")
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
    assert main(["run", *map(str, flags)]) == 1
    assert "--max-patches belongs to InternVL" in capsys.readouterr().err
