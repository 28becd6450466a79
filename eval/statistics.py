"""Paired statistics over groups: questions about one image are not independent, so whole groups are drawn and swapped.

A metric is given as one vector of sums per group and a function from the summed vector to the value (a mean is
`(sum of scores, number of questions)` and their ratio; F1 is counts of hits and misses). Resampling then costs one
matrix product, and MME's or POPE's total is resampled through its own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

Array = np.ndarray[Any, np.dtype[np.float64]]
Value = Callable[[Array], Array]  # [..., k] summed statistics -> [...] values


def ratio(totals: Array) -> Array:
    """The mean, in percent, of statistics (sum, count)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * totals[..., 0] / totals[..., 1]


def replicates(a: Array, b: Array, value: Value, draws: int, seed: int) -> Array:
    """`draws` bootstrap replicates of value(b) - value(a); rows of a and b are the same groups."""
    rng, groups = np.random.default_rng(seed), len(a)
    both, out = np.concatenate([a, b], axis=1), []
    step = max(1, 4_000_000 // groups)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        picked = rng.integers(groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        times = np.bincount(picked.ravel(), minlength=count * groups).reshape(count, groups)
        totals = times @ both
        out.append(value(totals[:, a.shape[1] :]) - value(totals[:, : a.shape[1]]))
    return np.concatenate(out)


def interval(a: Array, b: Array, value: Value, drawn: Array, level: float = 0.95) -> tuple[float, float] | None:
    """The bias-corrected and accelerated interval of value(b) - value(a); None when there is but one group."""
    if len(a) < 2:
        return None
    total_a, total_b = a.sum(0), b.sum(0)
    delta = value(total_b) - value(total_a)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    if np.ptp(drawn) == 0:
        return float(drawn[0]), float(drawn[0])
    below = ((drawn < delta).mean() + (drawn <= delta).mean()) / 2  # ties count half: the scores are discrete
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if 0 < below < 1:
        left_out = value(total_b - b) - value(total_a - a)
        gap = left_out[np.isfinite(left_out)].mean() - left_out[np.isfinite(left_out)]
        spread = (gap**2).sum()
        acceleration = (gap**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
        z = norm.ppf(below)
        tails = norm.cdf(z + (z + norm.ppf(tails)) / (1 - acceleration * (z + norm.ppf(tails))))
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def mcnemar(up: int, down: int) -> float:
    """Exact McNemar: are the flips one way as likely as the other?"""
    return float(binomtest(min(up, down), up + down, 0.5).pvalue) if up + down else 1.0


def sign_flip(a: Array, b: Array, value: Value, draws: int, seed: int) -> float:
    """Permutation p-value: the arms of each group are swapped at random (all ways, when there are few groups)."""
    changed = np.any(a != b, axis=1)
    rest_a, rest_b = a[~changed].sum(0), b[~changed].sum(0)
    a, b = a[changed], b[changed]
    groups = len(a)
    if not groups:
        return 1.0
    exact = 2**groups <= draws
    if exact:
        swaps = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
    total_a, total_b, rng = a.sum(0) + rest_a, b.sum(0) + rest_b, np.random.default_rng(seed)
    observed = abs(value(total_b) - value(total_a))
    hits, step = 0, max(1, 4_000_000 // groups)
    count = len(swaps) if exact else draws
    for first in range(0, count, step):
        size = min(step, count - first)
        moved = (swaps[first : first + size] if exact else rng.integers(2, size=(size, groups))) @ (b - a)
        gaps = abs(value(total_b - moved) - value(total_a + moved))
        hits += int((gaps >= observed - 1e-9).sum())
    return hits / count if exact else (hits + 1) / (count + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for looking at all of them (Holm's step-down)."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
