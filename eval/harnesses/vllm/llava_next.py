"""vLLM's LLaVA-NeXT with pruned pictures."""

from __future__ import annotations

from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from eval.harnesses.vllm.model import Debiased
from eval.harnesses.vllm.processor import Dummies, Ready, Sized
from eval.harnesses.vllm.scout import Reads
from eval.harnesses.vllm.tower import Opens
from pruners.models.llava_next import LlavaNext


class LlavaNextInfo(Sized, LlavaNextProcessingInfo):  # type: ignore[misc]  # vLLM need not be installed where types are checked
    """How many tokens a picture has."""


class ReadyLlavaNext(Ready, LlavaNextMultiModalProcessor):  # type: ignore[misc]
    """Cuts pictures into tiles on a canvas, as LLaVA-NeXT was trained."""

    views = True


class ServedLlavaNext(Opens, Reads, LlavaNext):
    """The family's adapter on vLLM's model."""


@MULTIMODAL_REGISTRY.register_processor(ReadyLlavaNext, info=LlavaNextInfo, dummy_inputs=Dummies)
class DebiasedLlavaNext(Debiased, LlavaNextForConditionalGeneration):  # type: ignore[misc]
    """vLLM's own model; what its tower makes of a picture is pruned before anything else sees it."""

    served = ServedLlavaNext
