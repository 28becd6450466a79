"""How strongly attention follows position: numbers of one layer's text-to-vision attention, each with its uncertainty.

`scores` is [samples, tokens]: one row a picture and prompt, the attention that the last prompt token gives to each
visual token (mean over heads); nan stands for a token that was silenced and takes no part. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from debias import Span

Array = np.ndarray[Any, np.dtype[Any]]
Measured = tuple[float, float, float]  # value, and its 95 % interval
DRAWS = 1000
STEEPEST = 200.0  # of a tilt: everything at one end has no finite tilt


def spearman(scores: Array, place: Array) -> Array:
    """[samples] rank correlation of every row with a place per token, signed; nan where either is constant."""
    if np.isnan(scores).any():
        return np.concatenate(
            [spearman(row[None, there], place[there]) for row in scores for there in [~np.isnan(row)]]
        )
    ranks = rankdata(scores, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = ranks - ranks.mean(1, keepdims=True)
        b = rankdata(place) - (len(place) + 1) / 2
        return np.asarray((a @ b) / np.sqrt((a * a).sum(1) * (b * b).sum()))


def noise_floor(tokens: int) -> float:
    """What |rank correlation| comes to on average when there is no relation at all: sqrt(2 / (pi (n - 1)))."""
    return math.sqrt(2 / (math.pi * (tokens - 1)))


def absolute_correlation(scores: Array, grid: tuple[int, int]) -> float:
    """The deep-layer paper's number: mean |rank correlation| with row, column and distance to the lower right corner.

    Per picture and per view (tile or frame) of rows x columns tokens. It never falls to zero and cannot tell a shared
    bias from chance: see `noise_floor` and the signed numbers.
    """
    rows, columns = grid
    if scores.shape[1] % (rows * columns):
        raise ValueError(f"{scores.shape[1]} tokens are not whole views of {rows} x {columns}")
    views = scores.reshape(-1, rows * columns)
    row, column = np.divmod(np.arange(rows * columns), columns)
    corner = np.hypot(rows - 1 - row, columns - 1 - column)
    values = np.concatenate([np.abs(spearman(views, place)) for place in (row, column, corner) if np.ptp(place)])
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def mean_seen(scores: Array, axis: int | tuple[int, ...] = 0) -> Array:
    """The mean of the values that are not NaN; NaN where there are none."""
    counts, total = (~np.isnan(scores)).sum(axis), np.nansum(scores, axis)
    return np.asarray(np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0, casting="unsafe"))


def row_profile(scores: Array, grid: tuple[int, int]) -> Array:
    """[rows] mean attention of each row of the grid over samples, columns and views, relative to the overall mean.

    nan for a row that no sample shows.
    """
    rows, columns = grid
    if scores.shape[1] % (rows * columns):
        raise ValueError(f"{scores.shape[1]} tokens are not whole views of {rows} x {columns}")
    mean = mean_seen(scores.reshape(-1, rows, columns), (0, 2))
    return np.asarray(mean / np.nanmean(mean))


def shuffled(scores: Array, ignore: Array | None = None, seed: int = 0) -> Array:
    """The same numbers at other places, others in every picture: what they measure is what chance alone gives."""
    there = np.ones(scores.shape[1], bool) if ignore is None else ~ignore
    mixed: Array = scores.copy()
    mixed[:, there] = np.random.default_rng(seed).permuted(scores[:, there], axis=1)
    return mixed


def entropy(scores: Array) -> Array:
    """[samples] in nats, of each row made to sum to 1; divide by log(tokens) to compare layouts."""
    share = np.nan_to_num(scores / np.nansum(scores, 1, keepdims=True))
    return np.asarray(-np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0).sum(1))


def prompt_stability(by_prompt: Array) -> Array:
    """[pictures] mean cosine between two wordings of one request; by_prompt [pictures, prompts, tokens]."""
    unit = by_prompt / np.linalg.norm(by_prompt, axis=2, keepdims=True)
    product = np.einsum("ipt,iqt->ipq", unit, unit)
    first, second = np.triu_indices(by_prompt.shape[1], 1)
    if not len(first):
        return np.full(len(by_prompt), math.nan)
    return np.asarray(product[:, first, second].mean(1))


def places(span: Span) -> tuple[Array, Array]:
    """(row in its view, view) of every token of an unpruned span; -1 for tokens that are not a patch."""
    rows, columns = span.grid
    patch = np.ones(span.total, bool) if span.special is None else ~span.special.numpy()
    number = np.cumsum(patch) - 1
    row, view = number // columns % rows, number // (rows * columns)
    return np.where(patch, row, -1), np.where(patch, view, -1)


def kept_shares(kept: Sequence[Array], row: Array, view: Array, padding: Sequence[Array | None]) -> dict[str, Array]:
    """Per picture: the share of the kept tokens that show padding, that lie in the lowest third of the picture, and,
    of a clip, in the last third of its frames.

    The picture is the rows that hold at least one patch that is not padding; kept padding counts towards no third.
    """
    shares: dict[str, list[float]] = {"padding": [], "lowest_third": [], "last_frames": []}
    for indices, pad in zip(kept, padding, strict=True):
        empty = np.zeros(len(row), bool) if pad is None else pad
        chosen = np.asarray(indices)[np.asarray(indices) >= 0]
        shares["padding"].append(float(empty[chosen].mean()) if len(chosen) else 0.0)
        shown, there = chosen[~empty[chosen] & (row[chosen] >= 0)], ~empty & (row >= 0)
        for name, place in (("lowest_third", row), ("last_frames", view)):
            known = place[there]
            edge = known.min() + 2 / 3 * (known.max() + 1 - known.min()) if len(known) else 0
            shares[name].append(float((place[shown] + 0.5 >= edge).mean()) if len(shown) else 0.0)
    if view.max() == 0:
        del shares["last_frames"]
    return {name: np.array(values) for name, values in shares.items()}


def tilt(counts: Array, chances: Array) -> Array:
    """[...] sigma of the exponential, over x = position in [0, 1], that says how often each position is kept.

    counts [..., tokens]: how often each was kept; chances: how often it was there to be kept. The most likely sigma of
    a Poisson count with mean chances * mu * exp(sigma x), where positions that were never kept count as well: the one
    whose exponential has the mean position of what was kept. nan where nothing was.
    """
    place = np.linspace(0, 1, counts.shape[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = (counts @ place) / counts.sum(-1)
    sigma = np.where(np.isfinite(wanted), 0.0, np.nan)
    for _ in range(100):  # Newton's steps, none so long that it leaves the valley
        weight = chances * np.exp(sigma[..., None] * (place - (sigma > 0)[..., None]))
        weight = weight / weight.sum(-1, keepdims=True)
        middle = weight @ place
        spread = (weight @ place**2) - middle**2
        step = np.clip((wanted - middle) / np.maximum(spread, 1e-12), -3, 3)
        sigma = np.clip(sigma + step, -STEEPEST, STEEPEST)
        if not np.nanmax(np.abs(step), initial=0) > 1e-9:
            break
    return np.asarray(sigma)


def kept_rise(kept: Array, there: Array, seed: int = 0, draws: int = DRAWS) -> Measured:
    """Bias of a selection by position: the tilt of how often each is kept, over pictures.

    kept, there: [samples, tokens] whether a token was kept, and whether it takes part.
    """
    weight = resamples(len(kept), seed, draws)
    if not (kept & there).any():
        return (math.nan,) * 3
    return interval(tilt(weight @ (kept & there), weight @ there))


def kept_highest(scores: Array, keep: int) -> Array:
    """[samples, tokens] whether a token is among the `keep` highest of its row; ties go to the earlier token, and nan
    goes last."""
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), axis=1, kind="stable")
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order[:, :keep], True, axis=1)
    return chosen


def token_box_iou(cells: Array, kept: Array, box: tuple[float, float, float, float], canvas: tuple[int, int]) -> float:
    """IoU, in pixels of the canvas, of what the kept tokens show with a box. cells [tokens, 4]: x1 y1 x2 y2."""
    width, height = canvas
    area = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in np.round(np.asarray(cells)[np.asarray(kept)]).astype(int):
        area[max(0, y1) : y2, max(0, x1) : x2] = True
    target = np.zeros_like(area)
    x1, y1, x2, y2 = (round(value) for value in box)
    target[max(0, y1) : y2, max(0, x1) : x2] = True
    union = (area | target).sum()
    return float((area & target).sum() / union) if union else 0.0


def resamples(samples: int, seed: int = 0, draws: int = DRAWS) -> Array:
    """[1 + draws, samples] how often each picture counts: first every one once, then drawn with repetition."""
    picks = np.random.default_rng(seed).integers(samples, size=(draws, samples))
    drawn = [np.bincount(pick, minlength=samples) for pick in picks]
    return np.stack([np.ones(samples), *drawn])


def interval(statistics: Array) -> Measured:
    """A statistic of every resample: its value, and the 95 % percentile interval."""
    low, high = np.nanpercentile(statistics[1:], [2.5, 97.5])
    return float(statistics[0]), float(low), float(high)


def mean(values: Array, seed: int = 0, groups: Sequence[Any] | None = None) -> Measured:
    """Of the finite numbers. `groups`: what is drawn whole, such as the picture of each question."""
    _, place = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    there = np.isfinite(values)
    sums, counts = np.bincount(place, np.where(there, values, 0)), np.bincount(place, there)
    if not counts.any():
        return (math.nan,) * 3
    weight = resamples(len(sums), seed)
    with np.errstate(invalid="ignore"):
        return interval((weight @ sums) / (weight @ counts))
