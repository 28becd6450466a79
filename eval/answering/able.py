"""What a method cannot do with a model, told in one sentence before anything is loaded or a folder is made.

What needs no torch to be known stands in early.py.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from debias import Debias
from eval.answering import early, trends
from eval.answering.checkpoints import config_of, layout
from eval.core.settings import Settings
from eval.forks.setup import code_of
from pruners import Pruner
from pruners.engine.hooks import Run
from pruners.engine.limits import checked, refuse_sinks
from pruners.engine.prefix import check_shared
from pruners.models import Adapter, adapter


def refusal(method: str, pruner: Pruner, backend: str, model: str, media: str) -> str | None:
    """Why a method cannot answer about pictures ("image") or clips ("video") on a model; None: it can."""
    try:
        if backend == "fork":
            film = layout(model).family.trend_media == "video"
            code_of(method, film)
            return None if film or media == "image" else f"{Path(model).name} takes pictures, not clips"
        family = outline(model)
        if media == "video" and type(family).clip is Adapter.clip:
            return f"models of type {family.model.config.model_type} take pictures, not clips"
        Run(pruner, family, Debias(), None)  # which refuses what it cannot do, and is never installed
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=4)
def outline(model: str) -> Any:
    """A checkpoint's architecture without its weights."""
    return adapter(model).outline(model)


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
