"""What vLLM's entry point `vllm.general_plugins` finds. It runs in every process of a server and loads nothing.

Without settings only new names of architectures are added. With DEBIAS_VLLM set, the models of the families that we
know are the pruned ones.
"""

from __future__ import annotations

import os

from eval.harnesses.vllm.settings import VARIABLE, read

ROOM = "eval.harnesses.vllm"
# vLLM's own architecture -> our subclass of it. Strings: imported when such a model is asked for.
MODELS = {
    "LlavaForConditionalGeneration": f"{ROOM}.llava:DebiasedLlava",
    "LlavaNextForConditionalGeneration": f"{ROOM}.llava_next:DebiasedLlavaNext",
}
PREFIX = "Debiased"  # what --hf-overrides puts before the name of an architecture


def register() -> None:
    """Tell vLLM of the pruned models."""
    from vllm import ModelRegistry

    for name, place in MODELS.items():
        ModelRegistry.register_model(PREFIX + name, place)
    text = os.environ.get(VARIABLE)
    if text:
        read(text, VARIABLE)  # what is wrong with it is said now, and not after the weights are loaded
        for name, place in MODELS.items():
            ModelRegistry.register_model(name, place)
