"""The paired statistics, against scipy and against cases that can be counted by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.statistics import holm, interval, mcnemar, ratio, replicates, sign_flip


def sums(scores):
    return np.stack([np.asarray(scores, float), np.ones(len(scores))], axis=1)


def test_interval_agrees_with_scipys_bca():
    rng = np.random.default_rng(0)
    a = rng.random(200)
    b = a + rng.exponential(0.1, 200) - 0.05
    drawn = replicates(sums(a), sums(b), ratio, 20_000, seed=1)
    low, high = interval(sums(a), sums(b), ratio, drawn)
    known = stats.bootstrap(
        (a, b), lambda x, y, axis: 100 * (y.mean(axis) - x.mean(axis)), paired=True, n_resamples=20_000, rng=2
    ).confidence_interval
    assert low == pytest.approx(known.low, abs=0.1)
    assert high == pytest.approx(known.high, abs=0.1)


def test_interval_is_wider_when_questions_share_an_image():
    rng = np.random.default_rng(3)
    per_image = (rng.random(50) < 0.5).astype(float)
    a, b = np.zeros(500), np.repeat(per_image, 10)  # ten questions of one image stand or fall together
    single = interval(sums(a), sums(b), ratio, replicates(sums(a), sums(b), ratio, 4000, 0))
    a, b = (np.stack([x.reshape(50, 10).sum(1), np.full(50, 10.0)], 1) for x in (a, b))
    grouped = interval(a, b, ratio, replicates(a, b, ratio, 4000, 0))
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_interval_covers_about_95_percent():
    rng, covered = np.random.default_rng(5), 0
    for trial in range(200):
        a = sums(rng.random(60) < 0.5)
        b = sums(rng.random(60) < 0.6)
        low, high = interval(a, b, ratio, replicates(a, b, ratio, 1000, trial))
        covered += low <= 10 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_identical_arms_have_a_zero_interval_and_p_one():
    a = sums([0, 1, 1, 0])
    assert interval(a, a, ratio, replicates(a, a, ratio, 100, 0)) == (0, 0)
    assert sign_flip(a, a, ratio, 100, 0) == 1
    assert mcnemar(0, 0) == 1


def test_one_group_has_no_interval():
    a = sums([1.0])
    assert interval(a, a, ratio, replicates(a, a, ratio, 10, 0)) is None


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1


def test_sign_flip_enumerates_small_cases():
    a, b = sums([0.0, 0.0, 0.0, 0.5]), sums([0.3, 0.2, 0.4, 0.5])
    diffs = np.array([0.3, 0.2, 0.4])
    ways = [abs(np.dot(signs, diffs)) for signs in itertools.product([1, -1], repeat=3)]
    expected = np.mean([way >= diffs.sum() - 1e-12 for way in ways])
    assert sign_flip(a, b, ratio, 1000, 0) == pytest.approx(expected)


def test_sign_flip_agrees_with_scipy():
    rng = np.random.default_rng(9)
    a = rng.random(40)
    b = a + rng.normal(0.03, 0.1, 40)
    ours = sign_flip(sums(a), sums(b), ratio, 20_000, 0)
    known = stats.permutation_test(
        (b - a,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=20_000, rng=0
    ).pvalue
    assert ours == pytest.approx(known, abs=0.02)


def test_a_metric_that_is_no_mean_is_resampled_through_its_own_arithmetic():
    def f1(t):
        return 200 * t[..., 0] / np.maximum(2 * t[..., 0] + t[..., 1] + t[..., 2], 1)

    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2, (80, 3)).astype(float) for _ in range(2))
    drawn = replicates(a, b, f1, 500, 4)
    picks = np.random.default_rng(4).integers(80, size=(500, 80))  # the same draws, the slow way
    slow = np.array([f1(b[pick].sum(0)) - f1(a[pick].sum(0)) for pick in picks])
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
