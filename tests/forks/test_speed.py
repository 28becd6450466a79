"""`eval speed --against fork`: what it says where the authors' code is missing, what it measures where it is there."""

from __future__ import annotations

import argparse
import json

import pytest

from eval.commands import speed
from eval.forks import setup as fork_setup
from eval.forks.setup import ROOT, environment, setup


def measured(*words):
    parser = argparse.ArgumentParser()
    speed.arguments(parser)
    return speed.work(parser.parse_args(["--against", "fork", "--device", "cpu", *words]))


def test_missing_code_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(fork_setup, "ROOT", tmp_path)
    (tmp_path / "patches").symlink_to(ROOT / "patches")
    with pytest.raises(ValueError, match=r"third_party/FastV is empty\. Get it with: bash setup\.sh --forks fastv"):
        measured("--shape", "llava-1.5-7b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "internvl2.5-8b"], "llava-1.5-7b"),
        (["--batch-size", "1,8"], "one question at a time"),
        (["--shape", "tiny", "--tokens", "64"], "own visual tokens"),
        (["--method", "d2pruner"], "not for d2pruner"),
        (["--method", "fastv,illava"], "iLLaVA's own code runs LLaVA-OneVision"),
        (["--method", "tokencarve", "--keep", "500"], "keeps from 2 to 384 of 576 tokens"),
    ],
)
def test_what_cannot_be_compared_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        measured(*words)


@pytest.mark.forks
def test_both_sides_are_measured_in_every_round(tmp_path, capsys):
    try:
        environment("pyramiddrop")
    except ValueError as reason:
        pytest.skip(str(reason))
    arms = "none,both" if setup("pyramiddrop").patched else "none"
    words = ["--method", "pyramiddrop", "--arms", arms, "--shape", "tiny", "--rounds", "2", "--threads", "1"]
    found = measured(*words, "--out", str(tmp_path / "speed.json"))
    capsys.readouterr()
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    assert [row["arm"] for row in found["rows"]] == ["unpruned", *arms.split(",")]
    for row in found["rows"]:
        for side in (row["ours"], row["theirs"]):
            assert 0 < side["range_ms"][0] <= side["ms"] <= side["range_ms"][1]
            assert side["processor_ms"] > 0
        assert row["ratio"] > 0
