"""What the mechanism can do exactly, and one sentence for everything that it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Trend
from pruners.cut import Cut
from pruners.engine.masks import KERNELS
from pruners.method import Method
from pruners.models import Adapter


class Unsupported(ValueError):
    """Something that pruning could not do exactly."""


def checked(pruner: Method, layers: int) -> list[Cut]:
    """The pruner's cuts, or a ValueError that says what is wrong with them."""
    cuts, before = list(pruner.cuts(layers)), -1
    for cut in cuts:
        if not 0 <= cut.layer < layers:
            raise ValueError(f"{pruner} cuts before layer {cut.layer}, but the model has layers 0 to {layers - 1}")
        if cut.layer <= before:
            raise ValueError(f"{pruner} cuts before layer {cut.layer} after layer {before}; layers must ascend")
        if any(not max(before, 0) <= look < cut.layer for look in cut.also):
            raise ValueError(
                f"{pruner} reads layers {cut.also} at layer {cut.layer}; they must lie behind the cut before it"
            )
        before = cut.layer
    if not cuts:
        raise ValueError(f"{pruner} has no cut in a model of {layers} layers")
    if pruner.shrink_cache and len(cuts) > 1:
        raise ValueError(f"{pruner} cuts the cache of earlier layers, which is possible with a single cut only")
    return cuts


def refuse_unsupported(family: Adapter, kernel: str) -> None:
    """Raise where the decoder's attention is of a kind whose tokens cannot be taken out."""
    config = family.decoder.config
    types = getattr(config, "layer_types", None)
    if kernel not in KERNELS:
        raise Unsupported(f"attention {kernel!r} is not supported: load the model with one of {', '.join(KERNELS)}")
    if any(kind != "full_attention" for kind in types or ()) or (
        types is None and getattr(config, "sliding_window", None)
    ):
        raise Unsupported("models with sliding-window or linear-attention layers are not supported")


def refuse_reading(debias: Debias, pruner: Method) -> None:
    """Raise where scores before the rotary embedding are asked for, but only rotated keys are left to rank by."""
    if debias.reading is not None and not debias.reading.rope and pruner.mode == "mask":
        raise Unsupported(
            "mode='mask' ranks again at every step, from keys that are rotated already: scores before the rotary "
            "embedding need mode='gather'"
        )


def refuse_ranking(pruner: Method, cuts: Sequence[Cut]) -> None:
    """Raise where a method cannot rank anew at every step from the keys in the cache."""
    if pruner.mode == "mask" and (pruner.prunes_tower() or any(cut.source == "same" for cut in cuts)):
        raise Unsupported(
            f"{pruner}: mode='mask' ranks all tokens again at every step, from keys in the cache. A cut that reads the "
            "attention of its own layer, or tokens taken out inside the vision tower, need mode='gather'"
        )


def refuse_sinks(debias: Debias, cuts: Sequence[Cut]) -> None:
    """Raise where sinks are looked for in states that no decoder layer has made yet."""
    first = cuts[0]
    if debias.padding is not None and not debias.padding.placed and (first.layer == 0 or first.source == "tower"):
        raise ValueError(
            "sinks show in the states that decoder layers make, and this method cuts before the first layer: "
            "use another padding rule"
        )


def refuse_unsized(debias: Debias, family: Adapter, sizes: Sequence[Any] | None) -> None:
    """Raise where padding is to be silenced, but nothing says how large the pictures were before they were padded."""
    if debias.padding is not None and debias.padding.placed and family.pads and sizes is None:
        raise ValueError(
            "this debias silences padding and needs the size of every image before padding: "
            "pass sizes=[(width, height), ...]"
        )


def refuse_trends(trends: Sequence[Trend] | None, pictures: int) -> None:
    """Raise unless there is one trend for each picture or clip of the batch."""
    if trends is not None and len(trends) != pictures:
        raise ValueError(f"the batch holds {pictures} pictures or clips, but {len(trends)} trends were given")


def refuse_cache(cache: Any, kernel: str) -> None:
    """Raise where tokens cannot be taken out of this kind of cache."""
    kinds = {type(layer).__name__ for layer in cache.layers} if cache is not None else set()
    if kinds - {"DynamicLayer", "StaticLayer"} or getattr(cache, "offloading", False):
        raise Unsupported(
            f"a cache of {', '.join(sorted(kinds))} is not supported: use a plain dynamic or static cache"
        )
    if "StaticLayer" in kinds and kernel.startswith("flash"):
        raise Unsupported(
            "a static cache with flash attention is not supported: use a dynamic cache, or attention='sdpa'"
        )


def warn_anew(before: Tensor | None, ids: Tensor) -> None:
    """Tell who decodes without a cache that every token is a prompt of its own."""
    if before is None or ids.shape != (before.shape[0], before.shape[1] + 1) or not torch.equal(ids[:, :-1], before):
        return
    warnings.warn(
        "use_cache=False: every new token reads the whole prompt again and ranks its visual tokens anew, by its own "
        "attention, so that answers differ from those with a cache. Leave use_cache on to rank once, at the prompt.",
        stacklevel=2,
    )


def is_empty(cache: Any, trusted: bool) -> bool:
    """Whether nothing was read yet. A static cache would have to ask the device, unless this run filled it."""
    if cache is None:
        return True
    seen = cache.get_seq_length()
    return not (isinstance(seen, Tensor) and trusted) and int(seen) == 0
