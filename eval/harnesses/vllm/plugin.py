"""What vLLM's entry point `vllm.general_plugins` finds. It runs in every process of a server and loads nothing.

Without settings only new names of architectures are added. With DEBIAS_VLLM set, the models of the families that we
know are the pruned ones.
"""

from __future__ import annotations

import os
from typing import Any

from eval.harnesses.vllm.settings import VARIABLE, read

ROOM = "eval.harnesses.vllm"
# vLLM's own architecture -> our subclass of it. Strings: imported when such a model is asked for.
MODELS = {
    "LlavaForConditionalGeneration": f"{ROOM}.llava:DebiasedLlava",
    "LlavaNextForConditionalGeneration": f"{ROOM}.llava_next:DebiasedLlavaNext",
    "InternVLForConditionalGeneration": f"{ROOM}.internvl:DebiasedInternVL",
    "Qwen2_5_VLForConditionalGeneration": f"{ROOM}.qwen2_5_vl:DebiasedQwen25VL",
}
PREFIX = "Debiased"  # what --hf-overrides puts before the name of an architecture


def register() -> None:
    """Tell vLLM of the pruned models."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    class AsksPositions(VerifyAndUpdateConfig):  # type: ignore[misc]  # vLLM need not be installed where types are checked
        """Has the engine ask the model for positions (positions.py), which it does where a configuration says this."""

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            model_config.hf_config.mrope_section = [1, 1, 1]

    text = os.environ.get(VARIABLE)
    if text:
        read(text, VARIABLE)  # what is wrong with it is said now, and not after the weights are loaded
    for name, place in MODELS.items():
        for known in (PREFIX + name, *([name] if text else [])):
            ModelRegistry.register_model(known, place)
            if name != "Qwen2_5_VLForConditionalGeneration":  # which says it of itself
                MODELS_CONFIG_MAP[known] = AsksPositions
