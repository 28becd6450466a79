"""What a method cannot do as it was asked, told in one sentence before anything is loaded or a folder is made.

What needs no torch to be known stands in early.py.
"""

from __future__ import annotations

from typing import Any

from debias import Debias
from eval.answering import early, trends
from eval.answering.checkpoints import config_of
from eval.core.settings import Settings
from pruners import Pruner
from pruners.engine.limits import checked, refuse_sinks
from pruners.engine.prefix import check_shared


def check(settings: Settings, pruner: Pruner, model: str) -> None:
    """ValueError for a padding rule, a layer or a sharing of layers that the method or the model does not have."""
    padding = trends.padded(settings.padding)
    if padding is not None:
        refuse_sinks(Debias(padding=padding), pruner.cuts(32))
    depth = early.depth_of(model)
    cuts(pruner, depth)
    if settings.share_prefix:
        try:
            check_shared(pruner, depth, (config_of(model).get("vision_config") or {}).get("num_hidden_layers", 24))
        except ValueError as error:
            raise ValueError(f"{error}; leave out --share-prefix") from None


def cuts(pruner: Any, depth: int) -> None:
    """ValueError for a budget that no model can have, or a layer that this model does not have."""
    early.check_keep(getattr(pruner, "keep", None))
    checked(pruner, depth)
