"""The benchmark program measures what it says: shapes, token counts, operations, and every variant in turn."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from eval import cli, speed
from eval.shapes import SHAPES, Laid, Shape, build, prompt

SMALL = Shape(32, 64, 4, 4, 2, 300, 64, {**SHAPES["tiny"].tower, "image_size": 112, "hidden_size": 32})


@pytest.fixture(scope="module")
def family() -> Laid:
    return build(SMALL, 64, "cpu", torch.float32, "sdpa")


@pytest.fixture
def shape(monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", SMALL)


def test_published_shapes_have_the_published_sizes():
    """Parameters of the decoders, counted by hand from the configurations: 6.74e9, 13.0e9 and 7.7e9."""
    counts = {}
    for name, shape in SHAPES.items():
        kv = shape.width * shape.groups // shape.heads
        layer = 2 * shape.width**2 + 2 * shape.width * kv + 3 * shape.width * shape.inner
        counts[name] = shape.layers * layer + 2 * shape.vocabulary * shape.width
    assert counts["llava-1.5-7b"] == pytest.approx(6.74e9, rel=0.01)
    assert counts["llava-1.5-13b"] == pytest.approx(13.0e9, rel=0.01)
    assert counts["internvl2.5-8b"] == pytest.approx(7.74e9, rel=0.01)


@pytest.mark.parametrize("tokens", [64, 50])
def test_other_token_counts_go_without_the_tower(tokens):
    family = build(SMALL, tokens, "cpu", torch.float32, "sdpa")
    inputs = prompt(family, 2)
    assert inputs["input_ids"].eq(family.model.config.image_token_id).sum(1).tolist() == [tokens, tokens]
    with speed.Variant("fastv", 10, "both").around(family, 2) as trace, torch.inference_mode():
        family.model(**inputs)
    assert [len(kept) for kept in trace.kept[0]] == [10, 10]


def test_operations_are_those_of_a_decoder(family):
    """Linear layers: two operations a weight and token; the count also holds attention, the head and the tower."""
    inputs = prompt(family, 1)
    linear = sum(p.numel() for layer in family.decoder.layers for p in layer.parameters() if p.dim() == 2)
    counted = speed.flops_of(family, speed.Variant(), inputs)
    length = inputs["input_ids"].shape[1]
    assert counted > 2 * linear * length
    pruned = speed.flops_of(family, speed.Variant("fastv", 8), inputs)
    saved = 2 * linear / 4 * 2 * (64 - 8)  # two of four layers read 56 tokens less
    assert counted - pruned == pytest.approx(saved, rel=0.25)


def test_batches_cost_in_proportion(family):
    one, two = (speed.flops_of(family, speed.Variant(), prompt(family, batch)) for batch in (1, 2))
    assert two == 2 * one


def test_variants_are_all_methods_budgets_and_arms():
    args = argparse.Namespace(method="fastv,random", keep=[8, 16], arms="paper,both")
    labels = [variant.label for variant in speed.variants(args)]
    assert labels[0] == "unpruned"
    assert len(labels) == len(set(labels)) == 9
    assert "random 16 none" in labels


def test_summary_arithmetic():
    base = speed.Timed("unpruned", 1, [10, 30, 20], [4, 4], 1000, 64.0, 100)
    row = speed.Timed("fastv", 1, [8, 10, 12], [2, 2], 400, 30.0, 90).summary(base, rate=1e6)
    assert row["speed_up"] == 2
    assert row["possible"] == 2.5
    assert row["reached"] == 0.8
    assert row["decode_speed_up"] == 2
    assert row["memory"] == 0.9
    assert row["of_matrix_rate"] == pytest.approx(400 / 0.010 / 1e6)
    assert row["prefill_range_ms"] == [8, 12]


@pytest.mark.long
def test_command(shape, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "peak", lambda *args: 1)  # a process each: too slow for a test
    out = tmp_path / "speed.json"
    words = [
        "speed",
        "--shape",
        "tiny",
        "--keep",
        "8",
        "--rounds",
        "2",
        "--decode",
        "2",
        "--batch-size",
        "1,2",
        "--threads",
        "1",
    ]
    assert cli.main([*words, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())
    assert [row["variant"] for row in result["rows"]] == ["unpruned", "fastv 8 none", "fastv 8 both"] * 2
    assert all(row["prefill_ms"] > 0 and row["decode_ms"] > 0 for row in result["rows"])
    assert cli.main(["speed", "--shape", "huge"]) == 1
    assert "unknown shape 'huge'" in capsys.readouterr().err
