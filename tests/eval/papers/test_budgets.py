"""Differences at budgets are those that `compare` finds, and means over methods keep their pictures together."""

from __future__ import annotations

import numpy as np
import pytest

from eval.bias.strength import interval
from eval.papers import budgets
from eval.papers.ways import alone
from eval.scoring import compare
from eval.scoring.contrast import SLOW_DRAWS
from eval.scoring.results import results


def test_a_gap_is_the_average_difference_of_compare(answered):
    scored = results(answered)
    average = compare.within(scored, "none", SLOW_DRAWS)[-1]
    assert average.benchmark == "average"
    found = interval(budgets.gap(alone(scored, "none"), alone(scored, "both")))
    assert found == pytest.approx((average.delta, average.low, average.high))
    assert found[0] > 10


def test_debiasing_is_tested_as_compare_tests_it(answered):
    scored = results(answered)
    average = compare.within(scored, "none", SLOW_DRAWS)[-1]
    found = budgets.debiasing(scored, SLOW_DRAWS)
    assert (found.delta, found.p) == (average.delta, average.p)
    assert (found.a, found.b) == ("none", "both")


def test_rivals_are_compared_like_with_like(answered):
    """Untouched against untouched; debiased against a rival that avoids the padding."""
    scored = results(answered)
    rival = [
        type(one)(one.benchmark, one.samples, {"none": one.arms["none"], "padding": one.arms["both"]}) for one in scored
    ]
    found = budgets.versus(scored, {"random": rival, "grid": None})
    assert set(found) == {"debias", "none-random", "debiased-random"}
    assert not found["none-random"].any()
    assert not found["debiased-random"].any()
    assert budgets.debiased(scored) == "both"
    assert budgets.debiased(rival) == "padding"


def test_means_over_methods_draw_the_same_pictures_for_all():
    one = np.random.default_rng(0).normal(3, 1, 1 + SLOW_DRAWS)
    same = {"debias": {64: {"fastv": one, "himap": one, "random": 100 + one}}}
    row = dict(zip(budgets.overall(same).head, budgets.overall(same).rows[0], strict=True))
    assert (row["budget"], row["methods"]) == (64, 2)  # random is no method to average
    assert row["debiased - none"] == budgets.signed(interval(one))
    assert row["none - random"] is None
    opposite = budgets.overall({"debias": {64: {"fastv": one, "himap": -one}}})
    assert opposite.rows[0][2] == "+0.0 [0.0, 0.0]"
    made = budgets.by_method(same, of=576)
    assert set(made) == {"debias"}
    assert made["debias"].axes[0].get_legend_handles_labels()[1] == ["64 of 576"]
