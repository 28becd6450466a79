"""Attention debiasing for visual-token pruning: divide the score by its positional trend, silence the padding."""

from __future__ import annotations

from debias import names
from debias.context import Context, kept, rescore, using
from debias.core import Debias
from debias.padding import Padding
from debias.span import Span
from debias.trend import Trend

__all__ = ["Context", "Debias", "Padding", "Span", "Trend", "kept", "names", "rescore", "using"]
