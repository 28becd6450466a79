"""The benchmark program measures what it says: shapes, token counts, operations, and every variant in turn."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pruners
from eval import cli
from eval.commands import flags, speed
from eval.speed import compiled
from eval.speed import parts as speed_parts
from eval.speed.drawn import Laid, build, prompt
from eval.speed.measure import Timed, Variant, fitting, flops_of, measure, spread
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES, Architecture
from eval.speed.variants import variants

SMALL = Architecture(32, 64, 4, 4, 2, 300, 64, {**SHAPES["tiny"].tower, "image_size": 112, "hidden_size": 32})


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
    with Variant("fastv", 10, "both").around(family, 2) as trace, torch.inference_mode():
        family.model(**inputs)
    assert [len(kept) for kept in trace.kept[0]] == [10, 10]


def test_shared_layers_change_the_memory_alone():
    """As deep, as many operations, the same caches, tokens and answers as a model whose layers hold copies."""
    own, shared = (build(SMALL, 64, "cpu", torch.float32, "sdpa", shared_layers=shared) for shared in (False, True))
    bytes_of = [sum(weight.numel() for weight in family.decoder.layers.parameters()) for family in (own, shared)]
    assert bytes_of[0] == SMALL.layers * bytes_of[1]
    own.model.load_state_dict(shared.model.state_dict())
    inputs = prompt(own, 2)
    seen = []
    for family in (own, shared):
        for variant in (Variant(), Variant("fastv", 8, "both"), Variant("pyramiddrop", 30, "both")):
            with variant.around(family, 2) as trace, torch.inference_mode():
                out = family.model(**inputs, use_cache=True)
            kept = trace and [[tokens.tolist() for tokens in stage] for stage in trace.kept]
            held = [layer.keys.shape for layer in out.past_key_values.layers]
            seen.append((flops_of(family, variant, inputs), kept, held, out.logits))
    for mine, theirs in zip(seen[:3], seen[3:], strict=True):
        assert mine[:3] == theirs[:3]
        assert len(mine[2]) == SMALL.layers
        torch.testing.assert_close(mine[3], theirs[3])


def test_operations_are_those_of_a_decoder(family):
    """Linear layers: two operations a weight and token; the count also holds attention, the head and the tower."""
    inputs = prompt(family, 1)
    linear = sum(p.numel() for layer in family.decoder.layers for p in layer.parameters() if p.dim() == 2)
    counted = flops_of(family, Variant(), inputs)
    length = inputs["input_ids"].shape[1]
    assert counted > 2 * linear * length
    pruned = flops_of(family, Variant("fastv", 8), inputs)
    saved = 2 * linear / 4 * 2 * (64 - 8)  # two of four layers read 56 tokens less
    attention = 2 * 2 * 2 * (length**2 - (length - 56) ** 2) * 32  # layers, products, operations, pairs, width
    assert counted - pruned == pytest.approx(saved + attention, rel=0.02)


def test_batches_cost_in_proportion(family):
    one, two = (flops_of(family, Variant(), prompt(family, batch)) for batch in (1, 2))
    assert two == 2 * one


def test_variants_are_all_methods_budgets_arms_and_kernels():
    asked = SpeedSettings(method="fastv,random", keep=[8, 16], arms="paper,both", attention="sdpa,eager")
    found = list(variants(asked))
    assert len(found) == len(set(found)) == 18
    assert [variant.kernel for variant in found if variant.method is None] == ["sdpa", "eager"]
    assert Variant("random", 16, "none", "eager") in found


def test_summary_arithmetic():
    base = Timed(Variant(), 1, 64, 64.0, 1000, [10, 30, 20], [4, 4], 100)
    row = Timed(Variant("fastv", 8), 1, 64, 30.0, 400, [8, 10, 12], [2, 2], 90).summary(base, rate=1e6)
    assert row["speed_up"] == 2
    assert row["possible"] == 2.5
    assert row["reached"] == 0.8
    assert row["decode_speed_up"] == 2
    assert row["memory"] == 0.9
    assert row["of_matrix_rate"] == pytest.approx(400 / 0.010 / 1e6)
    assert row["prefill_range_ms"] == [8, 12]
    assert row["prefill_spread"] == pytest.approx(0.2)  # quartiles 9 and 11 around 10
    assert spread([4, 4]) == 0


def test_kernels_take_turns_and_agree_on_the_operations(family):
    wanted = [Variant(kernel=kernel) for kernel in ("sdpa", "eager")]
    wanted += [Variant("fastv", 8, "both", kernel) for kernel in ("sdpa", "eager")]
    timed = measure(family, wanted, batch=2, rounds=1, steps=1)
    assert [len(row.prefill_ms) for row in timed] == [1] * 4
    assert timed[0].flops == timed[1].flops > timed[2].flops == timed[3].flops
    assert timed[0].flops == 2 * flops_of(family, Variant(), prompt(family, 1))
    assert [row.mean_tokens for row in timed] == [64, 64, 36, 36]


def test_what_a_shape_does_not_allow_is_left_out_and_said():
    family = build(SMALL, 50, "cpu", torch.float32, "sdpa")
    wanted = [Variant(), Variant("fastv", 8), Variant("vispruner", 8), Variant("pyramiddrop", 2)]
    chosen, left_out = fitting(family, wanted)
    assert chosen == wanted[:2]
    assert "in the vision tower" in left_out["vispruner 8, 50 tokens"]
    assert "cannot keep 2" in left_out["pyramiddrop 2, 50 tokens"]
    assert fitting(build(SMALL, 64, "cpu", torch.float32, "sdpa"), [Variant("vispruner", 8)])[1] == {}


def test_attention_is_counted(family):
    """Beside linear layers: scores and sums of values, two operations for each pair of tokens and channel."""
    inputs = prompt(family, 1)
    length = inputs["input_ids"].shape[1]
    pairs = 4 * 2 * 2 * length**2 * 32  # layers, products, operations, width
    linear = 2 * length * sum(p.numel() for layer in family.decoder.layers for p in layer.parameters() if p.dim() == 2)
    assert flops_of(family, Variant(), inputs) > linear + pairs


def test_parts_are_those_that_a_method_has(family):
    wanted = [Variant(), Variant("fastv", 8, "both"), Variant("tokencarve", 8, "none"), Variant("d2pruner", 8, "both")]
    wanted.append(Variant("random", 8, "both"))  # has no trend, so that its debias is a copy without it
    rows = speed_parts.measure(family, wanted, 1, SpeedSettings(rounds=1))
    used = [{part for part, ms in row["parts_ms"].items() if ms > 0} for row in rows]
    assert used[0] == {"score", "debias", "select"}
    assert used[1] >= {"start", "score", "select", "merge"}
    assert used[2] == {"score", "debias", "select"}
    assert used[3] >= {"debias", "select"}
    assert all(0 < row["percent"]["score"] < 100 for row in rows[:3])


def test_growth_is_the_exponent():
    same = {"variant": "fastv 8 none", "attention": "sdpa", "batch": 1}
    rows = [
        {
            **same,
            "tokens": n,
            "prefill_ms": 5.0 * n,
            "parts_ms": {**dict.fromkeys(speed_parts.PARTS, 0.0), "score": n**2},
        }
        for n in (100, 200, 400)
    ]
    (found,) = speed_parts.growth(rows)
    assert found["exponents"]["prefill"] == pytest.approx(1)
    assert found["exponents"]["score"] == pytest.approx(2)
    assert found["exponents"]["merge"] is None
    assert speed_parts.growth(rows[:1]) == []


@pytest.mark.long
@pytest.mark.parametrize("more", [[], ["--parts"]], ids=["whole", "parts"])
def test_command(shape, capsys, tmp_path, more):
    out = tmp_path / "speed.json"
    flags = {"shape": "tiny", "keep": "8", "rounds": "2", "decode": "2", "batch-size": "1,2", "tokens": "50,64"}
    words = [f"--{name}={value}" for name, value in flags.items()]
    assert cli.main(["speed", "--threads=1", *words, *more, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())
    labels = ["fastv 8 none", "fastv 8 both"]
    assert [row["variant"] for row in result["rows"]] == ([*labels] if more else ["unpruned", *labels]) * 4
    assert [(row["tokens"], row["batch"]) for row in result["rows"][:: 2 if more else 3]] == [
        (50, 1),
        (50, 2),
        (64, 1),
        (64, 2),
    ]
    assert all(row["prefill_ms"] > 0 for row in result["rows"])


def test_an_unknown_shape_is_told_so(capsys):
    assert cli.main(["speed", "--shape", "huge"]) == 2
    assert "unknown shape 'huge'" in capsys.readouterr().err


def test_ragged_rows_are_padded_on_the_left(capsys):
    family = build(SMALL, 64, "cpu", torch.float32, "sdpa")
    family.ragged = 3
    assert prompt(family, 3)["attention_mask"].sum(1).tolist() == [129, 126, 129]
    with Variant("fastv", 8, "both").around(family, 3) as trace, torch.inference_mode():
        family.model(**prompt(family, 3))
    assert [len(kept) for kept in trace.kept[0]] == [8, 8, 8]
    assert cli.main(["speed", "--ragged", "36"]) == 2
    assert "lack no more" in capsys.readouterr().err


def test_shared_weights_are_no_measure_of_memory(capsys):
    assert cli.main(["speed", "--shared-layers", "--memory"]) == 2
    assert "leave --shared-layers out" in capsys.readouterr().err


@pytest.mark.long
def test_precision_command(shape, capsys):
    words = ["--precision=bfloat16", "--shape=tiny", "--keep=8", "--limit=3", "--threads=1", "--json"]
    assert cli.main(["speed", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["what"] for row in rows] == ["debiasing, in float32", "bfloat16, none", "bfloat16, both"] * 2
    assert {row["model"] for row in rows} == {"tiny-llava", "random tiny"}
    assert all(row["prompts"] == 3 and 0 < row["same"] <= 1 and row["least"] <= row["same"] for row in rows)
    assert cli.main(["speed", "--precision", "int3"]) == 2


def test_the_script_asks_for_what_there_is(tmp_path):
    """The command that fills every table, with an interpreter that writes down what it is asked for."""
    asked, python = tmp_path / "asked", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in "-m eval speed "*) echo "$@" >> {asked};; *) exec {sys.executable} "$@";; esac\n'
    )
    python.chmod(0o755)
    path = Path(__file__).parents[3] / "scripts" / "speed.sh"
    subprocess.run(["bash", str(path), str(tmp_path)], env={**os.environ, "DEBIAS_PYTHON": str(python)}, check=True)
    parser = argparse.ArgumentParser()
    speed.arguments(parser)
    runs = [parser.parse_args(line.split()[3:]) for line in asked.read_text().splitlines()]
    assert {args.shape for args in runs} >= {name for name in SHAPES if name[-1] == "b"}
    assert {token for args in runs for token in args.tokens or ()} == {576, 2056, 2880, 3328}
    assert {method for args in runs for method in args.method.split(",")} == set(pruners.names())
    assert all(list(variants(flags.read(SpeedSettings, args))) for args in runs)
    assert (
        sum(args.debias for args in runs)
        == sum(args.parts for args in runs)
        == sum(bool(args.precision) for args in runs)
        == 1
    )


def test_an_answer_too_short_to_tell_a_step_is_refused_before_a_model_is_built():
    with pytest.raises(ValueError, match="--decode 1: a step is told from the prefill"):
        SpeedSettings(compiled=True, decode=1)


def test_tables_tell_lengths_and_kernels_apart_where_there_are_several(family):
    asked = SpeedSettings(rounds=1, decode=2)
    rows = [
        row
        for kernel in ("sdpa", "eager")
        for row in compiled.measure(family, [Variant("fastv", 8, "none", kernel)], 1, asked)
    ]
    result = {"shape": "x", "device": "cpu", "threads": 1, "torch": "2", "rounds": 1, "decode": 2}
    assert compiled.table({**result, "rows": rows[:2]}).head[:3] == ["variant", "batch", "cache"]
    both = compiled.table({**result, "rows": rows})
    assert both.head[:4] == ["variant", "batch", "attention", "cache"]
    assert [row[2] for row in both.rows] == ["sdpa", "sdpa", "eager", "eager"]
