"""vLLM's LLaVA-1.5 with pruned pictures."""

from __future__ import annotations

from vllm.model_executor.models.llava import (
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from eval.harnesses.vllm.model import Debiased
from eval.harnesses.vllm.processor import Dummies, Ready, Sized
from eval.harnesses.vllm.scout import Reads
from eval.harnesses.vllm.tower import Opens
from pruners.models.llava import Llava


class LlavaInfo(Sized, LlavaProcessingInfo):  # type: ignore[misc]  # vLLM need not be installed where types are checked
    """How many tokens a picture has."""


class ReadyLlava(Ready, LlavaMultiModalProcessor):  # type: ignore[misc]
    """Pads pictures to a square, as LLaVA-1.5 was trained."""


class ServedLlava(Opens, Reads, Llava):
    """The family's adapter on vLLM's model."""


@MULTIMODAL_REGISTRY.register_processor(ReadyLlava, info=LlavaInfo, dummy_inputs=Dummies)
class DebiasedLlava(Debiased, LlavaForConditionalGeneration):  # type: ignore[misc]
    """vLLM's own model; what its tower makes of a picture is pruned before anything else sees it."""

    served = ServedLlava
