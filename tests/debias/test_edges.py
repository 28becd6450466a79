"""The last value that is taken and the first that is not; what mistakes put into the code once slipped past."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from debias import Measure, Padding, Span, Trend, names, trends
from debias.fitting import lines
from debias.padding import canvas_fraction

ABOUT = {"model": "m", "layer": 1, "layout": "24x24"}


@pytest.mark.parametrize("x", [7.0, 1e6 / 3, 1e9 / 7])
def test_a_regressor_that_does_not_vary_has_no_slope(x):
    y = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.linspace(0.1, 2, 50, dtype=torch.float64)
    slope, height, rest = lines.regress(y, weight, torch.full_like(y, x))
    level = float((weight * y).sum() / weight.sum())
    assert float(slope) == 0
    assert float(height) == pytest.approx(level)
    torch.testing.assert_close(rest, y - level)


def test_a_slope_beside_a_long_way_from_zero_is_still_a_slope():
    x = torch.tensor([1000.0, 1001.0, 1002.0], dtype=torch.float64)
    slope, height, _ = lines.regress(3 + 0.5 * x, torch.ones(3, dtype=torch.float64), x)
    assert (float(slope), float(height)) == (pytest.approx(0.5), pytest.approx(3))


def test_four_positions_are_a_cubic_and_three_are_not():
    i = torch.arange(4, dtype=torch.float64)
    curve = 2 * (1 + 0.5 * i + 0.25 * i**2 + 0.125 * i**3)
    assert lines.cubic(curve, torch.ones(4)) == pytest.approx((0.5, 0.25, 0.125))
    longer, weight = torch.cat([curve, curve[:1]]), torch.tensor([1.0, 1, 1, 1, 0])
    assert lines.cubic(longer, weight) == pytest.approx((0.5, 0.25, 0.125))
    with pytest.raises(ValueError, match="a cubic needs at least 4 usable positions; this curve has 3 of 4"):
        lines.cubic(curve, torch.tensor([1.0, 1, 0, 1]))


def test_four_positions_can_be_refined_and_three_not():
    curve = 2 * (0.3 * torch.arange(4, dtype=torch.float64)).exp() + 1
    found = lines.refine(curve, torch.ones(4), 0.25, 2.5)
    assert found == pytest.approx((0.3, 2, 1), rel=1e-6)
    with pytest.raises(ValueError, match="the refinement needs 4 usable positions; this curve has 3 of 4"):
        lines.refine(curve, torch.tensor([1.0, 1, 0, 1]), 0.25, 2.5)


def test_a_new_measure_is_empty_and_may_have_one_position():
    measure = Measure(1, **ABOUT)
    assert (measure.count.tolist(), measure.mean.tolist(), measure.samples) == ([0], [0], 0)
    assert (measure.count.dtype, measure.mean.dtype, measure.variance.dtype) == (torch.float64,) * 3
    measure.add(torch.tensor([3.0]))
    assert measure.variance.isnan().all()
    measure.add(torch.tensor([5.0]))
    assert (measure.mean.tolist(), measure.variance.tolist()) == ([4], [2])
    with pytest.raises(ValueError, match="at least one position; got 0"):
        Measure(0, **ABOUT)


@pytest.mark.parametrize("broken", ["count", "mean", "spread"])
def test_a_measure_with_a_tensor_of_another_length_is_refused(tmp_path, broken):
    path = tmp_path / "measure.safetensors"
    measure = Measure(4, **ABOUT)
    measure.save(path)
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, broken: torch.zeros(3, dtype=torch.float64)}, path, metadata)
    with pytest.raises(ValueError, match="its tensors do not have the 4 positions that it names"):
        Measure.load(path)


def test_names_are_found_however_they_are_spaced():
    assert names.method(" Deep Layer ") == "deeplayer"
    assert names.benchmark("mm bench_CN") == "mmbench_cn"
    assert names.nearest("fastw", ["fastv", "himap"]) == " (did you mean fastv?)"
    assert names.nearest("pdrp", ["pyramiddrop"]) == " (did you mean pyramiddrop?)"  # just above the line
    assert names.nearest("zzz", ["fastv", "himap"]) == ""
    with pytest.raises(ValueError, match=r"^a method must be a name, such as 'fastv'; got 3"):
        names.method(3)
    with pytest.raises(ValueError, match=r"^benchmark must be a name, one of gqa"):
        names.benchmark(3)
    with pytest.raises(ValueError, match=r"^unknown benchmark 'nothing'"):
        names.benchmark("nothing")


def test_thresholds_may_lie_at_either_end():
    half = Span(0, (2, 2), fraction=torch.tensor([0.0, 0.5, 0.5, 1.0]))
    assert Padding(0).valid(half).tolist() == [True, False, False, False]
    assert Padding(1).valid(half).tolist() == [True] * 4
    assert Padding(0.25, "bilinear").valid(half).tolist() == [True, True, True, False]  # a quarter of it is content
    assert Padding(0.25).valid(half).tolist() == [True, False, False, False]
    for threshold in (-0.01, 1.01, 1.5):
        with pytest.raises(ValueError, match="padding threshold must lie in"):
            Padding(threshold)


def test_one_patch_and_one_pixel_are_a_span():
    span = Span(0, (1, 1), size=(1, 1))
    assert (span.total, Padding().valid(span).tolist()) == (1, [True])
    assert Span(0, [2, 3]).grid == (2, 3)  # type: ignore[arg-type]
    assert Span(0, (1, 1), size=[2, 3]).size == (2, 3)  # type: ignore[arg-type]


def test_flags_of_another_length_are_named_and_an_index_is_kept_in_full():
    for name in ("fraction", "special"):
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(4,\), one entry per token; got \(3,\)"):
            Span(0, (2, 2), length=4, **{name: torch.zeros(3)})
    assert Span(0, (2, 2), index=torch.tensor([1, 2], dtype=torch.int32)).index.dtype == torch.int64


@pytest.mark.parametrize(
    ("size", "canvas", "grid", "border"),
    [
        ((4, 2), (4, 4), (4, 4), [1] * 4 + [0] * 8 + [1] * 4),
        ((2, 4), (4, 4), (4, 4), [1, 0, 0, 1] * 4),
        ((1, 4), (4, 4), (1, 4), [1, 0, 1, 1]),  # the odd pixel of the border on its right
        ((4, 1), (4, 4), (4, 1), [1, 0, 1, 1]),  # and below
        ((2, 2), (4, 4), (4, 4), [1] * 5 + [0, 0, 1, 1, 0, 0] + [1] * 5),  # a border all around
        ((4, 4), (4, 4), (2, 2), [0] * 4),
        ((4, 4), (4, 8), (4, 2), [1, 1, 0, 0, 0, 0, 1, 1]),
        ((6, 4), (8, 4), (2, 4), [0.5, 0, 0, 0.5] * 2),  # one pixel on either side
    ],
)
def test_borders_of_small_canvases(size, canvas, grid, border):
    assert canvas_fraction(size, canvas, grid).tolist() == pytest.approx(border)


def test_an_index_reaches_from_minus_one_to_the_last_token():
    span = Span(0, (2, 2))
    assert span.at(torch.tensor([-1, 3, 0])).raster().tolist() == [-1, 3, 0]
    for bad in ([-2, 0], [0, 4], [4, -1]):
        with pytest.raises(ValueError, match=rf"index must lie in -1..3; got values from {min(bad)} to {max(bad)}"):
            span.at(torch.tensor(bad))
    meta = torch.device("meta")
    assert span.raster(meta).device == span.at(torch.tensor([1])).raster(meta).device == meta


def test_tables_and_averages_at_zero():
    assert Trend.table([1.0, 0.0]).weight(None, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"position 1 holds 0\.0"):
        Trend.average([1.0, 0.0], eps=0.0)
    with pytest.raises(ValueError, match=r"; it is empty$"):
        Trend.average([])
    assert Trend.average([1.0, 3.0], eps=1.0).values == (1, 0.5)
    assert re.search(r"values=[0-9a-f]{16}\)$", repr(Trend.table([1.0, 0.5])))


def test_the_smallest_rotation():
    assert Trend.rope(head_dim=2, theta=1.5, gap=0).weight(None, 3)[2] < 1
    for bad in ({"head_dim": 0}, {"head_dim": 3}, {"theta": 1.0}, {"gap": -1}):
        with pytest.raises(ValueError, match="rope needs an even head_dim, theta > 1 and gap >= 0"):
            Trend.rope(**bad)


def test_a_factorised_trend_can_be_had_per_frame():
    within, between = Trend.exponential(0.1), Trend.exponential(0.2)
    assert Trend.factorised(within, between).per_frame() == within.per_frame()


def record(**values):
    return "[[trend]]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


@pytest.mark.parametrize("second", [{"length": 8}, {"scope": '"frame"'}, {"kind": '"online"', "rate": 0.0}])
def test_trends_that_have_no_mean_ask_for_a_benchmark(tmp_path, second):
    path = tmp_path / "trends.toml"
    first = {"method": '"fastv"', "benchmark": '"gqa"', "kind": '"exponential"', "rate": 0.1, "length": 9}
    path.write_text(record(**first) + record(**{**first, "benchmark": '"mme"', "rate": 0.3}))
    assert trends.find("fastv", path=path).rate == pytest.approx(0.2)
    other = tmp_path / "other.toml"
    other.write_text(record(**first) + record(**{**first, "benchmark": '"mme"', **second}))
    with pytest.raises(ValueError, match="the trends of 'fastv' are not exponentials of one length; name a benchmark"):
        trends.find("fastv", path=other)


def test_a_trends_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "trends.toml"
    path.write_bytes(b"[[trend]]\n\xff")
    with pytest.raises(ValueError, match=r"trends\.toml: expected UTF-8 text \(invalid start byte at byte 10\)"):
        trends.load(path)
