"""Choices for diversity, made one token after the other because each depends on all before it.

A choice takes as many steps as tokens are kept, each a few small operations on the device, which is asked for nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruners.view import View

NEVER = -float("inf")


def unit(states: Tensor) -> Tensor:
    """[..., C] `states`, each brought to length 1, in float32 at least."""
    return torch.nn.functional.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=-1)


def likeness(features: Tensor) -> Tensor:
    """[..., N, N] cosine similarity of `features` [..., N, C] with each other, in float32 at least."""
    own = unit(features)
    return own @ own.mT


def chosen(view: View, choose: Callable[[int, Tensor | None], Tensor]) -> Tensor:
    """The tokens that stay at a cut, ascending, where `choose(count, among)` chooses `count` of the tokens `among` [V]
    (None: of all). Silenced tokens take no part in that, and fill up in raster order what valid ones cannot."""
    if view.count == len(view.tokens):
        return torch.arange(view.count, device=view.tokens.slots.device)
    whole, valid = view.valid_on_host, view.valid
    if valid is None:
        return choose(view.count, None).sort().values
    assert whole is not None
    count = min(view.count, int(whole.sum()))
    border = valid.to(torch.uint8).argsort(stable=True)[: view.count - count]
    return torch.cat([choose(count, valid), border]).sort().values


def farthest(distance: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """`count` tokens in the order in which they are chosen, by the `distance` [N, N] between any two.

    The first is the token whose nearest neighbour is farthest away, each next that whose nearest chosen token is.
    Ties go to the earlier token. Only tokens `among` [N] are chosen, or counted as neighbours; there are `count`.
    """
    outside = torch.zeros_like(distance[0], dtype=torch.bool) if among is None else ~among
    self = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    nearest = distance.masked_fill(self | outside, -NEVER).amin(-1).masked_fill(outside, NEVER)[None]
    distance = distance.masked_fill(self | outside, NEVER)  # so that what is chosen is not chosen again
    order: list[Tensor] = []
    for step in range(count):
        best = nearest.argmax(-1)
        row = distance.index_select(0, best)
        nearest = torch.minimum(nearest, row) if step else row
        order.append(best)
    return torch.cat(order) if order else torch.arange(0, device=distance.device)


def determinantal(kernel: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """`count` tokens in the order in which they are chosen, each that which adds most to the determinant of the
    `kernel` [N, N] (symmetric, positive semidefinite) of all chosen ones: the most likely set of a determinantal point
    process, greedily.

    Once nothing adds to it, tokens follow by their own entry of the diagonal. Ties go to the earlier token. Only tokens
    `among` [N] are chosen, of which there are `count`. In float64, where a token that others span leaves a clear zero.
    """
    kernel = kernel.double()
    own = kernel.diagonal() if among is None else kernel.diagonal().masked_fill(~among, NEVER)
    nothing, spare = 1e-9 * kernel.diagonal(), own - kernel.diagonal().amax() - 1
    left = own[None]  # what each token would add
    basis = kernel.new_zeros(count, len(kernel))
    order: list[Tensor] = []
    for step in range(count):
        # A token that is chosen, or that others span, adds nothing from then on, whatever rounding makes of it.
        best = torch.where(left > nothing, left, spare).argmax(-1)
        before = basis[:step]
        along = torch.addmm(kernel.index_select(0, best), before.index_select(1, best).T, before, alpha=-1)
        along = along * left.index_select(1, best).rsqrt()
        basis[step : step + 1] = along
        left = torch.addcmul(left, along, along, value=-1)
        spare.index_fill_(0, best, NEVER)
        order.append(best)
    return torch.cat(order) if order else torch.arange(0, device=kernel.device)
