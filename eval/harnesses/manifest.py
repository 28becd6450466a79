"""What lmms-eval's entry point finds. It is read at every start of lmms-eval, so it imports nothing of ours."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model `debias`: lmms-eval takes the chat class, and the simple one with --force_simple."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "debias", simple_class_path="eval.harnesses.lmms.Simple", chat_class_path="eval.harnesses.lmms.Chat"
    )
