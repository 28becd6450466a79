"""The estimate of a study's cost: operations are those that are dispatched, sums add up, measured rates count."""

import json
import math

import pytest
import torch

from eval import benchmarks
from eval.cli import main
from eval.speed.cost import LOADS, assumed, layer, prefill, spread, tower, weight_bytes
from eval.speed.drawn import build, prompt
from eval.speed.measure import Variant, flops_of
from eval.speed.shapes import AFTER, BEFORE, SHAPES, Architecture
from pruners import make

NARROW = Architecture(128, 344, 6, 4, 2, 500, 64)


@pytest.mark.parametrize(("method", "keep"), [(None, 0), ("fastv", 16), ("pyramiddrop", 30)])
def test_operations_are_those_that_are_dispatched(method, keep):
    family = build(NARROW, NARROW.tokens, "cpu", torch.float32, "sdpa")
    counted = flops_of(family, Variant(method, keep), prompt(family, 1))
    first, rest = prefill(NARROW, method and make(method, keep=keep), BEFORE + AFTER, NARROW.tokens)
    assert first + rest == pytest.approx(counted, rel=0.03)  # scores cost a little


def test_no_layer_is_left_out_and_a_pruned_tower_hands_over_less():
    shape = SHAPES["llava-1.5-7b"]
    first, rest = prefill(shape, None, 65, 576)
    assert first == 32 * layer(shape, 641)
    assert rest == 2 * 32064 * 4096
    assert prefill(shape, make("vispruner", keep=128), 65, 576)[0] == 0
    pruner = make("illava", keep=128)
    assert prefill(shape, pruner, 65, 576)[0] == pytest.approx(8 * layer(shape, 65 + pruner.tower_count(576)))


def test_known_sizes():
    shape = SHAPES["llava-1.5-7b"]
    assert weight_bytes(shape) == pytest.approx(13.2e9, rel=0.02)  # 6.6 billion weights are read for a token
    assert layer(shape, 641) * 32 == pytest.approx(8.5e12, rel=0.06)
    assert tower(576) == pytest.approx(0.37e12, rel=0.05)
    assert set(LOADS) == set(benchmarks.NAMES)
    for name, load in LOADS.items():
        assert 0 < load.pictures <= benchmarks.get(name).expected_n


def test_spreading_never_gains_more_than_its_gpus():
    questions, seconds = {"a": 10_000, "b": 100}, {"a": 3600.0, "b": 36.0}
    hours = [spread(questions, seconds, gpus, start=0) for gpus in (1, 8, 64, 512)]
    assert hours[0] == pytest.approx(1.01)
    assert all(math.isclose(hours[0] / gpus, hour, rel_tol=0.9) and hour > hours[0] / gpus
               for gpus, hour in zip((8, 64, 512), hours[1:], strict=True))  # fmt: skip
    assert spread(questions, seconds, 64, start=3600) == pytest.approx(hours[2] + 1)


def estimate(capsys, *flags):
    capsys.readouterr()
    assert main(["scale", "--json", *flags]) == 0
    seen = capsys.readouterr()
    return json.loads(seen.out), seen.err


def test_a_study_adds_up(capsys):
    found, said = estimate(capsys)
    assert found["estimate"] is True
    assert "An estimate. Rates A100, assumed: 50%" in said
    assert found["gpu_hours"] == pytest.approx(sum(row["gpu_hours"] for row in found["methods"]))
    rows = {row["method"]: row for row in found["methods"]}
    assert rows["unpruned"]["answers"] == sum(found["questions"].values())
    assert (rows["fastv"]["arms"], rows["vispruner"]["arms"]) == (4, 2)
    assert "msvd" not in rows["vispruner"]["seconds"]
    assert rows["fastv"]["gpu_hours"] < 4 * rows["unpruned"]["gpu_hours"]
    shared, _ = estimate(capsys, "--share-prefix")
    after = {row["method"]: row["gpu_hours"] for row in shared["methods"]}
    assert after["vispruner"] == rows["vispruner"]["gpu_hours"]
    assert after["deeplayer"] < 0.75 * rows["deeplayer"]["gpu_hours"]
    faster, _ = estimate(capsys, "--device", "h100")
    assert faster["gpu_hours"] < found["gpu_hours"] / 1.5


def test_measured_rates_replace_assumed_ones(capsys, tmp_path):
    rows = [{"variant": name, "batch": 8, "tflops": rate, "decode_ms": 20.0}
            for name, rate in (("unpruned", 100.0), ("fastv 128 none", 50.0))]  # fmt: skip
    file = tmp_path / "speed.json"
    file.write_text(json.dumps({"shape": "llava-1.5-7b", "device": "some GPU", "rows": rows}))
    flags = ["--benchmarks", "pope", "--method", "fastv,grid", "--speed", str(file)]
    found, said = estimate(capsys, *flags)
    assert "measured: speed.json, some GPU, llava-1.5-7b, batches of 8" in said
    slow, plain = ({row["method"]: row for row in found["methods"]}[name] for name in ("fastv", "unpruned"))
    steps = 8910 * 3 * 0.020 / 8  # answers of three tokens, eight at once
    first, rest = prefill(SHAPES["llava-1.5-7b"], None, 65, 576)
    expected = (8910 * (first + rest) + 500 * tower(576)) / 100e12 + steps
    assert plain["seconds"]["pope"] == pytest.approx(expected)
    first, rest = prefill(SHAPES["llava-1.5-7b"], make("fastv", keep=128), 65, 576)
    assert slow["seconds"]["pope"] == pytest.approx((8910 * 4 * (first + rest) + 500 * tower(576)) / 50e12 + 4 * steps)


@pytest.mark.parametrize("text", ["", "{}", '{"shape": "llava-1.5-7b", "rows": []}', '{"shape": "x", "rows": [1]}'])
def test_a_file_that_is_none_is_named(capsys, tmp_path, text):
    file = tmp_path / "speed.json"
    file.write_text(text)
    assert main(["scale", "--speed", str(file)]) == 1
    assert f"--speed {file}: expected what `python -m eval speed --out FILE` writes" in capsys.readouterr().err
    assert main(["scale", "--speed", str(tmp_path / "none")]) == 1
    said = f"--speed {tmp_path / 'none'}: no such file; expected what `python -m eval speed --out FILE` writes\n"
    assert capsys.readouterr().err.endswith(said)


def test_rates_are_named():
    assert assumed("a100").tflops == 156
    assert "data sheet" in assumed("h200").source
