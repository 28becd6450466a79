"""Attention debiasing for visual-token pruning: divide the score by its positional trend, silence the padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from debias.late import loader

__all__ = [
    "Context",
    "Debias",
    "Measure",
    "Padding",
    "Reading",
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

if TYPE_CHECKING:
    from debias import names, padding, trends
    from debias.context import Context, kept, merge_weights, rescore, using
    from debias.core import Debias
    from debias.fitting.measure import Measure
    from debias.padding import Padding
    from debias.reading import Reading
    from debias.span import Span
    from debias.trend import Trend, fit_all
else:  # torch is loaded with the first of these names, not with the package
    __getattr__, __dir__ = loader(
        __name__,
        {
            "context": ("Context", "kept", "merge_weights", "rescore", "using"),
            "core": ("Debias",),
            "fitting.measure": ("Measure",),
            "names": (),
            "padding": ("Padding",),
            "reading": ("Reading",),
            "span": ("Span",),
            "trend": ("Trend", "fit_all"),
            "trends": (),
        },
    )
