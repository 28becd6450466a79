"""Fitting a trend: a planted one is found, padding takes no part, and what is written can be used."""

import json

import pytest
import torch

from debias import Span, Trend
from debias import trends as files
from eval.cli import main
from eval.fit import Probe, fitted


def test_a_planted_trend_is_found():
    probe, torch_state = Probe(), torch.Generator().manual_seed(0)
    index = torch.arange(64)
    for _ in range(400):
        noise = torch.rand(64, generator=torch_state) + 0.5
        probe(noise * torch.exp(0.02 * index), Span(5, (8, 8), size=(80, 80)))
    trend, curve = fitted(probe)
    assert trend.rate == pytest.approx(0.02, abs=0.001)
    assert trend.length == 64
    assert trend.r2 > 0.95
    assert len(curve) == 64


def test_padding_takes_no_part():
    probe = Probe()
    score = torch.exp(0.01 * torch.arange(64.0))
    score[:16] = score[-16:] = 1000.0  # two border rows above and below a 2:1 picture
    probe(score, Span(0, (8, 8), size=(160, 80)))
    trend, _ = fitted(probe)
    assert trend.rate == pytest.approx(0.01, abs=1e-6)


def test_later_cuts_and_the_tower_take_no_part():
    probe = Probe()
    span = Span(0, (8, 8), size=(80, 80))
    score = torch.rand(64)
    assert probe(score, span, 1) is score
    assert probe(score, span, 0, "vision") is score
    with pytest.raises(ValueError, match="scored no visual token"):
        fitted(probe)


def test_fit_writes_a_file_that_run_takes(checkpoints, world, tmp_path, capsys):
    out = tmp_path / "trends.toml"
    common = ["--model", str(checkpoints["image"]), "--data", str(world)]
    for method in ("fastv", "himap"):
        assert (
            main(
                [
                    "fit",
                    "--method",
                    method,
                    *common,
                    "--benchmarks",
                    "pope",
                    "--limit",
                    "4",
                    "--out",
                    str(out),
                    "--json",
                ]
            )
            == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert found["method"] == method
        assert {"rate", "r2", "length", "model", "layer", "prompt", "questions", "data", "attention"} <= found.keys()
    assert {record["method"] for record in files.load(out)} == {"fastv", "himap"}  # the first one stayed
    trend = files.find("fastv", None, out)
    assert isinstance(trend, Trend)
    flags = [
        "--benchmarks",
        "gqa",
        "--limit",
        "1",
        "--max-new-tokens",
        "2",
        "--arms",
        "trend",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(["run", "--method", "fastv", *common, "--trend", str(out), *flags]) == 0
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert f"rate={trend.rate}" in info["benchmarks"]["gqa"]["debias"]["trend"]
    assert info["settings"]["trend"].startswith("trends.toml ")


def test_trends_beside_the_checkpoint_are_the_default(checkpoints, world, tmp_path, capsys):
    import shutil

    model = shutil.copytree(checkpoints["image"], tmp_path / "model")
    files.dump([{"method": "fastv", **files.describe(Trend.exponential(0.123))}], model / "trends.toml")
    flags = [
        "--benchmarks",
        "gqa",
        "--limit",
        "1",
        "--max-new-tokens",
        "2",
        "--arms",
        "trend",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(["run", "--method", "fastv", "--model", str(model), "--data", str(world), *flags]) == 0
    assert "0.123" in (tmp_path / "run" / "run.json").read_text()


def test_a_trend_fitted_on_the_way_does_not_depend_on_the_last_bit():
    from eval.choices import rounded

    one = {"kind": "table", "rate": 0.0123456789, "values": [1.0, 0.98765432], "length": 2, "between": {"rate": 0.1}}
    other = {**one, "rate": 0.0123456788, "values": [1.0, 0.98765431]}
    assert rounded(one) == rounded(other)
    assert rounded(one)["rate"] == pytest.approx(one["rate"], rel=1e-3)
    assert rounded(one)["length"] == 2
