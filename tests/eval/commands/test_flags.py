"""Flags that several commands take: numbers and names with commas, and only flags that do something."""

from __future__ import annotations

import argparse
import json

import pytest

from debias import trends as files
from eval import cli
from eval.answering.trends import is_published
from eval.cli import main
from eval.commands import flags
from pruners.parts.budget import REFERENCE_TOKENS


def test_numbers_with_commas():
    assert flags.numbers("1") == [1]
    assert flags.numbers("1,8, 64") == [1, 8, 64]


@pytest.mark.parametrize("text", ["", "8,", "1;2", "-1", "0", "1.5", "one"])
def test_what_is_no_number_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1, not "):
        flags.numbers(text)


@pytest.mark.parametrize(
    ("command", "flag"), [("scale", "--gpus"), ("throughput", "--threads"), ("speed", "--tokens"), ("speed", "--keep")]
)
def test_every_list_of_numbers_is_read_alike(command, flag, capsys):
    parser, _ = cli.build(command)
    assert getattr(parser.parse_args([flag, "2,16"]), flag.strip("-")) == [2, 16]
    assert main([command, flag, "2,x"]) == 2
    assert f"argument {flag}: expected a whole number of at least 1, not x" in capsys.readouterr().err


def test_benchmarks_by_any_of_their_names():
    assert flags.sets("MM-Vet, sqa,scienceqa") == ["mmvet", "scienceqa"]
    with pytest.raises(ValueError, match=r"unknown benchmark 'popes' .did you mean pope.*known: gqa"):
        flags.sets("popes")
    with pytest.raises(ValueError, match="--benchmarks ' ,' names none; known: gqa"):
        flags.sets(" ,")


def test_scale_knows_benchmarks_by_any_of_their_names(capsys):
    assert main(["scale", "--json", "--method", "grid", "--benchmarks", "SQA,MM-Vet"]) == 0
    assert list(json.loads(capsys.readouterr().out)["questions"]) == ["scienceqa", "mmvet"]


@pytest.mark.parametrize(
    "flag",
    ["--out", "--dry-run", "--report-samples", "--draws", "--check", "--backend", "--share-prefix", "--skip-broken",
     "--tensor-parallel", "--zero"],
)  # fmt: skip
def test_throughput_takes_no_flag_that_it_would_not_heed(flag, capsys):
    assert flag in cli.build("run")[0]._option_string_actions
    assert main(["throughput", flag]) == 2
    assert f"unknown flag {flag}" in capsys.readouterr().err


def test_released_curves_are_of_the_tokens_that_budgets_are_counted_in():
    assert {one["length"] for one in files.load()} == {REFERENCE_TOKENS}
    assert is_published("fastv", REFERENCE_TOKENS)
    assert not is_published("fastv", 144)
    assert not is_published("fastv", None)
    assert not is_published("grid", REFERENCE_TOKENS)
