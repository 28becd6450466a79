"""Paired statistics over groups: questions about one image are not independent, so whole groups are drawn and swapped.

Two arms answered the same `groups` groups. A metric is a function `value` of how often each group counts, weights
[..., 2 * groups] -> values [...]: the first half weighs the groups as arm a answered them, the second as arm b did.
So a total such as MME's is resampled through its own arithmetic, and a mean costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import bdtr, ndtr, ndtri  # scipy.stats takes half a second to import

Array = np.ndarray[Any, np.dtype[np.float64]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Value = Callable[[Array], Array]
CHUNK = 4_000_000  # weights held at once


def mean_value(a: Array, b: Array, place: Array) -> Value:
    """The mean x 100 of per-question scores; place[i] is the group of question i."""
    sizes = np.bincount(place)
    sums = np.concatenate([np.bincount(place, scores) for scores in (a, b)])
    totals = np.stack([sums, np.concatenate([sizes, sizes])], axis=1)

    def value(weights: Array) -> Array:
        both = weights @ totals
        return np.asarray(100 * both[..., 0] / both[..., 1])

    return value


def difference(value: Value, weights: Array) -> Array:
    """value(b) - value(a), when each group counts `weights` [..., groups] times."""
    none = np.zeros_like(weights)
    a, b = np.concatenate([weights, none], -1), np.concatenate([none, weights], -1)
    return value(b) - value(a)


def replicates(value: Value, groups: int, draws: int, seed: int) -> Array:
    """`draws` bootstrap replicates of value(b) - value(a)."""
    rng, out = np.random.default_rng(seed), []
    for rows in chunks(draws, groups):
        picked = rng.integers(groups, size=(len(rows), groups)) + (rows - rows[0])[:, None] * groups
        times = np.bincount(picked.ravel(), minlength=picked.size).reshape(picked.shape)
        out.append(difference(value, times.astype(float)))
    return np.concatenate(out)


def chunks(count: int, groups: int) -> Iterator[Rows]:
    """The numbers below `count`, so many at once that a row of `groups` weights for each fits into memory."""
    step = max(1, CHUNK // groups)
    for first in range(0, count, step):
        yield np.arange(first, min(first + step, count))


def interval(value: Value, groups: int, drawn: Array, level: float = 0.95) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval of value(b) - value(a); None when there is only one group."""
    drawn = drawn[np.isfinite(drawn)]
    if groups < 2 or not len(drawn):
        return None
    delta = difference(value, np.ones(groups))
    below = ((drawn < delta).mean() + (drawn <= delta).mean()) / 2  # ties count half: the scores are discrete
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if 0 < below < 1:
        gap = left_out(value, groups)
        gap = gap[np.isfinite(gap)].mean() - gap[np.isfinite(gap)]
        spread = (gap**2).sum()
        acceleration = (gap**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
        z = ndtri(below)
        tails = ndtr(z + (z + ndtri(tails)) / (1 - acceleration * (z + ndtri(tails))))
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def left_out(value: Value, groups: int) -> Array:
    """value(b) - value(a) without group 0, without group 1, ..."""
    out = []
    for rows in chunks(groups, groups):
        weights = np.ones((len(rows), groups))
        weights[np.arange(len(rows)), rows] = 0
        out.append(difference(value, weights))
    return np.concatenate(out)


def mcnemar(up: int, down: int) -> float:
    """Exact McNemar: are the flips one way as likely as the other?"""
    return min(1.0, 2 * float(bdtr(min(up, down), up + down, 0.5)))


def flips(value: Value, changed: Array, draws: int, seed: int) -> tuple[Array, bool]:
    """value(b) - value(a) with the arms of each group swapped at random, and whether these are all ways there are.

    changed[g] says whether the arms differ in group g at all; swapping the others changes nothing.
    """
    moving, groups = np.flatnonzero(changed), len(changed)
    exact = 2 ** len(moving) <= draws
    rng, count = np.random.default_rng(seed), 2 ** len(moving) if exact else draws
    out = []
    for rows in chunks(count, groups):
        swap = np.zeros((len(rows), groups))
        shape = len(rows), len(moving)
        swap[:, moving] = (rows[:, None] >> np.arange(shape[1])) & 1 if exact else rng.integers(2, size=shape)
        out.append(value(np.concatenate([swap, 1 - swap], 1)) - value(np.concatenate([1 - swap, swap], 1)))
    return np.concatenate(out), exact


def as_far(gaps: Array, observed: float, exact: bool) -> float:
    """The share of `gaps` that are as far from 0 as what was observed, which counts as one of them unless it is."""
    hits = int((abs(gaps) >= abs(observed) - 1e-9).sum())
    return hits / len(gaps) if exact else (hits + 1) / (len(gaps) + 1)


def sign_flip(value: Value, changed: Array, draws: int, seed: int) -> float:
    """Permutation p-value: the arms of each group are swapped at random (in all ways, when few groups differ)."""
    gaps, exact = flips(value, changed, draws, seed)
    return as_far(gaps, float(difference(value, np.ones(len(changed)))), exact)


def detectable(spread: float, level: float, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at `level` finds in a share `power` of such studies, when the
    difference has the standard error `spread`."""
    return float(spread * (ndtri(1 - level / 2) + ndtri(power)))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for looking at all of them (Holm's step-down)."""
    adjusted, largest = list(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
