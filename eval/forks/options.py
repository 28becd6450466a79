"""What a native method's value, and a debias, are called in the authors' code: plain numbers that go over a pipe."""

from __future__ import annotations

import dataclasses
from typing import Any

from pruners import Pruner


def options(method: str, pruner: Pruner, tokens: int, layers: int) -> dict[str, Any]:
    """The fork's settings for a native method's value, or a ValueError that names what the fork cannot do."""
    cuts, counts = pruner.cuts(layers), pruner.counts(layers, tokens)
    at = [cut.layer for cut in cuts]
    fields: Any = pruner
    if method == "fastv":
        # "gather" is upstream's in-place mode, which has no cache and prunes again for every new token.
        return {"keep": counts[0], "layer": at[0], "inplace": fields.mode == "gather", "cache": fields.mode == "mask"}
    if method == "himap":
        if len(at) != 2 or counts[0] < counts[1]:
            raise ValueError(f"the fork of himap needs two cuts, the second no larger; got {counts} before layers {at}")
        return {"layers": at, "keeps": counts, "cache": False}
    if method == "pyramiddrop":
        # Over there a share is multiplied and truncated; half a token more survives the truncation.
        return {"layers": at, "ratios": [(count + 0.5) / tokens for count in counts]}
    if method == "sparsevlm":
        return {"layers": [layer - 1 for layer in at], "keeps": list(fields.chosen(tokens))[: len(at)], "keep": 0}
    if method == "tokencarve":
        if at != [2]:
            raise ValueError(f"the fork of tokencarve cuts before layer 2 and nowhere else; got {at}")
        if counts[0] < 2 or counts[0] / 2 * 3 > tokens:
            raise ValueError(
                f"the fork of tokencarve keeps from 2 to {tokens * 2 // 3} of {tokens} tokens; got {counts[0]}"
            )
        mode = {"both": 0, "information": 1, "attention": 2}[fields.rank]
        return {"keep": counts[0], "mode": mode, "weight": fields.weight}
    if method == "vispruner":
        return {"keep": counts[0], "important_ratio": fields.important_ratio}
    raise ValueError(
        "iLLaVA's own code runs LLaVA-OneVision and Qwen2-VL only, and no LLaVA-1.5; docs/differences.md tells "
        "what of it is tested. Use --backend native"
    )


def wire(value: Any) -> Any:
    """A debias, or a part of it, as JSON has it: the fields by which two of a kind can differ."""
    if not dataclasses.is_dataclass(value):
        return value
    return {field.name: wire(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare}
