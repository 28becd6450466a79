"""No trend where there is none: planted trends are kept, noise is not divided by, the interval means what it says."""

import pytest
import torch

from debias import Debias, Span, Trend
from debias import trends as files
from debias.fitting.settle import LEAST_R2, resampled, settle

LENGTH = 64


def planted(rate, pictures, seed, noise=1.0):
    """Curves of pictures that attend to some places more than to others, times a trend."""
    generator = torch.Generator().manual_seed(seed)
    content = (noise * torch.randn(pictures, LENGTH, generator=generator, dtype=torch.float64)).exp()
    return content * (rate * torch.arange(LENGTH, dtype=torch.float64)).exp()


def test_a_planted_trend_is_kept_as_it_was_fitted():
    for rate in (0.02, -0.02):
        found = settle(planted(rate, 200, 0))
        assert found.agreed
        assert found.trend == Trend.fit(resampled(planted(rate, 200, 0), draws=0)[0])
        assert found.trend.rate == pytest.approx(rate, rel=0.2)
        value, low, high = found.rise
        assert low < value < high
        assert low * high > 0


def test_the_interval_is_that_of_the_slopes_of_the_resamples():
    found = settle(planted(0.02, 50, 0), draws=1)
    assert found.rates.shape == (2,)
    assert float(found.rates[0]) == found.fitted.rate != float(found.rates[1])  # in full precision
    whole, resample = (found.rates * (LENGTH - 1)).tolist()
    assert found.rise == pytest.approx((whole, resample, resample))


def test_curves_without_a_slope_have_no_trend():
    found = settle(torch.ones(10, LENGTH), draws=50)
    assert found.rise == (0.0, 0.0, 0.0)
    assert not found.agreed


def test_noise_is_not_divided_by():
    """In 100 worlds without a trend the fits have some slope in all, and one in twenty, give or take, is kept."""
    found = [settle(planted(0.0, 32, seed), draws=300, seed=seed) for seed in range(100)]
    assert sum(one.agreed for one in found) <= 11  # of 100 at 5 %: more would be no accident (p < 0.01)
    assert all(one.fitted.rate != 0 for one in found)
    weights = [one.trend.weight(None, LENGTH) for one in found if not one.agreed]
    assert all(torch.equal(weight, torch.ones(LENGTH)) for weight in weights)


def test_the_rule_errs_less_than_the_fit_where_there_is_nothing_and_little_where_there_is():
    def risk(rate):
        found = [settle(planted(rate, 32, seed), draws=200, seed=seed) for seed in range(60)]
        fits = torch.tensor([[one.fitted.rate, one.trend.rate] for one in found], dtype=torch.float64)
        return ((fits - rate) ** 2).mean(0).tolist()

    plain, settled = risk(0.0)
    assert settled < plain / 3
    plain, settled = risk(0.03)
    assert settled == pytest.approx(plain, rel=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rate = 0.01
    inside = 0
    for seed in range(200):
        _, low, high = settle(planted(rate, 40, seed), draws=300, seed=seed).rise
        inside += low <= rate * (LENGTH - 1) <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_a_trend_that_explains_next_to_nothing_is_none_however_sure_its_sign_is():
    """A bump that all pictures share, and a slope as sure as small."""
    bump = 2 * torch.sin(torch.arange(LENGTH, dtype=torch.float64) / 3)
    found = settle(planted(0.003, 4000, 0, noise=0.1) * bump.exp())
    assert found.rise[1] * found.rise[2] > 0
    assert found.fitted.r2 < LEAST_R2
    assert not found.agreed
    assert found.trend.r2 == found.fitted.r2


def test_questions_about_one_picture_are_drawn_together():
    few = planted(0.01, 20, 0)
    often = few.repeat(10, 1)
    names = [number % 20 for number in range(200)]
    assert settle(often, groups=names).rise == pytest.approx(settle(few).rise)
    narrow = settle(often).rise
    assert narrow[2] - narrow[1] < 0.5 * (settle(few).rise[2] - settle(few).rise[1])
    with pytest.raises(ValueError, match="expected a group for each of the 20 curves, found 3"):
        settle(few, groups=[1, 2, 3])


def test_resamples_leave_out_what_is_not_there():
    curves = torch.tensor([[1.0, float("nan"), 3.0], [3.0, float("nan"), 5.0]])
    found = resampled(curves, draws=50)
    assert found.shape == (51, 3)
    assert found[0, [0, 2]].tolist() == [2.0, 4.0]
    assert found[:, 1].isnan().all()
    assert set(found[1:, 0].tolist()) == {1.0, 2.0, 3.0}


@pytest.mark.parametrize("how", [{"scope": "frame", "frames": 4}, {"scope": "factorised", "frames": 4}])
def test_clips(how):
    noise = planted(0.0, 64, 3)
    assert not settle(noise, **how).agreed
    assert torch.equal(settle(noise, **how).trend.weight(None, LENGTH, 4), torch.ones(LENGTH))
    within = torch.arange(LENGTH) % 16
    assert settle(noise * (0.1 * within.double()).exp(), **how).agreed


def test_no_trend_survives_a_file_and_changes_no_score():
    trend = settle(planted(0.0, 32, 1)).trend
    again = files.make(files.describe(trend), "x")
    assert (again, again.r2) == (trend, trend.r2)
    score = torch.rand(3, LENGTH)
    assert torch.equal(Debias(trend=again)(score, Span(0, (8, 8))), score)
