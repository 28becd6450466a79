"""The positional part of an attention score: what attention does with position, whatever the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Type, TypeVar, Union

import torch
from torch import Tensor

from debias import records
from debias.fitting import fit
from debias.shape import Shape

T = TypeVar("T", bound="Trend")


@dataclass(frozen=True, eq=False, repr=False)  # both as a shape's
class Trend(Shape):
    """A shape, and the ways to get it: by its numbers, as the authors released it, or fitted to attention."""

    @classmethod
    def published(cls: Type[T], method: str, benchmark: Optional[str] = None) -> T:
        """A trend of the authors' release. Without a benchmark: the mean of the method's published rates."""
        return records.find(cls, method, benchmark)

    @classmethod
    def fit(
        cls: Type[T],
        curve: Union[Tensor, Sequence[float]],
        kind: str = "exponential",
        ignore: Optional[Tensor] = None,
        **how: Any,
    ) -> T:
        """The trend of a mean attention curve [N], by least squares on its logarithm; `fit_all` takes many.

        kind     exponential, rope (fits its strength; options as for Trend.rope), inverse_cubic, average
        ignore   [N] True at positions that must not shape it: padding, sinks, CLS tokens. NaN, infinite, zero and
                 negative values are left out too; fewer than two positions left are nothing to fit: ValueError
        weights  [N] how much each position counts, for example mean^2 / variance
        scope    "frame" fits what all `frames` have in common, "factorised" one exponential within and one over frames
        refine   exponential over the sequence only: go on to amplitude * exp(rate * i) + offset, by scipy

        The trend has a rate, amplitude, r2 and residual: log(curve / fitted), NaN where a position took no part.
        """
        values = torch.as_tensor(curve)
        if values.dim() != 1:
            raise ValueError(f"Trend.fit takes one curve [N], fit_all takes many; got shape {tuple(values.shape)}")
        return fit.fit_shapes(cls, values[None], kind, ignore, **how)[0]


def fit_all(
    curves: Union[Tensor, Sequence[Sequence[float]]],
    kind: str = "exponential",
    ignore: Optional[Tensor] = None,
    **how: Any,
) -> List[Trend]:
    """One trend for each of the curves [B, N], all in one go; what the arguments mean stands at Trend.fit."""
    return fit.fit_shapes(Trend, curves, kind, ignore, **how)
