"""Estimators recover what was planted, and only that."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from debias import Span
from eval.bias import diagnose
from eval.bias import strength as bias
from pruners.cut import top


def planted(rate: float, samples: int = 40, tokens: int = 144, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = np.exp(rate * np.arange(tokens) + noise * rng.standard_normal((samples, tokens)))
    return scores / scores.sum(1, keepdims=True)


def strength(scores, ignore=None):
    """Rise and R^2 of the mean curve, without their intervals."""
    (rise, *_), (r2, *_) = diagnose.rise(scores, None if ignore is None else torch.as_tensor(ignore), 0, draws=2)
    return rise, r2


@pytest.mark.parametrize("rate", [0.0, 0.004, -0.003])
def test_strength_recovers_a_planted_rate(rate):
    rise, r2 = strength(planted(rate, samples=400, noise=0.3))
    assert rise / 143 == pytest.approx(rate, abs=3e-4)
    assert (r2 > 0.9) == (rate != 0)


def test_strength_can_leave_out_padding():
    scores = planted(0.004, samples=400, noise=0.1)
    spiked = scores.copy()
    spiked[:, :24] *= 50
    ignore = np.zeros(144, bool)
    ignore[:24] = True
    assert strength(spiked, ignore)[0] == pytest.approx(strength(scores, ignore)[0], rel=1e-9)
    assert strength(spiked)[0] < 0


def test_spearman_is_scipys_and_keeps_its_sign():
    scores = planted(0.01, samples=5)
    scores[2] = np.round(scores[2], 3)  # ties
    place = np.arange(144) // 12
    expected = [spearmanr(row, place).statistic for row in scores]
    np.testing.assert_allclose(bias.spearman(scores, place), expected, atol=1e-12)
    np.testing.assert_allclose(bias.spearman(scores, -place), -np.array(expected), atol=1e-12)
    assert np.isnan(bias.spearman(np.ones((1, 144)), place)).all()


def test_silenced_tokens_take_no_part():
    scores = planted(0.005, samples=50)
    silenced = scores.copy()
    silenced[:, :30] = np.nan
    silenced[:25, 100:] = np.nan
    assert strength(silenced)[0] / 143 == pytest.approx(0.005, abs=1.5e-3)
    expected = spearmanr(scores[0, 30:100], np.arange(30, 100)).statistic
    assert bias.spearman(silenced, np.arange(144))[0] == pytest.approx(expected)
    assert bias.entropy(silenced)[0] < math.log(70)


def test_noise_floor_is_what_chance_gives():
    rng = np.random.default_rng(1)
    chance = np.abs(bias.spearman(rng.random((4000, 256)), np.arange(256))).mean()
    assert bias.noise_floor(256) == pytest.approx(chance, rel=0.04)
    assert bias.noise_floor(256) == pytest.approx(0.05, abs=0.001)


def test_the_absolute_correlation_is_blind_to_what_the_signed_one_sees():
    """A bias that turns round from picture to picture looks the same to |rho|; the signed mean tells them apart."""
    shared = planted(0.004, samples=200)
    turned = np.concatenate([shared[:100], shared[100:, ::-1]])
    absolute = [bias.absolute_correlation(scores, (12, 12)) for scores in (shared, turned)]
    signed = [bias.spearman(scores, np.arange(144)).mean() for scores in (shared, turned)]
    assert absolute[0] == pytest.approx(absolute[1], rel=0.1)
    assert abs(signed[1]) < 0.05 < signed[0]


def test_absolute_correlation_by_hand():
    """One row only has columns: |rho| with column is 1 and with the corner 1; rows are constant and left out."""
    assert bias.absolute_correlation(np.arange(1.0, 9.0)[None], (1, 8)) == pytest.approx(1)
    with pytest.raises(ValueError, match="8 tokens are not whole views of 3 x 3"):
        bias.absolute_correlation(np.ones((1, 8)), (3, 3))


def test_row_profile_averages_views():
    scores = np.array([[1.0, 1, 3, 3, 1, 1, 3, 3]])  # two views of 2 x 2
    np.testing.assert_allclose(bias.row_profile(scores, (2, 2)), [0.5, 1.5])


def test_entropy():
    np.testing.assert_allclose(bias.entropy(np.array([[1.0, 1, 1, 1], [5, 0, 0, 0]])), [math.log(4), 0], atol=1e-12)


def test_prompt_stability():
    one = np.array([[[1.0, 0], [1, 0], [0, 1]]])
    assert bias.prompt_stability(one) == pytest.approx(1 / 3)
    assert np.isnan(bias.prompt_stability(one[:, :1])).all()


def test_kept_shares_count_thirds_inside_the_picture():
    pad = np.zeros(36, bool)
    pad[:6] = pad[30:] = True  # first and last of six rows; the picture is rows 1..4
    kept = [np.array([0, 7, 25, 29])]  # one in the padding, one in row 1, two in row 4
    shares = bias.kept_shares(kept, *bias.places(Span(0, (6, 6))), [pad])
    assert shares["padding"][0] == pytest.approx(1 / 4)
    assert shares["lowest_third"][0] == pytest.approx(2 / 3)
    even = bias.kept_shares([np.arange(36)], *bias.places(Span(0, (6, 6))), [None])
    assert even["lowest_third"][0] == pytest.approx(1 / 3)
    assert "last_frames" not in even


def test_places_skip_tokens_that_are_no_patch():
    special = torch.zeros(3 * 7, dtype=torch.bool)
    special[::7] = True  # a CLS before the six patches of each frame
    row, view = bias.places(Span(0, (2, 3), frames=3, special=special))
    assert row.tolist() == 3 * [-1, 0, 0, 0, 1, 1, 1]
    assert view.tolist() == [-1, *[0] * 6, -1, *[1] * 6, -1, *[2] * 6]
    last = bias.kept_shares([np.arange(14, 21)], row, view, [None])  # the third frame, its CLS among it
    assert last["last_frames"][0] == 1
    assert last["lowest_third"][0] == pytest.approx(1 / 2)


def test_token_box_iou():
    cells = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [10, 10, 20, 20]])
    assert bias.token_box_iou(cells, np.array([0, 1]), (0, 0, 20, 10), (20, 20)) == 1
    assert bias.token_box_iou(cells, np.array([0]), (5, 0, 15, 10), (20, 20)) == pytest.approx(50 / 150)
    assert bias.token_box_iou(cells, np.array([3]), (0, 0, 10, 10), (20, 20)) == 0


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    found = [bias.mean(rng.normal(1, 1, 60), seed) for seed in range(40)]
    assert 33 <= sum(low <= 1 <= high for _, low, high in found) <= 40
    assert all(low < value < high for value, low, high in found)


def test_questions_about_one_picture_are_drawn_together():
    rng = np.random.default_rng(1)
    pictures = rng.normal(size=30)
    apart, whole = (bias.mean(np.repeat(pictures, 9), groups=names) for names in (None, np.repeat(np.arange(30), 9)))
    assert apart[0] == pytest.approx(pictures.mean())
    assert whole[0] == pytest.approx(pictures.mean())
    assert (whole[2] - whole[1]) / (apart[2] - apart[1]) == pytest.approx(3, rel=0.2)  # nine times fewer to draw from


def test_numbers_that_are_none_take_no_part():
    assert bias.mean(np.array([1.0, math.nan, 3.0]))[0] == 2
    assert all(map(math.isnan, bias.mean(np.array([math.nan]))))


def test_shuffled_numbers_show_no_bias():
    scores = planted(0.006)
    marked = np.zeros(144, bool)
    marked[::12] = True
    mixed = bias.shuffled(scores, marked)
    np.testing.assert_array_equal(mixed[:, marked], scores[:, marked])
    np.testing.assert_array_equal(np.sort(mixed, 1), np.sort(scores, 1))
    place = np.arange(144)[~marked]
    assert bias.spearman(scores[:, ~marked], place).mean() > 0.3
    assert abs(bias.spearman(mixed[:, ~marked], place).mean()) < 0.05


@pytest.mark.parametrize("sigma", [-1.5, 0.0, 2.56])
def test_tilt_recovers_how_often_planted_positions_are_kept(sigma):
    rng = np.random.default_rng(3)
    place = np.linspace(0, 1, 144)
    kept = rng.random((400, 144)) < 0.12 * np.exp(sigma * (place - max(0, np.sign(sigma))))
    value, low, high = bias.kept_rise(kept, np.ones(kept.shape, bool))
    assert low < value < high
    assert value == pytest.approx(sigma, abs=0.15)


def test_tilt_is_the_maximum_of_the_likelihood():
    """Against a search over a grid, where some positions were there more often than others and some never kept."""
    rng = np.random.default_rng(4)
    counts, chances = rng.poisson(0.7, 30), rng.integers(1, 9, 30)
    place = np.linspace(0, 1, 30)
    grid = np.linspace(-3, 3, 6001)
    shape = (
        np.log(chances * np.exp(grid[:, None] * place))
        - np.log((chances * np.exp(grid[:, None] * place)).sum(1))[:, None]
    )
    assert (counts == 0).any()
    assert bias.tilt(counts, chances) == pytest.approx(grid[(shape * counts).sum(1).argmax()], abs=1e-3)


def test_tilt_leaves_out_what_was_not_there():
    kept, there = np.zeros((6, 10), bool), np.ones((6, 10), bool)
    kept[:, 4:6] = True
    assert bias.kept_rise(kept, there)[0] == pytest.approx(0, abs=1e-6)
    there[:, :4] = False  # padding before: what is kept is now what comes first
    assert bias.kept_rise(kept, there)[0] < -2
    assert bias.kept_rise(kept & False, there)[0] != bias.kept_rise(kept & False, there)[0]  # nothing kept: nan
    kept[:] = False
    kept[:, -1] = True
    assert bias.kept_rise(kept, there) == (bias.STEEPEST,) * 3


def test_kept_highest_is_top():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 5, (20, 30)).astype(float)  # with ties
    expected = np.zeros((20, 30), bool)
    for row, one in zip(expected, scores, strict=True):
        row[top(torch.as_tensor(one), 7).numpy()] = True
    np.testing.assert_array_equal(bias.kept_highest(scores, 7), expected)
    scores[:, :25] = np.nan
    assert bias.kept_highest(scores, 7)[:, 25:].all()
