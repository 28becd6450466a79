"""Weights by position: the kinds of trend there are, and the numbers that make each."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Optional, Sequence, Tuple, Type, TypeVar, Union

import torch
from torch import Tensor

from debias.names import PICTURES, SCOPES

KINDS = ("exponential", "inverse_cubic", "table", "offset", "rope", "online", "blank")
S = TypeVar("S", bound="Shape")


@dataclass(frozen=True)
class Shape:
    """A trend gives every original raster index a weight; score * weight is the score divided by the trend.

    exponential    (1 + floor) / (exp(rate * i) + floor); with floor 0 this is exp(-rate * i)
    inverse_cubic  1 / (1 + c1 i + c2 i^2 + c3 i^3)
    table          one weight per position
    offset         one number per position that is taken off the score
    rope           what the rotary embedding alone does to a query without content
    online         an exponential fitted to each score as it comes
    blank          the score of a picture without content, which has to be measured (pruners.blank): no numbers yet

    length   the span length it was fitted for; other lengths are refused. None: any length
    scope    "sequence": i counts through the whole clip; "frame": i starts again in every frame;
             "factorised": as "frame", times the trend `between`, whose i is the number of the frame
    """

    kind: str
    rate: float = 0.0
    coefficients: Tuple[float, ...] = ()
    values: Tuple[float, ...] = ()
    floor: float = 0.0
    length: Optional[int] = None
    scope: str = "sequence"
    between: Optional[Shape] = None
    source: str = field(default="", compare=False)
    amplitude: Optional[float] = field(default=None, compare=False)
    r2: Optional[float] = field(default=None, compare=False)
    residual: Optional[Tensor] = field(default=None, compare=False)

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
        if self.kind in ("online", "offset", "blank") and self.scope != "sequence":
            raise ValueError(f"a trend of kind {self.kind} runs over the sequence; got scope {self.scope!r}")
        state = (self.kind, *numbers, self.length, self.scope, self.between)
        object.__setattr__(self, "_hash", hash(state))

    def __hash__(self) -> int:  # computed once: it is asked for at every call, and a table is long
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __repr__(self) -> str:
        """Everything that decides the weights, a table by its fingerprint: this is what a run is known by."""
        if self.kind == "blank":
            return f"{type(self).__name__}.blank({self.picture!r}, subtract={bool(self.coefficients[1])})"
        shown = [repr(self.kind)]
        for name in ("rate", "coefficients", "floor", "length", "scope", "between"):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                shown.append(f"{name}={value!r}")
        if self.values:
            shown.append("values=" + hashlib.sha256(repr(self.values).encode()).hexdigest()[:16])
        return f"{type(self).__name__}({', '.join(shown)})"

    # -- the kinds -----------------------------------------------------------------------------------------------------

    @classmethod
    def exponential(cls: Type[S], rate: float, floor: float = 0.0) -> S:
        """exp(-rate * i) for any length: attention that grows like exp(rate * i), or like exp(rate * i) + floor."""
        return cls("exponential", rate=float(rate), floor=float(floor))

    @classmethod
    def inverse_cubic(cls: Type[S], c1: float, c2: float, c3: float) -> S:
        """1 / (1 + c1 i + c2 i^2 + c3 i^3), for any length over which the cubic stays positive."""
        return cls("inverse_cubic", coefficients=(float(c1), float(c2), float(c3)))

    @classmethod
    def table(cls: Type[S], values: Union[Tensor, Sequence[float]]) -> S:
        """One weight for each position; serves spans of exactly that many tokens."""
        numbers = tuple(torch.as_tensor(values).double().flatten().tolist())
        if not numbers or min(numbers) < 0:
            raise ValueError(f"a table needs at least one weight and none below zero; got {len(numbers)} weights")
        return cls("table", values=numbers, length=len(numbers))

    @classmethod
    def offset(cls: Type[S], values: Union[Tensor, Sequence[float]]) -> S:
        """A number for each position that is taken off the score; serves spans of exactly that many tokens."""
        numbers = tuple(torch.as_tensor(values).double().flatten().tolist())
        if not numbers:
            raise ValueError("an offset needs at least one number; got none")
        return cls("offset", values=numbers, length=len(numbers))

    @classmethod
    def blank(cls: Type[S], picture: str = "mean", subtract: bool = False) -> S:
        """Divide by the score of a picture without content (black, mean, noise), or take it off; to be measured."""
        if picture not in PICTURES:
            raise ValueError(f"unknown picture without content {picture!r}; known: {', '.join(PICTURES)}")
        return cls("blank", coefficients=(float(PICTURES.index(picture)), float(subtract)))

    @classmethod
    def average(cls: Type[S], curve: Union[Tensor, Sequence[float]], eps: float = 1e-7) -> S:
        """Divide by a mean attention curve itself: weights in proportion to 1 / (curve + eps), the largest being 1."""
        mean = torch.as_tensor(curve).double().flatten() + eps
        bad = (~(torch.isfinite(mean) & (mean > 0))).nonzero().flatten()
        if not len(mean) or len(bad):
            where = f"position {int(bad[0])} holds {float(mean[bad[0]]) - eps}" if len(bad) else "it is empty"
            raise ValueError(f"a mean curve to divide by needs positive finite values everywhere; {where}")
        return cls.table(mean.min() / mean)

    @classmethod
    def rope(cls: Type[S], strength: float = 1.0, head_dim: int = 128, theta: float = 10000.0, gap: int = 1) -> S:
        """Attention that a query without content would give by rotation alone, for any length.

        Query and key are one vector with all channels alike, so at distance d their product is
        strength * mean over j < head_dim / 2 of cos(d * theta ** (-2 j / head_dim)); attention is its exponential.
        strength: the product at distance 0. sqrt(head_dim) if every channel has size one; Trend.fit measures it.
        gap: distance from the last visual token to the query row.
        """
        if head_dim < 2 or head_dim % 2 or theta <= 1 or gap < 0:
            raise ValueError(f"rope needs an even head_dim, theta > 1 and gap >= 0; got {head_dim}, {theta}, {gap}")
        return cls("rope", rate=float(strength), coefficients=(float(head_dim), float(theta), float(gap)))

    @classmethod
    def online(cls: Type[S]) -> S:
        """An exponential fitted to each score as it comes, leaving out padding and tokens that are not a patch."""
        return cls("online")

    @classmethod
    def factorised(cls: Type[S], within: S, between: Shape) -> S:
        """For clips: one trend inside every frame, times another over the frames."""
        return replace(within, scope="factorised", between=between)

    def per_frame(self: S) -> S:
        """For clips: the same trend, starting again in every frame."""
        return replace(self, scope="frame", between=None)

    @property
    def picture(self) -> str:
        """Which picture a blank trend is measured on."""
        return PICTURES[int(self.coefficients[0])]

    def measured_as(self: S, score: Tensor) -> S:
        """What a blank trend is, once the score [V] of its picture is known."""
        return self.offset(score) if self.coefficients[1] else self.average(score)

    # -- use -----------------------------------------------------------------------------------------------------------

    def weight(self, index: Optional[Tensor], length: int, frames: int = 1) -> Tensor:
        """float32 multiplier for each original raster index of a span of `length` tokens; 1 where the index is -1."""
        slots = weights(self, int(length), int(frames))
        return slots[:-1].clone() if index is None else slots.to(index.device)[index]

    def regressor(self, count: int) -> Tensor:
        """float64 [count]: what the logarithm of the trend is a multiple of, the multiple being `rate`."""
        i = torch.arange(count, dtype=torch.float64, device="cpu")
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
        if self.kind in ("table", "offset"):
            return torch.tensor(self.values, dtype=torch.float64, device="cpu")
        i = torch.arange(count, dtype=torch.float64, device="cpu")
        if self.kind == "exponential":
            decay = (-self.rate * i).exp()
            values = (1 + self.floor) * decay / (1 + self.floor * decay)
        elif self.kind == "rope":
            pull = self.rate * self.regressor(count)
            values = (pull.min() - pull).exp()
        elif self.kind == "inverse_cubic":
            c1, c2, c3 = self.coefficients
            values = 1 / (1 + i * (c1 + i * (c2 + i * c3)))
        else:
            how = {"online": "it is fitted to each score", "blank": "it is measured, by pruners.blank.Blanks"}
            raise ValueError(f"this {self.kind} trend has no weights of its own; {how[self.kind]}")
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise ValueError(
                f"{self!r} is not positive and finite over {count} positions, so nothing can be divided by it"
            )
        return values


def rotation(distance: Tensor, head_dim: int, theta: float) -> Tensor:
    """mean over j < head_dim / 2 of cos(distance * theta ** (-2 j / head_dim)); 1 at distance 0."""
    turns = theta ** (-2 * torch.arange(head_dim // 2, dtype=torch.float64, device=distance.device) / head_dim)
    return (distance.double()[:, None] * turns).cos().mean(1)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def weights(trend: Shape, length: int, frames: int) -> Tensor:
    """[length + 1] float32 weights of a whole span on the CPU; the last slot is what index -1 reads, and leaves a score
    as it is: the weight 1, or an offset of 0."""
    if trend.scope == "sequence":
        values = trend.curve(length)
    else:
        if frames < 1 or length % frames:
            raise ValueError(f"a trend per frame needs equal frames; got {length} tokens in {frames} frames")
        values = trend.curve(length // frames).repeat(frames)
        if trend.between is not None:
            values = values * trend.between.curve(frames).repeat_interleave(length // frames)
    return torch.cat([values, values.new_full((1,), float(trend.kind != "offset"))]).float()
