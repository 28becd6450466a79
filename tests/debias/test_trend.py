"""Trends: the published curves, the kinds, their layouts, and the file they are kept in."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from debias import Span, Trend, trends
from debias.shape import Shape, rotation

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())["curves"]
# Rates as a second reading of the release gives them, to 5 digits.
RATES = {
    "pyramiddrop": {
        "gqa": 0.00399,
        "mmvet": 0.00413,
        "pope": 0.00405,
        "vqav2": 0.00376,
        "mme": 0.00327,
        "textvqa": 0.00315,
        "scienceqa": 0.00270,
        "mmbench": 0.00265,
        "mmbench_cn": 0.00260,
        "vizwiz": 0.00252,
    },
    "sparsevlm": {
        "gqa": 0.00230,
        "pope": 0.00464,
        "mmvet": 0.00423,
        "vqav2": 0.00412,
        "mme": 0.00380,
        "mmbench": 0.00320,
        "textvqa": 0.00315,
        "scienceqa": 0.00299,
        "vizwiz": 0.00274,
        "mmbench_cn": 0.00260,
    },
}


@pytest.mark.parametrize(("method", "benchmark", "first", "middle", "last"), PUBLISHED)
def test_published_curve(method, benchmark, first, middle, last):
    weight = Trend.published(method, benchmark).weight(None, 576)
    assert weight.shape == (576,)
    assert weight.dtype == torch.float32
    for index, value in ((0, first), (288, middle), (575, last)):
        assert float(weight[index]) == pytest.approx(value, abs=1e-6)
    assert (weight <= 1).all()
    assert (weight.diff() < 0).all() or method == "fastv"
    if method in RATES:
        assert Trend.published(method, benchmark).rate == pytest.approx(RATES[method][benchmark], abs=6e-6)


def test_every_published_record():
    records = trends.load()
    assert len(records) == 41
    assert len({(record["method"], record["benchmark"]) for record in records}) == 41
    assert sum(record["kind"] == "exponential" for record in records) == 40
    assert all(record["length"] == 576 and record["source"] for record in records)
    # The release's TokenCarve folder holds one vector twice.
    twins = [Trend.published("tokencarve", benchmark).rate for benchmark in ("vqav2", "mmvet")]
    assert twins[0] == twins[1]
    rates = [trends.make(record, "").rate for record in records if record["kind"] == "exponential"]
    assert min(rates) == pytest.approx(0.00111, abs=5e-6)
    assert max(rates) == pytest.approx(0.00464, abs=5e-6)


def test_spellings_of_names_meet():
    assert Trend.published("PDrop", "MM-Vet") == Trend.published("pyramiddrop", "mmvet")
    assert Trend.published("SparseVLMs", "MME") == Trend.published("sparsevlm", "mme")
    assert Trend.published("HiMAP", "mmbench-cn") == Trend.published("himap", "mmbench_cn")


def test_without_a_benchmark_the_rates_are_averaged():
    rates = [trends.make(r, "").rate for r in trends.load() if r["method"] == "himap"]
    trend = Trend.published("himap")
    assert trend.rate == pytest.approx(sum(rates) / 10, rel=1e-12)
    assert trend.length == 576
    assert "mean of the 10 rates of himap" in trend.source
    assert Trend.published("fastv") == Trend.published("fastv", "gqa")


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match=r"no trend for 'fastvv' \(did you mean fastv\?\), only for fastv, himap"):
        Trend.published("fastvv", "gqa")
    with pytest.raises(ValueError, match=r"unknown benchmark 'gqb' \(did you mean gqa\?\); known: gqa, vqav2"):
        Trend.published("himap", "gqb")
    with pytest.raises(ValueError, match=r"no trend for 'himap' on 'tgif', only on gqa, vqav2"):
        Trend.published("himap", "tgif")
    with pytest.raises(ValueError, match=r"no trend for 'illava', only for fastv, himap"):
        Trend.published("illava", "gqa")


def test_another_length_is_refused_by_both_numbers():
    with pytest.raises(ValueError, match=r"fitted for 576 positions and is asked for 2056"):
        Trend.published("pyramiddrop", "gqa").weight(None, 2056)
    with pytest.raises(ValueError, match=r"fitted for 4 positions and is asked for 5"):
        Trend.table([1, 1, 1, 1]).weight(torch.tensor([0]), 5)
    carried = Trend.exponential(Trend.published("pyramiddrop", "gqa").rate)
    assert carried.weight(None, 2056).shape == (2056,)


def test_kinds_against_their_formulas():
    i = torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(Trend.exponential(0.03).weight(None, 50), (-0.03 * i).exp().float())
    lifted = Trend.exponential(0.03, floor=0.5).weight(None, 50)
    torch.testing.assert_close(lifted, (1.5 / ((0.03 * i).exp() + 0.5)).float())
    cubic = Trend.inverse_cubic(1e-2, 1e-4, 1e-6).weight(None, 50)
    torch.testing.assert_close(cubic, (1 / (1 + 1e-2 * i + 1e-4 * i**2 + 1e-6 * i**3)).float())
    assert Trend.table([1, 0.5, 0.25]).weight(None, 3).tolist() == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    "trend",
    [Trend.exponential(0.1), Trend.inverse_cubic(0.1, 0.2, 0.3), Trend.table([1, 0.3, 0.1]), Trend.rope(head_dim=4)],
)
def test_curves_are_worked_out_in_double_precision(trend):
    assert trend.curve(3).dtype == trend.regressor(3).dtype == torch.float64


def test_what_is_left_unsaid():
    assert Trend("exponential") == Trend.exponential(0.0) == Trend.exponential(0.0, floor=0.0)
    assert Trend("exponential").source == ""
    assert Trend.rope() == Trend.rope(strength=1.0, head_dim=128, theta=10000.0, gap=1)
    assert Trend.average([1.0, 2.0]) == Trend.average([1.0, 2.0], eps=1e-7) != Trend.average([1.0, 2.0], eps=1e-6)
    frame = Trend.exponential(0.1).per_frame()
    assert torch.equal(frame.weight(None, 6), frame.weight(None, 6, 1))
    assert Trend.fit([1.0, 2.0, 5.0]) == Trend.fit([1.0, 2.0, 5.0], "exponential")


def test_a_rotation_far_away_is_exact():
    found = rotation(torch.tensor([1e6]), 4, 100.0)
    assert float(found[0]) == pytest.approx((math.cos(1e6) + math.cos(1e5)) / 2, rel=1e-9)


def test_dividing_by_the_mean_curve_flattens_it():
    curve = torch.rand(100, generator=torch.Generator().manual_seed(0)) + 0.1
    weight = Trend.average(curve).weight(None, 100)
    torch.testing.assert_close(curve * weight, torch.full((100,), float(curve.min())), rtol=1e-5, atol=1e-6)
    assert float(weight.max()) == 1
    with pytest.raises(ValueError, match=r"position 1 holds nan"):
        Trend.average([0.1, float("nan"), 0.2])
    with pytest.raises(ValueError, match=r"position 0 holds -0.3"):
        Trend.average([-0.3, 0.1])
    with pytest.raises(ValueError, match="empty"):
        Trend.average([])


def test_rope_is_a_rotated_vector_against_itself():
    head_dim, theta, gap, length = 16, 100.0, 3, 40
    angles = torch.arange(gap + length, dtype=torch.float64)[:, None] * theta ** (
        -torch.arange(0, head_dim, 2) / head_dim
    )
    turned = torch.polar(torch.ones_like(angles), angles)  # every channel pair of size one, turned by its angle
    query, keys = turned[-1], turned[:length]  # the query stands `gap` after the last visual token
    logits = 2.5 * (query * keys.conj()).real.mean(-1)
    weight = Trend.rope(2.5, head_dim, theta, gap).weight(None, length).double()
    flat = weight * logits.exp()
    torch.testing.assert_close(flat, flat[:1].expand(length), rtol=1e-5, atol=0)
    assert float(weight.max()) == pytest.approx(1)
    with pytest.raises(ValueError, match="even head_dim"):
        Trend.rope(head_dim=15)


def test_index_picks_original_positions_and_merged_tokens_weigh_one():
    trend = Trend.published("himap", "gqa")
    whole = trend.weight(None, 576)
    index = torch.tensor([575, 3, -1, 0])
    assert trend.weight(index, 576).tolist() == [whole[575], whole[3], 1.0, 1.0]
    whole.zero_()
    assert float(trend.weight(None, 576)[0]) == 1  # what was handed out is the caller's own


def test_scopes_of_a_clip():
    within, between = Trend.exponential(0.1), Trend.exponential(0.5)
    i = torch.arange(12)
    torch.testing.assert_close(within.per_frame().weight(None, 12, 3), (-0.1 * (i % 4)).exp())
    both = Trend.factorised(within, between).weight(None, 12, 3)
    torch.testing.assert_close(both, (-0.1 * (i % 4) - 0.5 * (i // 4)).exp())
    torch.testing.assert_close(within.weight(None, 12, 3), (-0.1 * i).exp())
    with pytest.raises(ValueError, match="12 tokens in 5 frames"):
        within.per_frame().weight(None, 12, 5)
    with pytest.raises(ValueError, match=r"fitted for 5 positions and is asked for 4"):
        replace(within, length=5).per_frame().weight(None, 12, 3)
    with pytest.raises(ValueError, match="scope"):
        replace(within, scope="factorised")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Trend.exponential(float("nan")),
        lambda: Trend.table([1.0, float("inf")]),
        lambda: Trend.table([1.0, -0.1]),
        lambda: Trend.table([]),
        lambda: Trend("spline"),
        lambda: Trend.inverse_cubic(-1.0, 0, 0).weight(None, 10),
        lambda: Trend.exponential(0.1, floor=-2).weight(None, 10),
        lambda: Trend.exponential(100.0).weight(None, 10),  # exp(-900) is no number above zero
        lambda: Trend.online().weight(None, 10),
        lambda: Trend.online().per_frame(),
    ],
)
def test_what_cannot_be_a_trend(build):
    with pytest.raises(ValueError, match=r"trend|table|Trend"):
        build()


def test_trends_are_values():
    a, b = Trend.exponential(0.25), Trend.exponential(0.25)
    assert a == b
    assert hash(a) == hash(b)
    assert Trend.__hash__ is Shape.__hash__  # which is worked out once for each trend
    assert a != replace(a, length=5)
    assert Trend.table([1, 0.5]) != Trend.table([1, 0.4])
    assert repr(Trend.table([1, 0.5])) != repr(Trend.table([1, 0.4]))
    assert repr(replace(a, length=9, source="x")) == "Trend('exponential', rate=0.25, length=9)"
    for trend in (a, Trend.table([1, 0.5]), Trend.factorised(a, b)):
        assert pickle.loads(pickle.dumps(trend)) == trend
        assert copy.deepcopy(trend) == trend


MADE = [
    Trend.exponential(0.0041, floor=0.2),
    Trend.published("fastv"),
    Trend.table([1.0, 0.3, 1e-9]),
    Trend.rope(2.0, 64, 5e5, 20),
    Trend.exponential(0.01).per_frame(),
    Trend.factorised(Trend.table([1.0, 0.5]), Trend.exponential(-0.2)),
    replace(Trend.exponential(1e-7), length=576, source='a "quoted" line\nand another – 模型', amplitude=0.5, r2=0.75),
]


def test_a_file_of_trends_reads_back(tmp_path):
    path = tmp_path / "trends.toml"
    records = [{"method": "fastv", "benchmark": f"{'gqa'}", "model": f"m{n}"} for n in range(len(MADE))]
    trends.dump([{**record, **trends.describe(trend)} for record, trend in zip(records, MADE, strict=True)], path)
    loaded = trends.load(path)
    assert [record["model"] for record in loaded] == [f"m{n}" for n in range(len(MADE))]
    for record, trend in zip(loaded, MADE, strict=True):
        again = trends.make(record, "here")
        assert again == trend
        assert (again.amplitude, again.r2) == (trend.amplitude, trend.r2)
        if trend.source:
            assert again.source == trend.source


def test_a_file_of_trends_is_utf_8_whatever_the_machine_prefers(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "ascii")
    trend = replace(Trend.exponential(0.1), source="模型")
    trends.dump([{"method": "fastv", **trends.describe(trend)}], tmp_path / "x.toml")
    assert trends.find("fastv", path=tmp_path / "x.toml").source == "模型"


@pytest.mark.parametrize("which", ["published", "ours"])
def test_our_reader_and_a_toml_reader_agree(tmp_path, which):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    path = trends.PUBLISHED
    if which == "ours":
        path = tmp_path / "trends.toml"
        trends.dump([{"method": "fastv", "benchmark": "*", **trends.describe(trend)} for trend in MADE], path)
    assert (
        trends.parse(path.read_text(encoding="utf-8"), "x") == tomllib.loads(path.read_text(encoding="utf-8"))["trend"]
    )


def test_a_file_of_ones_own_serves_find(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('# mine\n[[trend]]\nmethod = "PDrop"\nbenchmark = "MM-Vet"\nkind = "exponential"\nrate = 0.5\n')
    assert trends.find("pyramiddrop", "mmvet", path) == Trend.exponential(0.5)
    path.write_text('[[trend]]\nmethod = "fastv"\nkind = "exponential"\nrate = 0.25\n')
    assert trends.find("fastv", "tgif", path) == Trend.exponential(0.25)  # rewritten file, no benchmark: serves all


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('method = "fastv"', "line 1: expected"),
        ("[[trend]]\nrate 5", "line 2: expected"),
        ("[[trend]]\n\nrate = five", "line 3: expected"),
        ("[[trend]]\nrate = NaN", "line 2: expected"),
        ("[[trend]]\nrate = 1\nrate = 2", "line 3: expected"),
        ("[trend.between]", "line 1: expected"),
        ("[[trend]]\nrate = 1", "without a method"),
        ('[[trend]]\nmethod = "fast"', r"no trend for 'fastv' \(did you mean fast\?\), only for fast"),
        ("[[trend]]\nmethod = 5", r"a method must be a name, such as 'fastv'; got 5"),
        ('[[trend]]\nmethod = "fastv"\nbenchmark = "gqb"', "unknown benchmark 'gqb'"),
        ('[[trend]]\nmethod = "fastv"\nkind = "exponential"\nrate = "x"', "not a trend"),
        ('[[trend]]\nmethod = "fastv"\nrate = 1', "not a trend"),
        ('[[trend]]\nmethod = "fastv"\nkind = "exponential"\nlast = 0.5', "not a trend"),
    ],
)
def test_a_bad_file_names_itself_and_the_place(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        trends.find("fastv", "gqa", path)
    assert "bad.toml" in str(caught.value)


def test_a_number_that_json_does_not_know_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"JSON|nan"):
        trends.dump([{"method": "fastv", "r2": math.nan}], tmp_path / "x.toml")


def test_span_says_what_it_was_given():
    for bad, message in (
        (lambda: Span(0, (0, 4)), "grid"),
        (lambda: Span(-1, (4, 4)), "start must not be negative; got -1"),
        (lambda: Span(0, (4, 4), frames=0), "frames must be at least 1; got 0"),
        (lambda: Span(0, (4, 4), index=torch.tensor([16])), r"index must lie in -1..15; got values from 16 to 16"),
        (lambda: Span(0, (4, 4), index=torch.tensor([0.5])), "1-D tensor of whole numbers"),
        (lambda: Span(0, (4, 4), index=torch.zeros(2, 2).long()), "1-D"),
        (lambda: Span(0, (4, 4), special=torch.zeros(5).bool(), length=16), r"special must have shape \(16,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    span = Span(3, [4, 4], size=[10, 20])
    assert (span.length, len(span), span.grid, span.size) == (16, 16, (4, 4), (10, 20))
    left = span.at(torch.tensor([7, 2]))
    assert (len(left), left.total, left.start) == (2, 16, 3)
    assert left.raster().tolist() == [7, 2]
    assert span.raster().tolist() == list(range(16))
    assert len(left.at(None)) == 16
