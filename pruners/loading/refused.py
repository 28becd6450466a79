"""Families on which this mechanism cannot prune, and why: what anybody who names such a model reads."""

from __future__ import annotations

from collections.abc import Mapping

WINDOWS = (
    "most of its decoder layers see a sliding window of places in the cache, and tokens taken out before a layer would "
    "move what the window holds"
)
LINEAR = (
    "most of its decoder layers have linear attention, which folds all tokens into a single state: there are no "
    "weights to rank by, and no cache to take tokens out of"
)
TWO_WAYS = "its picture tokens attend to each other in both directions, and which do so is told by their places"

REFUSED: Mapping[str, str] = {
    "gemma3": f"{WINDOWS}; {TWO_WAYS}",
    "gemma3n": WINDOWS,
    "gemma4": WINDOWS,
    "paligemma": f"{TWO_WAYS}, the question among them",
    "cohere2_vision": WINDOWS,
    "llama4": "most of its decoder layers see chunks of places, which tokens that are taken out would move",
    "mllama": "its pictures are not tokens of the prompt: the decoder reads them in layers of cross-attention",
    "qwen3_5": LINEAR,
    "qwen3_5_moe": LINEAR,
    "minicpmv4_6": f"its language model is Qwen3.5: {LINEAR}",
    "minicpmv4_7": f"its language model is Qwen3.5: {LINEAR}",
}
