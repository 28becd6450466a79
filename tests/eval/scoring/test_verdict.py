"""What is called a difference, and what is said about it: one rule, in the words, the marks and the tables."""

from dataclasses import replace

import numpy as np
import pytest

from eval import benchmarks
from eval.reading.sample import Sample, Score
from eval.scoring import compare, statistics, verdict
from eval.scoring.contrast import LEVEL, Contrast, contrasts
from eval.scoring.results import Result


def result(label, items, groups=None, name="gqa"):
    """An arm whose answers are right or wrong as `items` says; groups[i]: the picture of question i."""
    keys = [str(number) for number in range(len(items))]
    groups = keys if groups is None else [f"picture {group}" for group in groups]
    value = 100 * float(np.mean(items))
    by_key, pictures = dict(zip(keys, items, strict=True)), dict(zip(keys, groups, strict=True))
    score = Score(name, value, "accuracy", {}, by_key, pictures, len(items), missing=0, unparsed=0)
    return Result(label, score, [], 0, None)


def pair(a, b, groups=None, name="gqa"):
    asked = [Sample(str(number), "") for number in range(len(a))]
    return benchmarks.get("gqa"), asked, result("none", a, groups, name), result("both", b, groups, name)


def planted(up, n=100, name="gqa"):
    return pair([0.0] * n, [1.0] * up + [0.0] * (n - up), name=name)


def test_a_difference_is_what_the_corrected_test_says_not_the_interval():
    """Six questions of a hundred won and none lost: the interval leaves out 0, and p is 0.03."""
    alone = contrasts([planted(6)], 2000)
    assert alone[0].low > 0
    assert alone[0].p == pytest.approx(2 / 64)
    assert alone[0].differs
    among = contrasts([planted(6), planted(0, name="a"), planted(0, name="b")], 2000)
    assert among[0].low > 0
    assert among[0].p_holm == pytest.approx(6 / 64)
    assert not among[0].differs
    assert verdict.summary(among, "both").rows[0][-2] == ""
    assert "the interval leaves out 0 and the test does not: gqa" in verdict.notes(among, ["both"])[-1]
    row = dict(zip(compare.HEAD, compare.contrast_table(among, 2000).rows[0], strict=True))
    assert row["differs"] == ""
    assert 0 not in compare.contrast_table(among, 2000).strong


def test_questions_about_one_picture_are_no_independent_evidence():
    """Five pictures, each asked twice, both answers won: 2 / 2^5, not the 2 / 2^10 of ten independent questions."""
    groups = [number // 2 for number in range(40)]
    (found,) = contrasts([pair([0.0] * 40, [1.0] * 10 + [0.0] * 30, groups)], 2000)
    assert found.p == 2 / 2**5
    (single,) = contrasts([planted(10, 40)], 2000)
    assert single.p == 2 / 2**10


def test_benchmarks_are_drawn_on_their_own_for_the_average():
    """Two benchmarks alike: their average is known better than either, by the root of two."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, 300)).astype(float)
    one, _, average = contrasts([pair(a, b, name="x"), pair(a, b, name="y")], 2000)
    narrower = (one.high - one.low) / (average.high - average.low)
    assert narrower == pytest.approx(2**0.5, rel=0.1)


def test_the_average_has_a_test_of_its_own():
    same = contrasts([pair([1.0, 0.0] * 20, [1.0, 0.0] * 20, name=name) for name in "xy"], 500)[-1]
    assert (same.p, same.differs, same.least) == (1, False, None)
    weak = contrasts([planted(4, name=name) for name in "wxyz"], 2000)
    assert not any(one.differs for one in weak[:-1])  # p 0.125 each
    assert weak[-1].differs  # sixteen won and none lost
    assert weak[-1].p < 0.002


def test_what_can_be_seen_is_seen_four_times_in_five():
    rng = np.random.default_rng(0)
    spread = 2.5
    true = statistics.detectable(spread, LEVEL)
    measured = rng.normal(true, spread, 40_000)
    assert (abs(measured) > 1.959964 * spread).mean() == pytest.approx(0.8, abs=0.01)
    assert statistics.detectable(spread, LEVEL / 16) > true
    found = contrasts([planted(50, 400)], 2000)[0]
    assert found.least == pytest.approx(2.8016 * 100 * (0.125 * 0.875 / 400) ** 0.5, rel=0.05)


WHOLE = Contrast("average", "none", "both", 40, 46, 6.3, 4.4, 8.4, 0.0005, "sign flips", 30, 9, 1422, 800, 0, 0, 0, 0,
                 None, None, 3.0, 0.0005, True)  # fmt: skip


def test_a_gain_is_said_with_its_interval_and_what_carries_it():
    alone = replace(WHOLE, benchmark="pope", n=94)
    padding = replace(WHOLE, b="padding", delta=7.1, low=5.2, high=9.2)
    trend = replace(WHOLE, b="trend", delta=-0.6, low=-1.3, high=0.2, differs=False)
    found = [alone, replace(alone, benchmark="gqa", differs=False), WHOLE, padding, trend]
    assert verdict.verdict(found, "both") == (
        "both beats none by 6.3 [4.4, 8.4] points over 2 benchmarks (1,422 questions); the padding step carries it "
        "(padding alone +7.1 [5.2, 9.2], trend alone −0.6 [−1.3, 0.2]). 1 of 2 differs by itself: pope better."
    )
    found[-1] = replace(trend, delta=2.0, differs=True)
    assert "each step helps alone" in verdict.verdict(found, "both")
    found[-2:] = [replace(one, differs=False) for one in found[-2:]]
    assert "neither step can be told from nothing alone" in verdict.verdict(found, "both")


def test_a_loss_is_said_as_one():
    found = [replace(WHOLE, benchmark="pope", delta=-6.3, low=-8.4, high=-4.4)]
    assert verdict.verdict(found, "both").startswith("both loses to none by 6.3 [4.4, 8.4] points on pope")


def test_no_difference_is_said_with_what_could_have_been_seen():
    found = [replace(WHOLE, delta=0.3, low=-0.9, high=1.5, p_holm=0.4, differs=False, least=1.7)]
    assert verdict.verdict(found, "both") == (
        "both and none cannot be told apart on average (1,422 questions): +0.3 [−0.9, 1.5] points, p = 0.40; with so "
        "many questions a true difference of 1.7 is noticed four times in five (80 % power)."
    )
    same = [replace(found[0], up=0, down=0, delta=0, least=None)]
    assert "score the same on every question" in verdict.verdict(same, "both")


def test_the_arm_that_is_spoken_of():
    assert verdict.main_arm(["trend", "padding", "both", "unpruned"]) == "both"
    assert verdict.main_arm(["unpruned", "padding"]) == "padding"
    assert verdict.main_arm(["unpruned"]) == "unpruned"
    assert verdict.main_arm([]) is None
