"""What a method cannot do with a model, known before anything is loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from debias import Debias
from eval.answering.checkpoints import layout
from eval.forks.setup import code_of
from pruners import Pruner
from pruners.engine.hooks import Run
from pruners.models import Adapter, adapter


def refusal(method: str, pruner: Pruner, backend: str, model: str, media: str) -> str | None:
    """Why a method cannot answer about pictures ("image") or clips ("video") on a model; None: it can."""
    try:
        return _authors(method, model, media) if backend == "fork" else _native(pruner, model, media)
    except ValueError as error:
        return str(error)


def _authors(method: str, model: str, media: str) -> str | None:
    film = layout(model).family.trend_media == "video"
    code_of(method, film)
    return None if film or media == "image" else f"{Path(model).name} takes pictures, not clips"


def _native(pruner: Pruner, model: str, media: str) -> str | None:
    family = outline(model)
    if media == "video" and type(family).clip is Adapter.clip:
        return f"models of type {family.model.config.model_type} take pictures, not clips"
    Run(pruner, family, Debias(), None)  # which refuses what it cannot do, and is never installed
    return None


@lru_cache(maxsize=4)
def outline(model: str) -> Any:
    """A checkpoint's architecture without its weights."""
    return adapter(model).outline(model)
