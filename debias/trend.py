"""The positional part of an attention score: what attention does with position, whatever the picture."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from debias import fit as fitting

KINDS = ("exponential", "inverse_cubic", "table", "rope", "online")
SCOPES = ("sequence", "frame", "factorised")


@dataclass(frozen=True)
class Trend:
    """A trend gives every original raster index a weight; score * weight is the score divided by the trend.

    exponential    (1 + floor) / (exp(rate * i) + floor); with floor 0 this is exp(-rate * i)
    inverse_cubic  1 / (1 + c1 i + c2 i^2 + c3 i^3)
    table          one weight per position
    rope           what the rotary embedding alone does to a query without content
    online         an exponential fitted to each score as it comes

    length   the span length it was fitted for; other lengths are refused. None: any length
    scope    "sequence": i counts through the whole clip; "frame": i starts again in every frame;
             "factorised": as "frame", times the trend `between`, whose i is the number of the frame
    """

    kind: str
    rate: float = 0.0
    coefficients: Tuple[float, ...] = ()
    values: Tuple[float, ...] = field(default=(), repr=False)
    floor: float = 0.0
    length: Optional[int] = None
    scope: str = "sequence"
    between: Optional[Trend] = None
    source: str = field(default="", compare=False)
    amplitude: Optional[float] = field(default=None, compare=False, repr=False)
    r2: Optional[float] = field(default=None, compare=False, repr=False)
    residual: Optional[Tensor] = field(default=None, compare=False, repr=False)
    digest: str = field(default="", init=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of trend {self.kind!r}; known: {', '.join(KINDS)}")
        if self.scope not in SCOPES or (self.scope == "factorised") != (self.between is not None):
            raise ValueError(
                f"scope is one of {', '.join(SCOPES)}, the last with a trend `between`; got {self.scope!r}"
            )
        numbers = (self.rate, self.floor, *self.coefficients, *self.values)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a trend needs finite numbers; this {self.kind} trend holds NaN or infinity")
        if self.kind == "table":
            object.__setattr__(self, "digest", hashlib.sha256(repr(self.values).encode()).hexdigest()[:12])
        state = (self.kind, *numbers, self.length, self.scope, self.between)
        object.__setattr__(self, "_hash", hash(state))

    def __hash__(self) -> int:  # computed once: it is asked for at every call, and a table is long
        return self._hash  # type: ignore[attr-defined, no-any-return]

    # -- the kinds -----------------------------------------------------------------------------------------------------

    @classmethod
    def exponential(cls, rate: float, floor: float = 0.0) -> Trend:
        """exp(-rate * i) for any length: attention that grows like exp(rate * i), or like exp(rate * i) + floor."""
        return cls("exponential", rate=float(rate), floor=float(floor))

    @classmethod
    def inverse_cubic(cls, c1: float, c2: float, c3: float) -> Trend:
        """1 / (1 + c1 i + c2 i^2 + c3 i^3), for any length over which the cubic stays positive."""
        return cls("inverse_cubic", coefficients=(float(c1), float(c2), float(c3)))

    @classmethod
    def table(cls, values: Union[Tensor, Sequence[float]]) -> Trend:
        """One weight for each position; serves spans of exactly that many tokens."""
        numbers = tuple(torch.as_tensor(values).double().flatten().tolist())
        if not numbers or min(numbers) < 0:
            raise ValueError(f"a table needs at least one weight and none below zero; got {len(numbers)} weights")
        return cls("table", values=numbers, length=len(numbers))

    @classmethod
    def average(cls, curve: Union[Tensor, Sequence[float]], eps: float = 1e-7) -> Trend:
        """Divide by a mean attention curve itself: weights in proportion to 1 / (curve + eps), the largest being 1."""
        mean = torch.as_tensor(curve).double().flatten() + eps
        bad = (~(torch.isfinite(mean) & (mean > 0))).nonzero().flatten()
        if not len(mean) or len(bad):
            where = f"position {int(bad[0])} holds {float(mean[bad[0]]) - eps}" if len(bad) else "it is empty"
            raise ValueError(f"a mean curve to divide by needs positive finite values everywhere; {where}")
        return cls.table(mean.min() / mean)

    @classmethod
    def rope(cls, head_dim: int = 128, theta: float = 10000.0, gap: int = 1, strength: Optional[float] = None) -> Trend:
        """Attention that a query without content would give by rotation alone, for any length.

        Query and key are the same vector with all channels equal, so that at distance d their product is
        strength * mean(cos(d * theta ** (-2 j / head_dim))), j < head_dim / 2; attention is the exponential of that.
        strength: sqrt(head_dim) is the product that channels of size one have after the usual scaling (the default).
        gap: distance from the last visual token to the query row.
        """
        if head_dim < 2 or head_dim % 2 or theta <= 1 or gap < 0:
            raise ValueError(f"rope needs an even head_dim, theta > 1, gap >= 0; got {head_dim}, {theta}, {gap}")
        strength = math.sqrt(head_dim) if strength is None else float(strength)
        return cls("rope", rate=strength, coefficients=(float(head_dim), float(theta), float(gap)))

    @classmethod
    def online(cls) -> Trend:
        """An exponential fitted to each score as it comes, leaving out padding and tokens that are no patch."""
        return cls("online")

    @classmethod
    def factorised(cls, within: Trend, between: Trend) -> Trend:
        """For clips: one trend inside every frame, times another one over the frames."""
        return replace(within, scope="factorised", between=between)

    def per_frame(self) -> Trend:
        """For clips: the same trend, starting again in every frame."""
        return replace(self, scope="frame", between=None)

    @classmethod
    def published(cls, method: str, benchmark: Optional[str] = None) -> Trend:
        """A trend of the authors' release. Without a benchmark: the mean of the method's published rates."""
        from debias import trends

        return trends.published(method, benchmark)

    # -- use -----------------------------------------------------------------------------------------------------------

    def weight(self, index: Optional[Tensor], length: int, frames: int = 1) -> Tensor:
        """float32 multiplier for each original raster index of a span of `length` tokens; 1 where the index is -1."""
        slots = weights(self, int(length), int(frames))
        return slots[:-1].clone() if index is None else slots.to(index.device)[index]

    def regressor(self, count: int) -> Tensor:
        """float64 [count]: what the logarithm of the trend is a multiple of, the multiple being `rate`."""
        i = torch.arange(count, dtype=torch.float64)
        if self.kind != "rope":
            return i
        head_dim, theta, gap = self.coefficients
        return rotation(gap + count - 1 - i, int(head_dim), theta)

    def curve(self, count: int) -> Tensor:
        """float64 weights of positions 0..count-1, before any notion of frames."""
        if self.length not in (None, count):
            raise ValueError(
                f"this trend was fitted for {self.length} positions and is asked for {count}; fit one for this layout, "
                f"or use Trend.exponential(rate) to carry its rate over on purpose"
            )
        i = torch.arange(count, dtype=torch.float64)
        if self.kind == "table":
            return torch.tensor(self.values, dtype=torch.float64)
        if self.kind == "exponential":
            decay = (-self.rate * i).exp()
            return (1 + self.floor) * decay / (1 + self.floor * decay)
        if self.kind == "rope":
            pull = self.rate * self.regressor(count)
            return (pull.min() - pull).exp()
        if self.kind == "online":
            raise ValueError("an online trend has no weights of its own; it is fitted to each score")
        c1, c2, c3 = self.coefficients
        cubic = 1 + i * (c1 + i * (c2 + i * c3))
        if count and float(cubic.min()) <= 0:
            raise ValueError(f"this inverse cubic is not positive over {count} positions")
        return 1 / cubic

    # -- fitting -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        curve: Union[Tensor, Sequence[float]],
        kind: str = "exponential",
        ignore: Optional[Tensor] = None,
        weights: Optional[Tensor] = None,
        scope: str = "sequence",
        frames: int = 1,
        refine: bool = False,
        **options: Any,
    ) -> Any:
        """The trend of a mean attention curve [N]; of curves [B, N], a list with one trend each.

        kind     exponential, rope (fits its strength; options as for Trend.rope), inverse_cubic, average
        ignore   [N] True at positions that must not shape it: padding, sinks, CLS tokens. NaN, infinite, zero and
                 negative values are left out too; fewer than two positions left are nothing to fit: ValueError
        weights  [N] how much each position counts, for example mean^2 / variance
        scope    "frame" fits what all `frames` have in common, "factorised" one exponential within and one over frames
        refine   exponential over the sequence only: go on to amplitude * exp(rate * i) + offset, by scipy
        """
        data = torch.as_tensor(curve).detach().cpu().double()
        if data.dim() not in (1, 2) or not data.shape[-1]:
            raise ValueError(f"a curve must be [N] or [B, N] with N at least 1; got shape {tuple(data.shape)}")
        count = data.shape[-1]
        if frames < 1 or count % frames:
            raise ValueError(f"a trend per frame needs equal frames; got {count} positions in {frames} frames")
        log, weight = fitting.prepare(data, *(None if t is None else t.detach().cpu() for t in (ignore, weights)))
        used = int((weight > 0).sum(-1).min())
        if used < 2:
            raise ValueError(
                f"a trend needs at least 2 positions that are positive, finite and not to be ignored; "
                f"this curve of {count} has {used}"
            )
        rows = _fit(kind, scope, log.reshape(-1, count), weight.reshape(-1, count), frames, refine, options)
        return rows[0] if data.dim() == 1 else rows


def _fit(
    kind: str, scope: str, log: Tensor, weight: Tensor, frames: int, refine: bool, options: Dict[str, Any]
) -> List[Trend]:
    count = log.shape[-1] if scope == "sequence" else log.shape[-1] // frames
    i = torch.arange(log.shape[-1], dtype=log.dtype)
    if refine and (kind, scope) != ("exponential", "sequence"):
        raise ValueError(f"only an exponential over the sequence can be refined; got {kind} over {scope}")
    if scope == "factorised":
        if kind != "exponential":
            raise ValueError(f"a factorised trend is fitted with exponentials; got kind {kind!r}")
        inner, outer, rest = fitting.plane(log, i % count, i.div(count, rounding_mode="floor"), weight)
        pairs = zip(inner.tolist(), outer.tolist())
        made = [
            Trend.factorised(replace(Trend.exponential(a), length=count), replace(Trend.exponential(b), length=frames))
            for a, b in pairs
        ]
        height = torch.zeros(len(made), dtype=log.dtype)
    elif kind in ("exponential", "rope"):
        base = Trend.rope(**options) if kind == "rope" else Trend.exponential(0.0)
        slope, height, rest = fitting.regress(log, base.regressor(count).repeat(len(i) // count), weight)
        made = [replace(base, rate=rate, length=count) for rate in slope.tolist()]
    elif kind in ("inverse_cubic", "average"):
        share = weight.reshape(len(log), -1, count)
        total = share.sum(1)
        curves = (log.exp().reshape(len(log), -1, count) * share).sum(1) / total.clamp(min=torch.finfo(log.dtype).tiny)
        if kind == "average":
            made = [Trend.average(fitting.bridge(row, seen), **options) for row, seen in zip(curves, total > 0)]
        else:
            made = [replace(Trend.inverse_cubic(*fitting.cubic(*row)), length=count) for row in zip(curves, total)]
        expected = torch.stack([-trend.curve(count).log() for trend in made]).repeat(1, len(i) // count)
        _, height, rest = fitting.regress(log - expected, torch.zeros_like(i), weight)
    else:
        raise ValueError(
            f"cannot fit a trend of kind {kind!r}; kinds that can be: exponential, rope, inverse_cubic, average"
        )
    if scope == "frame":
        made = [trend.per_frame() for trend in made]
    if refine:
        for n, trend in enumerate(made):
            rate, amplitude, offset = fitting.refine(log[n].exp(), weight[n], trend.rate, float(height[n].exp()))
            made[n] = replace(trend, rate=rate, floor=offset / amplitude)
            height[n] = math.log(amplitude)
            rest[n] = log[n] - (amplitude * (rate * i).exp() + offset).log()
    r2, residual = fitting.explained(log, rest, weight), fitting.hide(rest, weight)
    return [
        replace(trend, amplitude=float(height[n].exp()), r2=float(r2[n]), residual=residual[n])
        for n, trend in enumerate(made)
    ]


def rotation(distance: Tensor, head_dim: int, theta: float) -> Tensor:
    """mean over j < head_dim / 2 of cos(distance * theta ** (-2 j / head_dim)); 1 at distance 0."""
    turns = theta ** (-2 * torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)
    return (distance.double()[:, None] * turns).cos().mean(1)


@lru_cache(maxsize=256)
def weights(trend: Trend, length: int, frames: int) -> Tensor:
    """[length + 1] float32 weights of a whole span on the CPU; the last slot is the weight 1 that index -1 reads."""
    if trend.scope == "sequence":
        values = trend.curve(length)
    else:
        if frames < 1 or length % frames:
            raise ValueError(f"a trend per frame needs equal frames; got {length} tokens in {frames} frames")
        values = trend.curve(length // frames).repeat(frames)
        if trend.between is not None:
            values = values * trend.between.curve(frames).repeat_interleave(length // frames)
    return torch.cat([values, values.new_ones(1)]).float()


def describe(trend: Trend) -> Dict[str, Any]:
    """What a trend is, as plain values that `make` turns back into it."""
    record: Dict[str, Any] = {"kind": trend.kind}
    for name in ("rate", "floor", "length", "source", "amplitude", "r2"):
        value = getattr(trend, name)
        if value not in (None, "", 0.0) or name == "rate":
            record[name] = value
    for name in ("coefficients", "values"):
        if getattr(trend, name):
            record[name] = list(getattr(trend, name))
    if trend.scope != "sequence":
        record["scope"] = trend.scope
    if trend.between is not None:
        record["between"] = describe(trend.between)
    return record
