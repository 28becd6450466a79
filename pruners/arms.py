"""Which halves of a debias mean something to a method."""

from __future__ import annotations

from typing import Literal

from debias.names import ARMS

# What makes a method's score: attention of the decoder, or of the vision tower; how the tokens lie among each other; or
# nothing that the picture shows.
Reads = Literal["decoder", "vision", "vision and decoder", "tokens", "nothing"]


def arms_of(reads: Reads) -> tuple[str, ...]:
    """The arms of a method whose score is made of this.

    A trend is what a decoder's attention does with position: without that there is none to divide by. Padding is never
    worth a token.
    """
    return ARMS if "decoder" in reads else ("none", "padding")
