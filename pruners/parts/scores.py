"""Score arithmetic of the deep-layer studies: a layer's attention, compared with an earlier layer's or a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

Kind = Literal["raw", "ratio", "subtract", "zscore", "weighted", "entropy_ratio", "residual", "prior"]


@dataclass(frozen=True)
class Scores:
    """A value: which arithmetic, on which shallow layer, with or without the rotary embedding.

    `shallow` counts layers of a 32-layer decoder, as a cut does: 2 is the attention just before the third layer.
    `weight` is the share of the deep layer in `weighted` and the share of the shallow layer that `residual` takes off.
    """

    kind: Kind = "raw"
    shallow: int = 2
    weight: float = 0.5
    eps: float = 1e-7
    rope: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown score arithmetic {self.kind!r}; known: {', '.join(get_args(Kind))}")

    @property
    def looks_back(self) -> bool:
        """Whether the shallow layer's attention is needed."""
        return self.kind not in ("raw", "prior")

    def __call__(self, deep: Tensor, shallow: Tensor | None = None, prior: Tensor | None = None) -> Tensor:
        """Combine [V] attention over one picture's tokens; higher is kept."""
        deep = deep.float()
        if self.kind == "raw":
            return deep
        if self.kind == "prior":
            if prior is None:
                raise ValueError("scores of kind 'prior' divide by a measured prior, and none was given")
            return deep / (prior.to(deep) + self.eps)
        if shallow is None:
            raise ValueError(f"scores of kind {self.kind!r} compare with a shallow layer, and none was given")
        shallow = shallow.float()
        if self.kind == "ratio":
            return deep / (shallow + self.eps)
        if self.kind == "subtract":
            return deep - shallow
        if self.kind == "zscore":
            return _standard(deep, self.eps) - _standard(shallow, self.eps)
        if self.kind == "weighted":
            return self.weight * _unit(deep, self.eps) + (1 - self.weight) * _unit(shallow, self.eps)
        if self.kind == "residual":
            return deep - self.weight * (shallow - shallow.mean(-1, keepdim=True))
        warmth = entropy(deep) / entropy(shallow).clamp_min(self.eps)
        # softmax of the logarithm is the normalised power, without its underflow
        softened = (shallow.clamp_min(1e-30).log() / warmth.clamp_min(self.eps)[..., None]).softmax(-1)
        return deep / (softened + self.eps)


def entropy(attention: Tensor) -> Tensor:
    """Entropy in nats of attention [..., V] after it is made to sum to 1."""
    share = attention / attention.sum(-1, keepdim=True).clamp_min(1e-30)
    return -(share * share.clamp_min(1e-30).log()).sum(-1)


def _standard(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + eps)


def _unit(x: Tensor, eps: float) -> Tensor:
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low + eps)
