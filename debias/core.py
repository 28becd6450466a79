"""score -> score: divide by the trend, silence the padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from debias import names
from debias.fitting import lines
from debias.padding import RELEASED, Padding
from debias.reading import Reading
from debias.release import MASKS, RELEASES, Release
from debias.shape import weights
from debias.span import Span
from debias.trend import Trend

# What a score is wanted for.
#   select   an order
#   recycle  a second order, of tokens to be merged
#   vision   an order from the vision tower's own attention, which looks both ways and has no recency to remove
#   weigh    numbers to sum or average
ROLES = ("select", "recycle", "vision", "weigh")
_DOWN = -float("inf")
_WHOLE = {16: torch.int16, 32: torch.int32, 64: torch.int64}


class Terms(NamedTuple):
    """What a debias does to a score of V tokens."""

    weight: Optional[Tensor] = None  # [V] is multiplied, ...
    offset: bool = False  # ... or, where this is True, subtracted
    valid: Optional[Tensor] = None  # [V] False: silenced, ...
    step: Optional[Tensor] = None  # [V] ... so many representable numbers below the lowest score


@dataclass(frozen=True)
class Debias:
    """Debias(trend, padding)(score, span) -> score. Debias() is the identity and returns the same object.

    stages   "first": only the first cut is debiased, as in the paper; "all": later cuts too, by original positions
    recycle  whether the order of tokens to be recycled is debiased as well; the authors' release leaves it biased
    release  computes what the authors' release computes, corrected nowhere; None: what this package thinks right
    reading  how the attention is read in the first place, wherever a trend would act; None: as the method reads it
    """

    trend: Optional[Trend] = None
    padding: Optional[Padding] = None
    stages: str = "first"
    recycle: bool = True
    release: Optional[Release] = None
    reading: Optional[Reading] = None

    def __post_init__(self) -> None:
        if self.stages not in ("first", "all"):
            raise ValueError(f"stages is 'first' or 'all'; got {self.stages!r}")
        if self.release is not None:
            names.check_unchanged(self.stages, None if self.trend is None else self.trend.kind)
        if self.release is not None and self.reading is not None:
            raise ValueError("the authors' release reads attention as the method does; leave out reading")

    @classmethod
    def paper(
        cls, method: str, benchmark: Optional[str] = None, arm: str = "both", as_released: bool = False
    ) -> Debias:
        """The paper's setting of a method on a benchmark; without a benchmark, with the mean of the method's rates.

        as_released: what the release's code computes, to the last token; docs/differences.md lists what that changes.
        """
        named = None if benchmark is None else names.benchmark(benchmark)
        return _paper(names.method(method), named, names.arm(arm), as_released)

    def with_arm(self, arm: str) -> Debias:
        """Only the halves that an arm has: none, trend, padding, both (or the release's paper, before, after)."""
        arm = names.arm(arm)
        if self.release is not None and arm not in ("none", self.arm):
            raise ValueError(
                "the masks of the release differ from arm to arm: name the arm in Debias.paper(..., as_released=True)"
            )
        positional = arm in ("trend", "both")
        return replace(
            self,
            trend=self.trend if positional else None,
            reading=self.reading if positional else None,
            padding=self.padding if arm in ("padding", "both") else None,
        )

    @property
    def arm(self) -> str:
        """The arm that this debias is."""
        if self.trend is None and self.reading is None:
            return "none" if self.padding is None else "padding"
        return "trend" if self.padding is None else "both"

    def acts(self, stage: int = 0, role: str = "select") -> bool:
        """Whether scores of this stage, wanted for this, are debiased at all."""
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
        if (stage > 0 and self.stages == "first") or (role == "recycle" and not self.recycle):
            return False
        if self.release is not None and role == "vision":
            return False  # the release leaves towers alone
        return self.padding is not None or (self.trend is not None and role != "vision")

    def reads(self, stage: int = 0) -> Reading:
        """How the attention of this cut is read."""
        if self.reading is None or stage < 0 or (stage > 0 and self.stages == "first"):
            return Reading()
        return self.reading

    def __call__(
        self, score: Tensor, span: Span, stage: int = 0, role: str = "select", valid: Optional[Tensor] = None
    ) -> Tensor:
        """The debiased score [..., V], in the score's dtype and on its device; the same object where nothing is to do.

        valid: [V] False where a token is padding, for a padding rule that the span cannot answer ("sink").

        Stages count cuts from 0; below 0 they lie in the vision tower. A silenced token is never preferred to a valid
        one: it gets a number just below the lowest score, falling with its position (for role "weigh": zero).
        """
        if not self.acts(stage, role):
            return score
        if score.shape[-1] != len(span):
            raise ValueError(
                f"the score has {score.shape[-1]} entries in its last axis and the span has {len(span)} visual tokens"
            )
        if not score.is_floating_point():
            raise ValueError(f"a score must be floating point; got {score.dtype}")
        if self.release is not None:
            index, trend = None if span.index is None else span.raster(score.device), self.trend
            weight = (
                None if trend is None else at_index(slots_weight(trend, span.total, span.frames, score.device), index)
            )
            return self.release(score, self.mask(span), weight)
        terms = self.terms(score, span, stage, role, valid)
        if terms.weight is not None:
            # Weights are float32, and so is the product with a half.
            score = (score - terms.weight if terms.offset else score * terms.weight).to(score.dtype)
            if terms.offset and role == "weigh":
                score = score.clamp(min=0)  # what is summed or averaged weighs nothing at least
        if terms.valid is None:
            return score
        if role == "weigh":
            return torch.where(terms.valid, score, torch.zeros_like(score))
        assert terms.step is not None
        return silence(score, terms.valid, terms.step)

    def terms(
        self, score: Tensor, span: Span, stage: int = 0, role: str = "select", valid: Optional[Tensor] = None
    ) -> Terms:
        """What this debias does to a score [..., V] of the span, in numbers; the arguments are those of a call."""
        index, trend = None if span.index is None else span.raster(score.device), self.trend
        if not self.acts(stage, role) or not len(span):
            return Terms()
        mask = None if self.padding is None else slots_valid(self.padding, *layout(span), score.device)
        if self.padding is None or self.padding.placed:
            valid = None
        elif valid is None:
            raise ValueError(
                "silencing sinks takes hidden states, which are not at hand here; use another padding rule"
            )
        if mask is not None:
            valid = at_index(mask, index)
        step = None if valid is None else at_index(slots_step(span.total, score.dtype, score.device), index)
        if trend is None or role == "vision":
            return Terms(valid=valid, step=step)
        if trend.kind == "online":
            weight = online_weight(score, span, mask, index)
        else:
            weight = at_index(slots_weight(trend, span.total, span.frames, score.device), index)
        return Terms(weight, trend.kind == "offset", valid, step)

    def mask(self, span: Span) -> Optional[Tensor]:
        """[V] True where a token is not padding, as the release has it, which may be nowhere; None: it has no mask."""
        known = span.size is not None or span.fraction is not None
        return self.padding.valid(span) if self.padding is not None and known else None

    def budget(self, keep: int, span: Span) -> int:
        """How many tokens stay where a method was told to keep so many; fewer only as released."""
        return keep if self.release is None else self.release.budget(keep, self.mask(span))

    def merge_weights(self, weights: Tensor, group: Tensor, span: Span, stage: int = 0) -> Tensor:
        """Weights [G] with which the tokens `group` [G] of a span are averaged into one: padding weighs nothing.

        A group that is padding throughout keeps its weights.
        """
        if self.padding is None or not self.acts(stage):
            return weights
        mask = slots_valid(self.padding, *layout(span), weights.device)
        if mask is None:
            return weights
        index = None if span.index is None else span.raster(weights.device)
        valid = at_index(mask, index)[group.to(weights.device)]
        return torch.where(valid | ~valid.any(), weights, torch.zeros_like(weights))

    def effective(self, span: Span, keep: int) -> int:
        """How many of `keep` kept tokens can show the picture: the budget once padding is never preferred."""
        mask = None if self.padding is None else slots_valid(self.padding, *layout(span), torch.device("cpu"))
        if mask is None:
            return min(keep, len(span))
        return min(keep, int(at_index(mask, None if span.index is None else span.index.cpu()).sum()))


def silence(score: Tensor, valid: Tensor, step: Tensor) -> Tensor:
    """The score with every token that is not valid set below all others, no two alike, falling as `step` grows.

    Floats of one sign are ordered like their bit patterns, so adding `step` to the pattern of a negative number goes
    that many representable numbers down: strictly, in any dtype, and by next to nothing.
    """
    whole = step.dtype
    # A score that holds NaN has no lowest value; its padding goes all the way down.
    low = score.amin(-1, keepdim=True).nan_to_num(nan=_DOWN)
    low = low.clamp(max=-torch.finfo(score.dtype).smallest_normal)
    below = (low.view(whole) + step).clamp(max=_bits_of_minus_infinity(score.dtype))
    return torch.where(valid, score, below.view(score.dtype))


@lru_cache(maxsize=16)
def _bits_of_minus_infinity(dtype: torch.dtype) -> int:
    return int(torch.tensor(_DOWN, dtype=dtype, device="cpu").view(_WHOLE[torch.finfo(dtype).bits]))


def online_weight(score: Tensor, span: Span, mask: Optional[Tensor], index: Optional[Tensor]) -> Tensor:
    """Weights from an exponential fitted to the score itself: to its tokens that are patches and show the picture."""
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    raster = span.raster(score.device)
    ignore = raster < 0
    if mask is not None:
        ignore = ignore | ~at_index(mask, index)
    if span.special is not None:
        special = span.special.to(score.device, non_blocking=True)
        ignore = ignore | (special if index is None else special[index])
    position = raster.clamp(min=0).to(score.dtype)
    rate, _, _ = lines.regress(*lines.prepare(score, ignore), position)
    return (-rate.unsqueeze(-1) * position).exp()


# What follows is worked out once per layout and kept on the score's device as slots [length + 1]: one for each token of
# the unpruned span, and a last one that is read by index -1, a token that is not a patch. Inference mode is off
# meanwhile, so that slots made during generation can serve a training step later.


def at_index(slots: Tensor, index: Optional[Tensor]) -> Tensor:
    """The slots of the tokens that are there."""
    return slots[:-1] if index is None else slots[index]


class Same:
    """A tensor as part of a key: equal only to itself, and kept alive as long as the key."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


Layout = Tuple[Tuple[int, int], int, Optional[Tuple[int, int]], int, Optional[Same], Optional[Same]]


def layout(span: Span) -> Layout:
    """Everything about a span that decides which of its tokens are padding."""
    fraction, special = (None if flags is None else Same(flags) for flags in (span.fraction, span.special))
    return span.grid, span.frames, span.size, span.total, fraction, special


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def slots_valid(
    padding: Padding,
    grid: Tuple[int, int],
    frames: int,
    size: Optional[Tuple[int, int]],
    length: int,
    fraction: Optional[Same],
    special: Optional[Same],
    device: torch.device,
) -> Optional[Tensor]:
    """True where a token is not padding; None when there is nothing to silence."""
    if size is None and fraction is None:
        return None
    shares, flags = (None if same is None else same.tensor for same in (fraction, special))
    valid = padding.whole(Span(0, grid, frames=frames, size=size, fraction=shares, special=flags, length=length))
    # In a picture so thin that no patch shows enough of it, patches cannot be told apart: nothing is silenced.
    if valid.all() or not valid.any():
        return None
    return on_device(torch.cat([valid, valid.new_ones(1)]), device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def slots_weight(trend: Trend, length: int, frames: int, device: torch.device) -> Tensor:
    """The multiplier of each token."""
    return on_device(weights(trend, length, frames), device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def slots_step(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How many representable numbers below the lowest score each token falls when it is silenced."""
    whole = _WHOLE[torch.finfo(dtype).bits]
    # Beyond half of the 16-bit patterns steps are alike rather than wrapping round.
    return on_device(torch.arange(1, length + 2, device="cpu").clamp(max=torch.iinfo(whole).max // 2).to(whole), device)


def on_device(slots: Tensor, device: torch.device) -> Tensor:
    """A small copy that does not make the host wait."""
    return slots.to(device, non_blocking=True)


@lru_cache(maxsize=256)
def _paper(method: str, benchmark: Optional[str], arm: str, as_released: bool) -> Debias:
    if as_released:
        names.check_release(method, arm)
    trend = Trend.published(method, benchmark) if arm in ("trend", "both") else None
    padding = RELEASED.get(method, Padding()) if arm in ("padding", "both") else None
    if as_released and padding is not None:
        padding = MASKS.get((method, arm), padding)
    return Debias(trend, padding, recycle=method != "sparsevlm", release=RELEASES[method] if as_released else None)
