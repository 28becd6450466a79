"""The paired statistics, against scipy and against cases that can be counted by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.statistics import holm, interval, mcnemar, mean_value, replicates, sign_flip


def paired(a, b, place=None):
    """The mean of two arms; each question a group of its own, unless `place` says otherwise."""
    place = np.arange(len(a)) if place is None else place
    return mean_value(np.asarray(a, float), np.asarray(b, float), place), int(place.max()) + 1


def bounds(value, groups, draws=2000, seed=0):
    return interval(value, groups, replicates(value, groups, draws, seed))


def test_interval_agrees_with_scipys_bca():
    rng = np.random.default_rng(0)
    a = rng.random(200)
    b = a + rng.exponential(0.1, 200) - 0.05
    low, high = bounds(*paired(a, b), 20_000, 1)
    known = stats.bootstrap(
        (a, b), lambda x, y, axis: 100 * (y.mean(axis) - x.mean(axis)), paired=True, n_resamples=20_000, rng=2
    ).confidence_interval
    assert low == pytest.approx(known.low, abs=0.1)
    assert high == pytest.approx(known.high, abs=0.1)


def test_interval_is_wider_when_questions_share_an_image():
    per_image = (np.random.default_rng(3).random(50) < 0.5).astype(float)
    a, b = np.zeros(500), np.repeat(per_image, 10)  # ten questions of one image stand or fall together
    single = bounds(*paired(a, b))
    grouped = bounds(*paired(a, b, np.repeat(np.arange(50), 10)))
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_interval_covers_about_95_percent():
    rng, covered = np.random.default_rng(5), 0
    for trial in range(200):
        low, high = bounds(*paired(rng.random(60) < 0.5, rng.random(60) < 0.6), 1000, trial)
        covered += low <= 10 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_identical_arms_have_a_zero_interval_and_p_one():
    value, groups = paired([0, 1, 1, 0], [0, 1, 1, 0])
    assert bounds(value, groups) == (0, 0)
    assert sign_flip(value, np.zeros(4, bool), 100, 0) == 1
    assert mcnemar(0, 0) == 1


def test_one_group_has_no_interval():
    assert bounds(*paired([1.0], [0.0])) is None


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1


def test_sign_flip_enumerates_small_cases():
    value, _ = paired([0.0, 0.0, 0.0, 0.5], [0.3, 0.2, 0.4, 0.5])
    diffs = np.array([0.3, 0.2, 0.4])
    ways = [abs(np.dot(signs, diffs)) for signs in itertools.product([1, -1], repeat=3)]
    expected = np.mean([way >= diffs.sum() - 1e-12 for way in ways])
    assert sign_flip(value, np.array([True, True, True, False]), 1000, 0) == pytest.approx(expected)


def test_sign_flip_agrees_with_scipy():
    rng = np.random.default_rng(9)
    a = rng.random(40)
    b = a + rng.normal(0.03, 0.1, 40)
    ours = sign_flip(paired(a, b)[0], np.ones(40, bool), 20_000, 0)
    known = stats.permutation_test(
        (b - a,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    assert ours == pytest.approx(known, abs=0.02)


def test_a_metric_that_is_no_mean_is_resampled_through_its_own_arithmetic():
    a, b = (np.random.default_rng(seed).integers(0, 2, (80, 3)).astype(float) for seed in (1, 2))

    def f1(weights):
        t = weights @ np.concatenate([a, b])
        return 200 * t[..., 0] / np.maximum(2 * t[..., 0] + t[..., 1] + t[..., 2], 1)

    drawn = replicates(f1, 80, 500, 4)
    picks = np.random.default_rng(4).integers(80, size=(500, 80))  # the same draws, the slow way
    slow = []
    for pick in picks:
        values = [200 * t[0] / max(2 * t[0] + t[1] + t[2], 1) for t in (b[pick].sum(0), a[pick].sum(0))]
        slow.append(values[0] - values[1])
    assert np.allclose(drawn, slow)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_never_smaller(p):
    adjusted = holm(p)
    assert all(0 <= x <= y <= 1 for x, y in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)
