"""Trends that are not multiplied, or that are made from something else first; numbers that no trend can have."""

import math

import pytest
import torch

from debias import Debias, Padding, Span, Trend, fit_all, trends
from debias.fitting.settle import none

SPAN = Span(0, (2, 2))
SCORE = torch.tensor([0.4, 0.1, 0.3, 0.2])
TAKEN = [0.1, 0.2, -0.1, 0.0]


def test_an_offset_is_taken_off_and_nothing_weighs_less_than_nothing():
    debias = Debias(Trend.offset(TAKEN))
    torch.testing.assert_close(debias(SCORE, SPAN), torch.tensor([0.3, -0.1, 0.4, 0.2]))
    torch.testing.assert_close(debias(SCORE, SPAN, role="weigh"), torch.tensor([0.3, 0.0, 0.4, 0.2]))
    torch.testing.assert_close(
        debias(SCORE, SPAN.at(torch.tensor([2, -1, 0, 3]))), SCORE - torch.tensor([-0.1, 0, 0.1, 0])
    )
    assert (debias(-SCORE, SPAN) < 0).all()
    factor = Debias(Trend.table([1.0, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(factor(-SCORE, SPAN, role="weigh"), -SCORE * torch.tensor([1.0, 0.5, 1.0, 1.0]))


def test_an_offset_serves_spans_of_its_length():
    trend = Trend.offset(torch.tensor([TAKEN[:2], TAKEN[2:]]))
    assert (trend.kind, trend.values, trend.length) == ("offset", Trend.offset(TAKEN).values, 4)
    with pytest.raises(ValueError, match="fitted for 4 positions and is asked for 9"):
        Debias(trend)(torch.rand(9), Span(0, (3, 3)))
    with pytest.raises(ValueError, match="an offset needs at least one number; got none"):
        Trend.offset([])


def test_a_blank_trend_becomes_a_table_or_an_offset_once_its_picture_is_measured():
    divided, subtracted = Trend.blank(), Trend.blank("noise", subtract=True)
    assert (divided.picture, subtracted.picture, Trend.blank("black").picture) == ("mean", "noise", "black")
    assert divided.measured_as(SCORE) == Trend.average(SCORE)
    assert subtracted.measured_as(SCORE) == Trend.offset(SCORE)
    assert repr(divided) == "Trend.blank('mean', subtract=False)"
    assert repr(subtracted) == "Trend.blank('noise', subtract=True)"
    with pytest.raises(ValueError, match="unknown picture without content 'white'; known: black, mean, noise"):
        Trend.blank("white")


@pytest.mark.parametrize(
    ("trend", "why"),
    [(Trend.online(), "it is fitted to each score"), (Trend.blank(), "it is measured, by pruners.blank.Blanks")],
)
def test_what_has_no_weights_of_its_own_says_where_they_come_from(trend, why):
    with pytest.raises(ValueError, match=f"^this {trend.kind} trend has no weights of its own; {why}$"):
        trend.weight(None, 4)


@pytest.mark.parametrize("kind", ["online", "offset", "blank"])
def test_what_is_fitted_to_a_score_runs_over_the_sequence(kind):
    with pytest.raises(ValueError, match=f"a trend of kind {kind} runs over the sequence; got scope 'frame'"):
        Trend(kind, scope="frame")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_beside_others_that_are(number):
    for made in (
        lambda: Trend.exponential(number),
        lambda: Trend.exponential(0.1, floor=number),
        lambda: Trend.inverse_cubic(0.1, number, 0.1),
        lambda: Trend("table", values=(1.0, number)),
    ):
        with pytest.raises(ValueError, match="a trend needs finite numbers"):
            made()


def test_no_trend_has_weights_of_one_whatever_its_floor():
    ones = torch.ones(8)
    assert torch.equal(none(Trend.exponential(0.3, floor=0.5)).weight(None, 8), ones)
    clip = Trend.factorised(Trend.exponential(0.3), Trend.exponential(-0.2, floor=0.5))
    assert none(clip).between == Trend.exponential(0.0)
    assert torch.equal(none(clip).weight(None, 8, 2), ones)


def test_the_mean_of_trends_has_the_mean_of_their_rates():
    made = trends.mean([Trend.exponential(0.1), Trend.exponential(0.3)], "fastv")
    assert (made.rate, made.source) == (0.2, "mean of the 2 rates of fastv")


def test_nothing_is_done_where_a_debias_does_not_act():
    assert Debias().terms(SCORE, SPAN) == (None, False, None, None)


def test_a_mask_is_of_what_is_known_of_the_picture():
    debias = Debias(padding=Padding(0.5))
    assert debias.mask(SPAN) is None
    assert Debias().mask(Span(0, (2, 2), size=(8, 4))) is None
    assert debias.mask(Span(0, (4, 2), size=(2, 1))).tolist() == [True] * 4 + [False] * 4
    assert debias.mask(Span(0, (2, 2), fraction=torch.tensor([0.0, 1.0, 0.5, 0.6]))).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_each_row_of_a_score_is_silenced_below_its_own_lowest_number():
    debias, span = Debias(padding=Padding()), Span(0, (4, 2), size=(2, 1))
    rows = torch.stack([torch.rand(8) + 100, -torch.rand(8)])
    assert torch.equal(debias(rows, span), torch.stack([debias(row, span) for row in rows]))
    assert debias(rows, span)[0].min() > -1


@pytest.mark.parametrize("shape", [(4,), (2, 0), (0,), (2, 3, 4)])
def test_curves_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"^a curve needs at least one position; got curves of shape \("):
        fit_all(torch.ones(shape))
