"""What is said about a word or a number that cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence

from debias.names import one_of


def check_share(name: str, value: float) -> None:
    """A ValueError unless the value is a share."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: give a share between 0 and 1")


def check_word(what: str, word: str, known: Sequence[str]) -> None:
    """A ValueError that names the nearest known word, unless this word is known."""
    one_of(what, word, known)


def check_score(method: object, shape: Sequence[int], tokens: int) -> None:
    """A ValueError unless a method's score holds one number for each visual token."""
    if tuple(shape) != (tokens,):
        raise ValueError(
            f"{type(method).__name__}.score returned shape {tuple(shape)}; "
            f"expected ({tokens},), one number per visual token"
        )
