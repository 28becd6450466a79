"""What the vision tower knows of one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Patches:
    """N patches, h heads, C channels; the tower's CLS token is set apart."""

    attention: Tensor  # [h, N] the CLS query's weights on the patches, not renormalised without the CLS key
    features: Tensor  # [N, C] what the projector gets
    keys: Tensor  # [h, N, c] unscaled key vectors of the same layer
    cls: Tensor  # [C] the CLS token's own feature
    view: Tensor | None = None  # [N] on the CPU: which view of a tiled picture; -1: none (a newline). None: one view
