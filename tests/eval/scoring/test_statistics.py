"""The paired statistics, against scipy and against cases that can be counted by hand."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.scoring import statistics
from eval.scoring.statistics import difference, holm, interval, left_out, mcnemar, mean_value, replicates, sign_flip


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


def by_hand(value, groups, drawn, level):
    """Efron's BCa, from its textbook formulas, one group at a time."""
    normal = NormalDist()
    delta = float(difference(value, np.ones(groups)))
    below = sum(1.0 if one < delta else 0.5 if one == delta else 0.0 for one in drawn) / len(drawn)
    if not 0 < below < 1:
        return [float(np.quantile(drawn, tail)) for tail in (0.5 - level / 2, 0.5 + level / 2)]
    without = [float(difference(value, np.delete(np.eye(groups), g, 0).sum(0))) for g in range(groups)]
    middle = sum(without) / groups
    square = sum((middle - one) ** 2 for one in without)
    speed = sum((middle - one) ** 3 for one in without) / (6 * square**1.5) if square else 0.0
    z = normal.inv_cdf(below)
    ends = []
    for tail in (0.5 - level / 2, 0.5 + level / 2):
        reach = z + normal.inv_cdf(tail)
        ends.append(float(np.quantile(drawn, normal.cdf(z + reach / (1 - speed * reach)))))
    return ends


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("groups", [2, 3, 12])
def test_interval_is_the_textbooks(groups, level):
    rng = np.random.default_rng(groups)
    a, b = rng.random(3 * groups), rng.random(3 * groups) ** 4  # skewed, so that the acceleration counts
    place = np.repeat(np.arange(groups), 3)
    place[-1] = 0  # groups of different sizes
    value, _ = paired(a, b, place)
    drawn = replicates(value, groups, 300, 7)
    assert interval(value, groups, drawn, level) == pytest.approx(by_hand(value, groups, drawn, level), rel=1e-9)
    spoiled = np.concatenate([drawn, [np.nan, np.inf]])
    assert interval(value, groups, spoiled, level) == interval(value, groups, drawn, level)
    assert interval(value, groups, drawn) == interval(value, groups, drawn, 0.95)


@pytest.mark.parametrize("drawn", [[101.0, 102.0, 105.0], [95.0, 97.0, 99.5], [99.5, 100.0, 100.0, 100.5], [90, 100]])
def test_interval_where_every_group_says_the_same(drawn):
    value, groups = paired([0, 0, 0], [1, 1, 1])  # the difference is 100, whoever is left out
    drawn = np.array(drawn, float)
    assert interval(value, groups, drawn) == pytest.approx(by_hand(value, groups, drawn, 0.95), rel=1e-9)
    assert interval(value, groups, drawn + np.nan) is None


def test_large_metrics_are_worked_through_in_chunks(monkeypatch):
    rng = np.random.default_rng(2)
    value, groups = paired(rng.random(10), rng.random(10))
    changed = np.arange(10) > 3
    whole = left_out(value, groups), sign_flip(value, changed, 100, 0), len(replicates(value, groups, 25, 1))
    for chunk in (1, 10, 25, 70):
        monkeypatch.setattr(statistics, "CHUNK", chunk)
        parts = left_out(value, groups), sign_flip(value, changed, 100, 0), len(replicates(value, groups, 25, 1))
        np.testing.assert_allclose(parts[0], whole[0])
        assert parts[1:] == whole[1:] == (whole[1], 25)
        assert np.isfinite(replicates(value, groups, 25, 1)).all()


@pytest.mark.parametrize(("chunk", "most"), [(1, 1), (70, 7), (75, 7)])
def test_no_more_weights_are_held_than_a_chunk(monkeypatch, chunk, most):
    value, groups = paired(np.arange(10.0), np.zeros(10))
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    for work in (
        lambda value: left_out(value, groups),
        lambda value: replicates(value, groups, 20, 1),
        lambda value: sign_flip(value, np.arange(10) > 4, 20, 0),
    ):
        held = []

        def watched(weights, held=held):
            held.append(weights[..., 0].size)
            return value(weights)

        work(watched)
        assert max(held) == most


def test_leaving_out_is_taking_the_group_away():
    a, b = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.1, 0.9, 0.4])
    value, _ = paired(a, b, np.array([0, 1, 1, 2]))
    expected = [100 * (b[keep].mean() - a[keep].mean()) for keep in ([1, 2, 3], [0, 3], [0, 1, 2])]
    assert left_out(value, 3) == pytest.approx(expected)


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
    assert mcnemar(5, 0) == mcnemar(0, 5)
    assert mcnemar(3, 3) == 1
    assert mcnemar(1, 2) == mcnemar(2, 1) == 1
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    for up, down in itertools.product(range(12), repeat=2):
        whole = stats.binomtest(up, up + down, 0.5).pvalue if up or down else 1.0
        assert mcnemar(up, down) == pytest.approx(whole, rel=1e-12)


def test_sign_flip_enumerates_small_cases():
    value, _ = paired([0.0, 0.0, 0.0, 0.5], [0.3, 0.2, 0.4, 0.5])
    diffs = np.array([0.3, 0.2, 0.4])
    ways = [abs(np.dot(signs, diffs)) for signs in itertools.product([1, -1], repeat=3)]
    expected = np.mean([way >= diffs.sum() - 1e-12 for way in ways])
    assert sign_flip(value, np.array([True, True, True, False]), 1000, 0) == pytest.approx(expected)


def test_sign_flip_counts_all_ways_as_long_as_they_are_no_more_than_the_draws():
    value, _ = paired([0.0] * 3, [0.3, 0.2, 0.4])
    assert [sign_flip(value, np.ones(3, bool), draws, 0) for draws in (8, 9)] == [0.25, 0.25]
    assert sign_flip(value, np.ones(3, bool), 7, 0) * 8 == pytest.approx(
        round(sign_flip(value, np.ones(3, bool), 7, 0) * 8)
    )


def test_sign_flip_never_says_zero():
    value, groups = paired([0.0] * 60, [1.0] * 60)
    assert sign_flip(value, np.ones(groups, bool), 99, 0) == 1 / 100


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
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.0, 0.25]) == [0, 0.25]
    assert holm([]) == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_never_smaller(p):
    adjusted = holm(p)
    assert all(0 <= x <= y <= 1 for x, y in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)
