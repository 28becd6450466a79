"""score -> score: divide by the trend, silence the padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from debias import lines, names
from debias.padding import RELEASED, Padding
from debias.span import Span
from debias.trend import Trend, weights

# What a score is wanted for.
#   select   an order
#   recycle  a second order, of tokens to be merged
#   vision   an order from the vision tower's own attention, which looks both ways and has no recency to remove
#   weigh    numbers to sum or average
ROLES = ("select", "recycle", "vision", "weigh")
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Debias:
    """Debias(trend, padding)(score, span) -> score. Debias() is the identity and returns the same object.

    stages   "first": only the first cut is debiased, as in the paper; "all": later cuts too, by original positions
    recycle  whether the order of tokens to be recycled is debiased as well; the authors' release leaves it biased
    """

    trend: Optional[Trend] = None
    padding: Optional[Padding] = None
    stages: str = "first"
    recycle: bool = True

    def __post_init__(self) -> None:
        if self.stages not in ("first", "all"):
            raise ValueError(f"stages is 'first' or 'all'; got {self.stages!r}")

    @classmethod
    def paper(cls, method: str, benchmark: Optional[str] = None, arm: str = "both") -> Debias:
        """The released setting of a method on a benchmark; without one, with the mean of the method's rates."""
        return _paper(names.method(method), None if benchmark is None else names.benchmark(benchmark), names.arm(arm))

    def with_arm(self, arm: str) -> Debias:
        """Only the halves that an arm has: none, trend, padding, both (or the release's paper, before, after)."""
        arm = names.arm(arm)
        return replace(
            self,
            trend=self.trend if arm in ("trend", "both") else None,
            padding=self.padding if arm in ("padding", "both") else None,
        )

    @property
    def arm(self) -> str:
        """The arm that this debias is."""
        if self.trend is None:
            return "none" if self.padding is None else "padding"
        return "trend" if self.padding is None else "both"

    def __call__(self, score: Tensor, span: Span, stage: int = 0, role: str = "select") -> Tensor:
        """The debiased score [..., V], in the score's dtype and on its device; the same object where nothing is to do.

        Stages count cuts from 0; below 0 they lie in the vision tower. A silenced token is never preferred to a valid
        one: it gets a number just below the lowest one, falling with its position (for role "weigh": zero).
        """
        trend = None if role == "vision" else self.trend
        off = (stage > 0 and self.stages == "first") or (role == "recycle" and not self.recycle)
        if off or (trend is None and self.padding is None):
            return score
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
        if score.shape[-1] != len(span):
            raise ValueError(
                f"the score has {score.shape[-1]} entries in its last axis and the span has {len(span)} visual tokens"
            )
        if not score.dtype.is_floating_point:
            raise ValueError(f"a score must be floating point; got {score.dtype}")
        plan = plan_for(trend, self.padding, span, score.dtype, score.device)
        if (trend is None and plan.valid is None) or not len(span):
            return score
        index = None if span.index is None else span.raster(score.device)
        if trend is not None:
            wide = score if score.dtype == torch.float64 else score.float()
            if trend.kind == "online":
                weight = own(wide, span.raster(score.device), pick(plan.patch, index))
            else:
                weight = pick(plan.weight, index)
            score = (wide * weight).to(score.dtype)
        if plan.valid is None or plan.step is None:
            return score
        valid = pick(plan.valid, index)
        if role == "weigh":
            return torch.where(valid, score, torch.zeros_like(score))
        return silence(score, valid, pick(plan.step, index))

    def merge_weights(self, weights: Tensor, group: Tensor, span: Span, stage: int = 0) -> Tensor:
        """Weights [G] with which the tokens `group` [G] of a span are averaged into one: padding weighs nothing.

        A group that is padding throughout keeps its weights.
        """
        if self.padding is None or (stage > 0 and self.stages == "first"):
            return weights
        plan = plan_for(None, self.padding, span, weights.dtype, weights.device)
        if plan.valid is None:
            return weights
        index = None if span.index is None else span.raster(weights.device)
        valid = pick(plan.valid, index)[group.to(weights.device)]
        return torch.where(valid | ~valid.any(-1, keepdim=True), weights, torch.zeros_like(weights))

    def effective(self, span: Span, keep: int) -> int:
        """How many of `keep` kept tokens can show the picture: the budget once padding is never preferred."""
        if self.padding is None:
            return min(keep, len(span))
        return min(keep, int(self.padding.valid(span).sum()))


