"""vLLM's Qwen2.5-VL with pruned pictures. Clips are not served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from eval.harnesses.vllm.model import Debiased
from eval.harnesses.vllm.processor import Dummies, Ready, Sized
from eval.harnesses.vllm.pruning import Pruning
from eval.harnesses.vllm.scout import Reads
from eval.harnesses.vllm.tower import parts
from pruners.models.qwen2_5_vl import Qwen25VL

GRID = "image_grid_thw"


class Qwen25VLInfo(Sized, Qwen2_5_VLProcessingInfo):  # type: ignore[misc]  # vLLM need not be installed where types are checked
    """How many tokens a picture has."""

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"image": self.get_max_image_tokens()}


class ReadyQwen25VL(Ready, Qwen2_5_VLMultiModalProcessor):  # type: ignore[misc]
    """Rounds pictures to whole tokens."""

    views = True

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        ready = super()._call_hf_processor(hf_data, hf_kwargs)
        ready["pixel_values"] = torch.cat(ready["pixel_values"])
        ready[GRID] = torch.stack(ready[GRID])
        return ready


class ServedQwen25VL(Reads, Qwen25VL):
    """The family's adapter on vLLM's model."""

    def looking(self, attn: Any, asking: Tensor, states: Tensor, tables: Any) -> tuple[Tensor, Tensor, Tensor]:
        query, key, _ = parts(attn, attn.qkv, states)
        cos, sin = (table.float() for table in tables)
        return self.rotate(query.float(), cos, sin), self.rotate(key.float(), cos, sin), key

    def looking_scale(self, attn: Any) -> float:
        return float(attn.hidden_size_per_attention_head**-0.5)


@MULTIMODAL_REGISTRY.register_processor(ReadyQwen25VL, info=Qwen25VLInfo, dummy_inputs=Dummies)
class DebiasedQwen25VL(Debiased, Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """vLLM's own model; what its tower makes of a picture is pruned before anything else sees it.

    Its positions are places in the picture, and what is left of one keeps its own.
    """

    served = ServedQwen25VL
    rows = GRID
    supports_mm_device_do_normalize = False  # our pictures come with normalised colours

    @property
    def behind(self) -> Any:
        return self.visual.merger.ln_q

    def tokens(self, mine: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of a picture's tokens."""
        merge = int(self.config.vision_config.spatial_merge_size)
        _, rows, columns = mine[GRID].tolist()
        return rows // merge, columns // merge

    def extent(self, pruning: Pruning, mine: Mapping[str, Any], kept: int) -> int:
        return max(self.tokens(mine))

    def places(self, pruning: Pruning, mine: Mapping[str, Any], place: Tensor) -> Tensor:
        _, columns = self.tokens(mine)
        return torch.stack([torch.zeros_like(place), place // columns, place % columns], 1)

    def everywhere(self, mine: Mapping[str, Any], slots: Tensor, length: int) -> Tensor:
        rows, columns = self.tokens(mine)
        steps = torch.ones(length, dtype=torch.long, device=slots.device).index_fill_(0, slots, 0)
        steps[slots[-1]] = max(rows, columns)
        positions = (steps.cumsum(0) - steps).expand(3, -1).contiguous()
        own = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(slots.device)
        positions[1:, slots] += own.T
        return positions

    def seen(self, positions: Tensor) -> Tensor:
        return positions
