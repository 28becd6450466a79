"""SmolVLM: Idefics3 on a small tower and a small language model. https://arxiv.org/abs/2504.05299"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pruners.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """Pictures only: how a clip is told to the model, in words with times, is not worked out here."""

    known: ClassVar[tuple[str, ...]] = (
        "HuggingFaceTB/SmolVLM-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    prepared: ClassVar[Mapping[str, Any]] = {
        **Idefics3.prepared,
        "size": {"longest_edge": 4 * 384},
        "max_image_size": {"longest_edge": 384},
    }
