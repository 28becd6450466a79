"""Budgets of methods that cut more than once: published settings, carried over to any depth, budget and token count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pruners.parts.budget import REFERENCE_TOKENS, Budget


def at_depth(layer: int, layers: int, reference: int = 32) -> int:
    """The layer of a decoder of `layers` that lies as deep as `layer` in one of `reference`; never layer 0."""
    return max(1, (2 * layer * layers + reference) // (2 * reference))


def depths(published: Sequence[int], layers: int, reference: int = 32) -> tuple[int, ...]:
    """`at_depth` of each layer, kept apart; those past the end of a shallow decoder fall away."""
    placed: list[int] = []
    for layer in published:
        placed.append(max(at_depth(layer, layers, reference), placed[-1] + 1 if placed else 1))
    return tuple(layer for layer in placed if layer < layers)


def check_keeps(keeps: Sequence[int] | None, cuts: int) -> None:
    """A ValueError unless there is a count for every cut, none above the count before."""
    if keeps is not None and (len(keeps) != cuts or min(keeps) < 0 or list(keeps) != sorted(keeps, reverse=True)):
        raise ValueError(f"keeps={keeps}: give {cuts} counts, one for each cut, none larger than the count before")


def budgets(keep: Budget, tokens: int, published: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Tokens after each cut for a budget of `keep` (a count, or a share) of `tokens`.

    `published` gives the counts after each cut for named budgets of 576 tokens. Shares in between are interpolated,
    from nothing at a budget of nothing to everything at a budget of everything; a named budget is met exactly.
    """
    stages = len(next(iter(published.values())))
    path = {0: (0,) * stages, **published, REFERENCE_TOKENS: (REFERENCE_TOKENS,) * stages}
    at = min(keep * REFERENCE_TOKENS if isinstance(keep, float) else keep * REFERENCE_TOKENS / tokens, REFERENCE_TOKENS)
    high = min(name for name in path if name >= at)
    low = max(name for name in path if name <= at)
    part = (at - low) / (high - low) if high > low else 0.0
    shares = [(a + part * (b - a)) / REFERENCE_TOKENS for a, b in zip(path[low], path[high], strict=True)]
    return tuple(max(1, int(share * tokens + 0.5)) for share in shares)
