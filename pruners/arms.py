"""Which halves of a debias mean something to a method."""

from __future__ import annotations

from typing import Literal

from debias.names import ARMS

Reads = Literal["decoder", "vision", "nothing"]


def arms_of(reads: Reads) -> tuple[str, ...]:
    """The arms of a method whose score reads the attention of this part of the model.

    A trend is what a decoder's attention does with position: without that there is none to divide by. Padding is never
    worth a token.
    """
    return ARMS if reads == "decoder" else ("none", "padding")
