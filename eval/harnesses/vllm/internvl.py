"""vLLM's InternVL (checkpoints in the format of transformers) with pruned pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import BatchFeature
from vllm.model_executor.models.interns1 import (
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import BaseMultiModalProcessor

from eval.harnesses.vllm.model import Debiased
from eval.harnesses.vllm.processor import Dummies, Ready, Sized
from eval.harnesses.vllm.scout import Reads
from pruners.models.internvl import InternVL


class InternVLInfo(Sized, InternS1ProcessingInfo):  # type: ignore[misc]  # vLLM need not be installed where types are checked
    """How many tokens a picture has."""


class ReadyInternVL(Ready, InternS1MultiModalProcessor):  # type: ignore[misc]
    """Cuts pictures into tiles, with a thumbnail behind them."""

    views = True
    _apply_hf_processor_main = BaseMultiModalProcessor._apply_hf_processor_main

    def marked(self, ids: list[int]) -> list[int]:
        opened, closed = self.info.get_tokenizer().convert_tokens_to_ids(["<img>", "</img>"])
        first, count = ids.index(self.token), ids.count(self.token)
        return [*ids[:first], opened, *ids[first : first + count], closed, *ids[first + count :]]

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        ready = super()._call_hf_processor(hf_data, hf_kwargs)
        ready["image_num_patches"] = torch.tensor([len(tiles) for tiles in ready["pixel_values"]])
        ready["image_token_id"] = torch.tensor(self.token)
        ready["pixel_values"] = torch.cat(ready["pixel_values"])
        return ready


class ServedInternVL(Reads, InternVL):
    """The family's adapter on vLLM's model."""


@MULTIMODAL_REGISTRY.register_processor(ReadyInternVL, info=InternVLInfo, dummy_inputs=Dummies)
class DebiasedInternVL(Debiased, InternS1ForConditionalGeneration):  # type: ignore[misc]
    """vLLM's own model; what its tower makes of a picture is pruned before anything else sees it."""

    served = ServedInternVL
    rows = "image_num_patches"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        layer = int(vllm_config.model_config.hf_config.vision_feature_layer)
        if layer != -1:
            raise ValueError(f"vision_feature_layer={layer}: vLLM's InternVL takes the last layer alone")
        super().__init__(vllm_config=vllm_config, prefix=prefix)
