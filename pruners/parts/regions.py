"""A picture in regions: squares of its patches, and a choice that gives each of them its share."""

from __future__ import annotations

import torch
from torch import Tensor


def regions(xy: Tensor, across: int) -> Tensor:
    """[V] in which of `across` x `across` equal parts of the rectangle around all patches each lies; `xy` [V, 2]."""
    low = xy.amin(0)
    side = xy.amax(0) - low + 1
    column, row = ((xy - low) * across // side).unbind(-1)
    return row * across + column


def rank_within(score: Tensor, region: Tensor) -> Tensor:
    """[V] how many tokens of the same region come before it by `score`; ties go to the earlier token."""
    order = score.argsort(descending=True, stable=True)
    order = order[region[order].argsort(stable=True)]
    there = region[order]
    place = torch.arange(len(score), device=score.device) - torch.searchsorted(there, there)
    return torch.empty_like(order).scatter_(0, order, place)


def evenly(score: Tensor, region: Tensor, count: int, last: Tensor) -> Tensor:
    """`count` tokens, the best of each region in turn: all of first place come before all of second, and within a place
    the higher score. Tokens that are `last` [V] come after all others, by score alone; order of choice."""
    place = rank_within(score.masked_fill(last, float("-inf")), region).masked_fill(last, len(score))
    order = score.argsort(descending=True, stable=True)
    return order[place[order].argsort(stable=True)][:count]


def shared(score: Tensor, region: Tensor, weight: Tensor, count: int, last: Tensor) -> Tensor:
    """`count` tokens, the best of each region, as many of it as its share of the `weight` [P] is worth, rounded down;
    what that leaves goes to the regions of most weight, one each. What a region cannot use, the best of the rest have.
    `last` as in `evenly`."""
    part = count * weight.double() / weight.double().sum()
    seats = part.floor()
    heavier = weight.argsort(descending=True, stable=True).argsort()
    seats = seats + (heavier < (count - seats.sum()).round())
    place = rank_within(score.masked_fill(last, float("-inf")), region)
    turn = (place >= seats[region]).to(torch.uint8).masked_fill(last, 2)
    order = score.argsort(descending=True, stable=True)
    return order[turn[order].argsort(stable=True)][:count]
