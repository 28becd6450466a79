"""A method that takes down what it is shown of the vision tower, and methods that cut where they are told to."""

from dataclasses import dataclass, field
from typing import Any

import torch

from debias import Debias
from pruners import Pruner
from pruners.cut import Cut


@dataclass(frozen=True)
class Spy(Pruner):
    """(view, patches) of each picture, all views together."""

    seen: list[Any] = field(default_factory=list, compare=False)

    reads = "vision"
    views = "together"

    def cuts(self, layers):
        return [Cut(0, self.keep)]

    def score(self, view):
        self.seen.append((view, view.vision))
        return view.vision.attention.mean(0)


@dataclass(frozen=True)
class Told(Pruner):
    """Cuts where it is told to."""

    told: tuple[Cut, ...] = (Cut(2, 12), Cut(4, 0.25))

    def cuts(self, layers):
        return list(self.told)


def look(one, encoded):
    """(view, patches) of each picture of a batch, as a method sees them that keeps everything."""
    spy = Spy(keep=1.0)
    with torch.no_grad(), spy(one, Debias(), encoded.sizes):
        one.model(**encoded.inputs)
    return spy.seen
