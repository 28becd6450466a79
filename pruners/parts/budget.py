"""How many tokens of an image stay: a count, or a share."""

from __future__ import annotations

Budget = int | float
REFERENCE_TOKENS = 576  # visual tokens of LLaVA-1.5, which published budgets are counted in


def check_budget(keep: Budget) -> None:
    """A ValueError unless this is a budget."""
    number = isinstance(keep, (int, float)) and not isinstance(keep, bool)
    if not number or keep < 0 or (isinstance(keep, float) and keep > 1):
        raise ValueError(f"keep={keep!r}: give a count (an int >= 0) or a share of an image's tokens (a float <= 1.0)")


def check_share(name: str, value: float) -> None:
    """A ValueError unless the value is a share; `name` is the field that holds it."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: give a share between 0 and 1")


def is_whole(keep: Budget) -> bool:
    """Whether a budget is the share of everything; the count 1 is not."""
    return isinstance(keep, float) and keep == 1.0


def tokens_kept(keep: Budget, tokens: int) -> int:
    """How many of an image's `tokens` a budget allows; shares are truncated, with room for float error."""
    return min(tokens, keep if isinstance(keep, int) else int(tokens * keep + 1e-6))
