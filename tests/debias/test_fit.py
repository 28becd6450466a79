"""Fitting: planted trends come back, whatever is strewn over them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from debias import Debias, Span, Trend, fit_all
from debias.fitting import lines

LENGTH = 576
POSITION = torch.arange(LENGTH, dtype=torch.float64)


def noisy(
    rate: float, seed: int = 0, amplitude: float = 1e-3, noise: float = 0.1, length: int = LENGTH
) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    i = torch.arange(length, dtype=torch.float64)
    return amplitude * (rate * i + noise * torch.randn(length, generator=dice, dtype=torch.float64)).exp()


@pytest.mark.parametrize("rate", [-0.002, 0.0, 1e-4, 0.00464])
def test_a_planted_rate_comes_back(rate):
    trend = Trend.fit(noisy(rate))
    # Standard error of a slope: noise / sqrt(N * variance of the positions), here 2.5e-5.
    assert trend.rate == pytest.approx(rate, abs=1e-4)
    assert trend.amplitude == pytest.approx(1e-3, rel=0.05)
    assert trend.length == LENGTH
    clean = Trend.fit(noisy(rate, noise=0))
    assert clean.rate == pytest.approx(rate, abs=1e-12)
    assert clean.r2 == pytest.approx(1)
    assert float(clean.residual.abs().max()) < 1e-6
    assert trend.r2 < 1


def test_r2_and_residual_mean_what_they_say():
    curve = noisy(0.003, noise=0.5)
    trend = Trend.fit(curve)
    fitted = trend.amplitude * (trend.rate * POSITION).exp()
    torch.testing.assert_close(trend.residual, (curve / fitted).log().float(), rtol=1e-4, atol=1e-5)
    variance = ((curve.log() - curve.log().mean()) ** 2).mean()
    assert trend.r2 == pytest.approx(1 - float((trend.residual.double() ** 2).mean() / variance), abs=1e-5)
    assert 0.3 < trend.r2 < 0.9
    slope, height = torch.linalg.lstsq(
        torch.stack([POSITION, torch.ones_like(POSITION)], 1), curve.log()[:, None]
    ).solution.flatten()
    assert trend.rate == pytest.approx(float(slope), rel=1e-9)
    assert trend.amplitude == pytest.approx(math.exp(height), rel=1e-9)


def test_ignored_positions_leave_no_trace():
    """Padding spikes and sinks, ignored, do not move the rate; not ignored they do."""
    ignore = torch.zeros(LENGTH, dtype=torch.bool)
    ignore[:96] = ignore[-96:] = ignore[[100, 200, 301]] = True
    spoiled = noisy(0.003, noise=0)
    spoiled[:96] *= 5
    spoiled[-96:] *= 0.1
    spoiled[[100, 200, 301]] = 1.0
    trend = Trend.fit(spoiled, ignore=ignore)
    assert trend.rate == pytest.approx(0.003, abs=1e-10)
    assert abs(Trend.fit(spoiled).rate - 0.003) > 1e-3
    assert torch.equal(trend.residual.isnan(), ignore)
    again = Trend.fit(torch.where(ignore, torch.full_like(spoiled, 7.0), spoiled), ignore=ignore)
    assert (again.rate, again.amplitude, again.r2) == (trend.rate, trend.amplitude, trend.r2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 0.0, -1.0])
def test_values_without_a_logarithm_take_no_part(bad):
    curve = noisy(0.002, noise=0)
    curve[::3] = bad
    trend = Trend.fit(curve)
    assert trend.rate == pytest.approx(0.002, abs=1e-12)
    assert trend.residual.isnan().nonzero().flatten().tolist() == list(range(0, LENGTH, 3))


def test_weights_count():
    curve = torch.cat([noisy(0.001, noise=0)[:288], noisy(0.004, noise=0)[288:]])
    weights = torch.ones(LENGTH)
    weights[288:] = 0
    assert Trend.fit(curve, weights=weights).rate == pytest.approx(0.001, abs=1e-12)
    weights[288:] = 1e-9
    assert Trend.fit(curve, weights=weights).rate == pytest.approx(0.001, abs=1e-5)
    double = torch.ones(LENGTH).index_fill(0, torch.tensor([5]), 2.0)
    pairs = torch.cat([curve.log(), curve.log()[5:6]]), torch.cat([POSITION, POSITION[5:6]])
    x, y = pairs[1] - pairs[1].mean(), pairs[0] - pairs[0].mean()
    assert Trend.fit(curve, weights=double).rate == pytest.approx(float((x * y).sum() / (x * x).sum()), rel=1e-10)


@pytest.mark.parametrize("kind", ["exponential", "rope", "inverse_cubic", "average"])
def test_a_trend_over_the_sequence_takes_no_notice_of_frames(kind):
    curve = noisy(0.003)
    whole, framed = Trend.fit(curve, kind), Trend.fit(curve, kind, frames=4)
    assert (framed.length, framed.scope, framed.between) == (whole.length, "sequence", None)
    torch.testing.assert_close(framed.weight(None, LENGTH), whole.weight(None, LENGTH))


def test_a_constant_curve_has_no_trend():
    for level in (1.0, 0.1, 1 / 576, 3e-7):
        trend = Trend.fit(torch.full((LENGTH,), level))
        assert trend.rate == pytest.approx(0, abs=1e-15)
        assert (trend.amplitude, trend.r2) == (pytest.approx(level), 1.0)


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_a_level_known_up_to_rounding_is_explained(level):
    """577 weights that sum to 1 only nearly: the variance is not 0, but 5e-32."""
    log = torch.full((1, 577), level, dtype=torch.float64)
    weight = torch.rand(1, 577, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert lines.explained(log, weight, lines.regress(log, weight, torch.arange(577).double())[2]).tolist() == [1]


def test_a_variation_beyond_rounding_wants_to_be_explained():
    """A saw of height 1e-9 has no slope: a trend takes nothing out of it."""
    saw = (1e-9 * (-1) ** torch.arange(100)).double().exp()
    assert Trend.fit(saw).r2 < 0.01


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_a_slope_does_not_depend_on_the_unit_of_positions(unit):
    log = noisy(0.003).log()
    one, ones = lines.regress(log, torch.ones(LENGTH), POSITION)[0], torch.ones(LENGTH)
    assert float(lines.regress(log, ones, POSITION * unit)[0]) * unit == pytest.approx(float(one), rel=1e-9)


def test_a_cubic_over_many_positions_comes_back():
    i = torch.arange(20000, dtype=torch.float64)
    curve = 2 * (1 + 1e-2 * i + 1e-4 * i**2 + 1e-6 * i**3)
    assert lines.cubic(curve, torch.ones(20000)) == pytest.approx((1e-2, 1e-4, 1e-6), rel=1e-6)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([], r"at least one position.*\(1, 0\)"),
        ([0.5], "curve 0 has 1 of 1"),
        ([0.5, float("nan"), 0.0, -2.0], "curve 0 has 1 of 4"),
        (torch.zeros(9), "curve 0 has 0 of 9"),
        (torch.ones(2, 3), "takes one curve"),
        (torch.tensor(1.0), "takes one curve"),
    ],
)
def test_nothing_to_fit(curve, message):
    with pytest.raises(ValueError, match=message):
        Trend.fit(curve)


def test_two_positions_are_a_line():
    trend = Trend.fit([float("nan"), 1.0, 0.0, math.e])
    assert trend.rate == pytest.approx(0.5)
    assert trend.amplitude == pytest.approx(math.exp(-0.5))


def test_a_batch_is_its_curves_one_by_one():
    rates = [-0.001, 0.0005, 0.004]
    curves = torch.stack([noisy(rate, seed=n) for n, rate in enumerate(rates)])
    curves[1, 50:80] = float("nan")
    ignore = torch.zeros(3, LENGTH, dtype=torch.bool)
    ignore[2, :100] = True
    together = fit_all(curves, ignore=ignore)
    for n, trend in enumerate(together):
        alone = Trend.fit(curves[n], ignore=ignore[n])
        assert trend == alone
        assert (trend.amplitude, trend.r2) == pytest.approx((alone.amplitude, alone.r2), rel=1e-12)
        assert trend.rate == pytest.approx(rates[n], abs=2e-4)
    with pytest.raises(ValueError, match="curve 1 has 0 of 3"):
        fit_all(torch.tensor([[1.0, 2, 3], [0, 0, 0]]))


def test_content_permuted_leaves_the_trend():
    """The same pictures in other places: content averages out, position stays."""
    dice = torch.Generator().manual_seed(1)
    content = torch.rand(400, LENGTH, generator=dice, dtype=torch.float64) + 0.1
    position = (0.003 * POSITION).exp()
    shuffled = torch.stack([row[torch.randperm(LENGTH, generator=dice)] for row in content])
    rates = [Trend.fit((data * position).mean(0)).rate for data in (content, shuffled)]
    assert rates == pytest.approx([0.003, 0.003], abs=5e-5)


def test_fastv_cubic_comes_back_from_its_own_vector():
    planted = Trend.published("fastv")
    trend = Trend.fit(3.7 / planted.weight(None, 576).double(), "inverse_cubic")
    torch.testing.assert_close(trend.weight(None, 576), planted.weight(None, 576), rtol=1e-5, atol=1e-6)
    assert trend.amplitude == pytest.approx(3.7, rel=1e-5)
    assert trend.r2 == pytest.approx(1, abs=1e-8)
    # It is no exponential: the best one misses it by far.
    assert Trend.fit(1 / planted.weight(None, 576)).r2 < 0.95
    with pytest.raises(ValueError, match="at least 4 usable positions"):
        Trend.fit([1.0, 2.0, 3.0], "inverse_cubic")
    with pytest.raises(ValueError, match="not positive at position 0"):
        Trend.fit((0.05 * torch.arange(50)).exp() - 0.95, "inverse_cubic", ignore=torch.arange(50) < 20)


def test_the_offset_is_found_by_the_refinement():
    curve = 2e-3 * (0.006 * POSITION).exp() + 5e-3
    plain, refined = Trend.fit(curve), Trend.fit(curve, refine=True)
    assert refined.rate == pytest.approx(0.006, rel=1e-5)
    assert refined.amplitude == pytest.approx(2e-3, rel=1e-4)
    assert refined.floor == pytest.approx(2.5, rel=1e-4)
    flat = curve * refined.weight(None, LENGTH)
    assert float(flat.max() / flat.min()) == pytest.approx(1, abs=1e-4)
    assert float((curve * plain.weight(None, LENGTH)).max() / (curve * plain.weight(None, LENGTH)).min()) > 1.1
    assert refined.r2 > 1 - 1e-9 > plain.r2
    with pytest.raises(ValueError, match="only an exponential over the sequence"):
        Trend.fit(curve, "rope", refine=True)
    with pytest.raises(ValueError, match="4 usable positions"):
        Trend.fit([1.0, 2.0, 3.0], refine=True)


def test_a_refined_fit_is_exact_to_the_last_digits():
    """Residual and amplitude in float64: a clean curve leaves nothing."""
    curve = 2e-3 * ((0.006 * POSITION).exp() + 2.5)
    refined = Trend.fit(curve, refine=True)
    assert refined.amplitude == pytest.approx(2e-3, rel=1e-9)
    assert float(refined.residual.abs().max()) < 1e-9


@pytest.mark.parametrize(
    "curve",
    [3 - (0.001 * POSITION).exp(), 3 - (-0.004 * POSITION).exp(), 1 + 0.001 * POSITION, 2 - 0.001 * POSITION],
    ids=["falls ever faster", "rises ever slower", "straight up", "straight down"],
)
def test_a_curve_that_bends_away_is_not_refined(curve):
    """The nearest exponential is a piece of a huge one that looks straight: no trend to divide by."""
    assert Trend.fit(curve).r2 > 0.85
    with pytest.raises(ValueError, match="is straight or bends away from amplitude"):
        Trend.fit(curve, refine=True)


@pytest.mark.parametrize(("rate", "amplitude", "offset"), [(-0.006, 1.0, 2.5), (0.004, 1.0, -0.9), (0.04, 1e-9, 1.0)])
def test_curves_that_bend_the_right_way_are_refined(rate, amplitude, offset):
    found = Trend.fit(amplitude * (rate * POSITION).exp() + offset, refine=True)
    assert (found.rate, found.amplitude) == (pytest.approx(rate, rel=1e-6), pytest.approx(amplitude, rel=1e-4))
    assert found.floor == pytest.approx(offset / amplitude, rel=1e-4)


def test_a_refined_fit_of_a_rough_curve_ends_in_the_minimum():
    """The rate to seven digits, against another solver."""
    from scipy.optimize import curve_fit

    i, dice = torch.arange(16, dtype=torch.float64), torch.Generator().manual_seed(26)
    curve = (0.1 * i).exp() + 1 + 0.5 * torch.rand(16, generator=dice, dtype=torch.float64)

    def model(x, rate, amplitude, offset):
        return amplitude * np.exp(rate * x) + offset

    best, _ = curve_fit(model, i.numpy(), curve.numpy(), [0.1, 1, 1], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert Trend.fit(curve, refine=True).rate == pytest.approx(best[0], rel=1e-7)


def test_a_slight_bend_is_found_and_a_constant_curve_has_none():
    nearly = Trend.fit(1 + 1e-3 * POSITION + 1e-9 * POSITION**2, refine=True)
    assert nearly.rate == pytest.approx(2e-6, rel=1e-2)
    flat = Trend.fit(torch.full((LENGTH,), 0.1), refine=True)
    assert flat == replace(Trend.exponential(0.0), length=LENGTH)
    assert flat.amplitude == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["inverse_cubic", "average"])
def test_a_shape_over_frames_is_the_mean_of_what_each_position_showed(kind):
    shape = 1 / Trend.inverse_cubic(0.1, 0.02, 0.001).curve(24)
    ignore = torch.zeros(96, dtype=torch.bool)
    ignore[[3, 24, 30, 51, 54, 76, 95]] = True  # position 3 in frames 0, 1 and 3: elsewhere one frame is left out
    weights = torch.linspace(1, 2, 96)
    found = Trend.fit(shape.repeat(4), kind, ignore, scope="frame", frames=4, weights=weights)
    torch.testing.assert_close(found.weight(None, 24), Trend.fit(shape, kind).weight(None, 24))
    louder = torch.cat([shape, shape, 3 * shape, 3 * shape])
    twice = torch.cat([torch.ones(48), torch.full((48,), 2.0)])
    mean = Trend.fit((shape + shape + 6 * shape + 6 * shape) / 6, kind)
    both = Trend.fit(louder, kind, scope="frame", frames=4, weights=twice)
    torch.testing.assert_close(both.weight(None, 24), mean.weight(None, 24))


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("exponential", {}),
        ("rope", {"head_dim": 8}),
        ("inverse_cubic", {}),
        ("average", {}),
        ("average", {"scope": "frame", "frames": 4}),
        ("inverse_cubic", {"scope": "frame", "frames": 4}),
        ("exponential", {"scope": "factorised", "frames": 4}),
        ("exponential", {"refine": True}),
    ],
)
def test_many_curves_are_fitted_as_each_alone(kind, how):
    curves = torch.stack([noisy(rate, seed, noise=0.01, length=64) for seed, rate in enumerate((0.002, 0.004))])
    many = fit_all(curves, kind, **how)
    for trend, curve in zip(many, curves, strict=True):
        alone = Trend.fit(curve, kind, **how)
        torch.testing.assert_close(trend.weight(None, 64, 4), alone.weight(None, 64, 4))
        assert (trend.amplitude, trend.r2) == (pytest.approx(alone.amplitude), pytest.approx(alone.r2))
        torch.testing.assert_close(trend.residual, alone.residual)


def test_rope_strength_comes_back():
    planted = Trend.rope(strength=1.7, head_dim=64, theta=500.0, gap=11)
    trend = Trend.fit(0.2 / planted.weight(None, LENGTH), "rope", head_dim=64, theta=500.0, gap=11)
    assert trend.rate == pytest.approx(1.7, rel=1e-5)
    assert trend.coefficients == planted.coefficients


def test_the_average_is_divided_out_and_bridges_what_was_not_seen():
    curve = noisy(0.003, noise=0.2)
    ignore = torch.zeros(LENGTH, dtype=torch.bool)
    ignore[10:13] = True
    spoiled = curve.clone()
    spoiled[10:13] = 100.0
    trend = Trend.fit(spoiled, "average", ignore=ignore, eps=0.0)
    flat = (curve * trend.weight(None, LENGTH))[~ignore]
    assert float(flat.max() / flat.min()) == pytest.approx(1, abs=1e-5)
    middle = float((curve[9].log() + curve[13].log()).exp().sqrt())  # position 11 lies half way
    assert float(trend.weight(None, LENGTH)[11] / trend.weight(None, LENGTH)[9]) == pytest.approx(
        float(curve[9]) / middle, rel=1e-5
    )


def test_clips_fitted_per_frame_and_both_ways():
    frames, per = 8, 33
    i = torch.arange(frames * per, dtype=torch.float64)
    within, between = 0.02, 0.3
    curve = (within * (i % per) + between * (i // per)).exp()
    ignore = i % per == 0  # the CLS of each frame is an outlier
    spoiled = torch.where(ignore, curve * 40, curve)
    both = Trend.fit(spoiled, ignore=ignore, scope="factorised", frames=frames)
    assert (both.rate, both.between.rate) == (pytest.approx(within, abs=1e-10), pytest.approx(between, abs=1e-10))
    assert both.r2 == pytest.approx(1)
    flat = curve * both.weight(None, frames * per, frames)
    assert float(flat.max() / flat.min()) == pytest.approx(1, abs=1e-4)
    assert (both.length, both.between.length) == (per, frames)
    # Uneven holes make the two directions lean on each other; the closed form takes that apart.
    holes = ignore | ((i % per > 20) & (i // per > 4))
    leaning = Trend.fit(curve, ignore=holes, scope="factorised", frames=frames)
    assert (leaning.rate, leaning.between.rate) == (pytest.approx(within), pytest.approx(between))
    one = Trend.fit(curve, scope="frame", frames=frames)
    assert (one.rate, one.scope, one.length) == (pytest.approx(within), "frame", per)
    for kind in ("average", "inverse_cubic", "rope"):
        trend = Trend.fit(curve, kind, scope="frame", frames=frames)
        assert trend.weight(None, frames * per, frames).shape == (frames * per,)
        assert trend.length == per
    level = Trend.fit(curve, "average", scope="frame", frames=frames).weight(None, frames * per, frames) * curve
    torch.testing.assert_close(level.reshape(frames, per)[3], level[3 * per].expand(per), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="equal frames; got 264 positions in 7 frames"):
        Trend.fit(curve, scope="frame", frames=7)
    with pytest.raises(ValueError, match="fitted with exponentials"):
        Trend.fit(curve, "rope", scope="factorised", frames=frames)


def test_kinds_that_cannot_be_fitted():
    known = "exponential, rope, inverse_cubic, average"
    with pytest.raises(ValueError, match=f"cannot fit a trend of kind 'table'; kinds that can be fitted: {known}$"):
        Trend.fit(noisy(0.1), "table")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_online_and_offline_are_the_same_fit(dtype):
    """A trend fitted to each score as it comes equals Trend.fit of that score, padding and CLS left out."""
    special = torch.zeros(2 * 17, dtype=torch.bool)
    special[::17] = True
    span = Span(0, (4, 4), frames=2, size=(640, 320), special=special)
    debias = Debias(Trend.online(), Debias.paper("himap", arm="padding").padding)
    score = (noisy(0.05, length=34, amplitude=0.01, noise=0.3) * (1 + 9 * special)).to(dtype)
    valid = debias.padding.valid(span)
    offline = Trend.fit(score, ignore=~valid | special)
    expected = score.float() * offline.weight(None, 34)
    found = debias(score, span)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found[valid].float(), expected[valid], rtol=tolerance, atol=0)
    assert (found[~valid] < found[valid].min()).all()
    # The same after a cut: by original positions, the merged token taking no part in the fit.
    left = torch.tensor([26, 5, 7, -1, 20, 9, 12, 22])
    there = left[left >= 0]
    missing = torch.ones(34, dtype=torch.bool).index_fill(0, there, False)
    offline = Trend.fit(score, ignore=missing | ~valid | special)
    found = debias(score[left], span.at(left))
    use = torch.tensor([n for n, index in enumerate(left.tolist()) if index >= 0 and valid[index]])
    expected = score[left[use]].float() * offline.weight(left[use], 34)
    torch.testing.assert_close(found[use].float(), expected, rtol=tolerance, atol=0)
    assert found[3] == score[-1]  # a merged token keeps its score


def test_online_rows_are_fitted_each_on_its_own():
    scores = torch.stack([noisy(0.001, noise=0), noisy(0.004, noise=0)]).float()
    flat = Debias(Trend.online())(scores, Span(0, (24, 24)))
    torch.testing.assert_close(flat, torch.full_like(flat, 1e-3), rtol=1e-4, atol=0)
    hopeless = torch.zeros(576)
    assert torch.equal(Debias(Trend.online())(hopeless, Span(0, (24, 24))), hopeless)