def silence(score: Tensor, valid: Tensor, step: Tensor) -> Tensor:
    """The score with every token that is not valid set below all others, no two alike, falling as `step` grows.

    Floats of one sign are ordered like their bit patterns, so adding `step` to the pattern of a negative number goes
    that many representable numbers down: strictly, in any dtype, and by next to nothing.
    """
    whole = _WHOLE[score.element_size()]
    low = score.amin(-1, keepdim=True).clamp(max=-torch.finfo(score.dtype).smallest_normal)
    below = (low.view(whole) + step).clamp(max=_bits_of_minus_infinity(score.dtype))
    return torch.where(valid, score, below.view(score.dtype))


@lru_cache(maxsize=16)
def _bits_of_minus_infinity(dtype: torch.dtype) -> int:
    minus_infinity = torch.tensor([-float("inf")], dtype=dtype)
    return int(minus_infinity.view(_WHOLE[minus_infinity.element_size()]).item())


def own(score: Tensor, raster: Tensor, patch: Tensor) -> Tensor:
    """Weights from an exponential fitted to the patches of the score itself."""
    position = raster.clamp(min=0).to(score.dtype)
    rate, _, _ = lines.regress(*lines.prepare(score, ~patch), position)
    return (-rate.unsqueeze(-1) * position).exp()


def pick(slots: Tensor, index: Optional[Tensor]) -> Tensor:
    """The slots of the tokens that are there; the last slot belongs to index -1."""
    return slots[:-1] if index is None else slots[index]


class Plan(NamedTuple):
    """What a debias does to the tokens of one unpruned span: [length + 1] each, the last slot for index -1."""

    weight: Tensor  # multiplier; 1 throughout when there is no trend of its own
    patch: Tensor  # True where an online trend may look
    valid: Optional[Tensor]  # None: nothing is silenced
    step: Optional[Tensor]


class Same:
    """A tensor as part of a key: equal only to itself, and kept alive as long as the key."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


def plan_for(
    trend: Optional[Trend], padding: Optional[Padding], span: Span, dtype: torch.dtype, device: torch.device
) -> Plan:
    fraction, special = (None if t is None else Same(t) for t in (span.fraction, span.special))
    if padding is None and (trend is None or trend.kind != "online"):
        return _plan(trend, None, (1, 1), span.frames, None, None, None, span.total, dtype, device)
    return _plan(trend, padding, span.grid, span.frames, span.size, fraction, special, span.total, dtype, device)


@lru_cache(maxsize=256)
def _plan(
    trend: Optional[Trend],
    padding: Optional[Padding],
    grid: Tuple[int, int],
    frames: int,
    size: Optional[Tuple[int, int]],
    fraction: Optional[Same],
    special: Optional[Same],
    length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    valid = torch.ones(length, dtype=torch.bool)
    if padding is not None:
        flags = {"fraction": fraction, "special": special}
        tensors = {name: None if flag is None else flag.tensor for name, flag in flags.items()}
        valid = padding.whole(Span(0, grid, frames=frames, size=size, length=length, **tensors))
        # A picture so thin that no patch shows enough of it: nothing can be told apart, so nothing is silenced.
        valid = valid | ~valid.any()
    patch = valid if special is None else valid & ~special.tensor.cpu()
    # Steps beyond a quarter of the 16-bit patterns are alike rather than wrapping round.
    whole = _WHOLE[torch.finfo(dtype).bits // 8]
    step = torch.arange(1, length + 2).clamp(max=torch.iinfo(whole).max // 2).to(whole)

    def there(slots: Tensor) -> Tensor:
        # A small copy that nobody waits for; everything after it is on the score's device.
        return slots.to(device, non_blocking=True)

    fixed = trend is not None and trend.kind != "online"
    silent = not bool(valid.all())
    return Plan(
        there(weights(trend, length, frames) if fixed and trend is not None else torch.ones(length + 1)),
        there(torch.cat([patch, patch.new_zeros(1)])),
        there(torch.cat([valid, valid.new_ones(1)])) if silent else None,
        there(step) if silent else None,
    )


@lru_cache(maxsize=256)
def _paper(method: str, benchmark: Optional[str], arm: str) -> Debias:
    trend = Trend.published(method, benchmark) if arm in ("trend", "both") else None
    padding = RELEASED.get(method, Padding()) if arm in ("padding", "both") else None
    return Debias(trend, padding, recycle=method != "sparsevlm")
