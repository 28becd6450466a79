"""What the vision tower knows of one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Patches:
    """N tokens of the prompt by what the tower made of their patches, h heads, C channels; a CLS token is set apart.

    Where a token shows several patches, attention and keys are their means, and features lie side by side.
    """

    attention: Tensor  # [h, N] the CLS query's weights on the patches, not renormalised without the CLS key; in a tower
    # without a CLS token, the mean of all patches' weights on each
    features: Tensor  # [N, C] what the projector gets
    keys: Tensor  # [h, N, c] unscaled key vectors of the same layer, before any rotation
    cls: Tensor | None  # [C] the CLS token's own feature, or [views, C]; None: there is none, or it makes no token
    glances: tuple[Tensor, ...] = ()  # `attention` of each further layer that the method names
    view: Tensor | None = None  # [N] on the CPU: which view of the picture; -1: none (a newline). None: one view

    def at(self, tokens: Tensor, number: int) -> Patches:
        """What is known of some tokens of one view."""
        cls = None if self.cls is None else self.cls[number]
        glances = tuple(attention[:, tokens] for attention in self.glances)
        return Patches(self.attention[:, tokens], self.features[tokens], self.keys[:, tokens], cls, glances)

    def in_squares(self, side: int, fold: int, features: Tensor) -> Patches:
        """Of side x side tokens, each of which shows fold x fold of these patches, with `features` that were laid side
        by side: attention and keys are averaged. The CLS token is a single patch, of which no token is made."""
        grid = (side, fold, side, fold)
        attention = self.attention.unflatten(1, grid).mean((2, 4)).flatten(1)
        keys = self.keys.unflatten(1, grid).mean((2, 4)).flatten(1, 2)
        return replace(self, attention=attention, features=features, keys=keys, cls=None)

    def views(self) -> Iterator[Tensor]:
        """On the CPU, the tokens of each view, view by view."""
        assert self.view is not None
        for number in range(int(self.view.max()) + 1):
            yield (self.view == number).nonzero()[:, 0]


def joined(parts: list[Patches], shown: Tensor) -> Patches:
    """Several views as one picture, whose tokens show the patches `shown` [N] of them laid end to end (-1: none)."""
    here = parts[0].features.device
    size = len(parts[0].features)
    view = torch.where(shown < 0, -1, shown // size)
    at = shown.to(here, non_blocking=True)
    none, place = at < 0, at.clamp(min=0)
    known = [part.cls for part in parts if part.cls is not None]
    seen = zip(*((part.attention, *part.glances) for part in parts), strict=True)
    attention, *glances = (torch.cat(some, 1)[:, place].masked_fill(none, 0) for some in seen)
    return Patches(
        attention,
        torch.cat([part.features for part in parts])[place].masked_fill(none[:, None], 0),
        torch.cat([part.keys for part in parts], 1)[:, place].masked_fill(none[:, None], 0),
        torch.stack(known) if known else None,
        tuple(glances),
        view,
    )
