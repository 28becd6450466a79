"""Attention debiasing for visual-token pruning: divide the score by its positional trend, silence the padding."""

from __future__ import annotations

from debias import names, padding, trends
from debias.context import Context, kept, merge_weights, rescore, using
from debias.core import Debias
from debias.fit import fit_all
from debias.measure import Measure
from debias.padding import Padding
from debias.span import Span
from debias.trend import Trend

__all__ = [
    "Context",
    "Debias",
    "Measure",
    "Padding",
    "Span",
    "Trend",
    "fit_all",
    "kept",
    "merge_weights",
    "names",
    "padding",
    "rescore",
    "trends",
    "using",
]
