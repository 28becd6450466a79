"""Pictures on their way into the engine: made ready as our adapters do it, with places for the tokens that are left.

What decides a picture's tokens travels with it, and is part of the name under which vLLM caches it: method, keep, arm,
every other setting, and the prompt where the method reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems
from vllm.multimodal.processing import BaseDummyInputsBuilder, PromptReplacement, PromptUpdateDetails

from eval.harnesses.vllm.pruning import KEY, OURS, PROMPT, SOURCE, TOKENS, Pruning, Prunings, written
from eval.harnesses.vllm.settings import EXAMPLE, Asked, asked_of, read

ASKED = "debias"  # among the keyword arguments of a request


class Sized:
    """Over a family's ProcessingInfo: the most tokens that a picture may have are those that the server keeps."""

    @property
    def prunings(self) -> Prunings:
        """The prunings of this checkpoint, made once."""
        if not hasattr(self, "_prunings"):
            model = self.ctx.model_config  # type: ignore[attr-defined]
            self._prunings = Prunings(str(model.model), model.hf_config)
            self._prunings.adapter.tokenizer = self.ctx.tokenizer  # type: ignore[attr-defined]
        return self._prunings

    @property
    def asked(self) -> Asked:
        """What the server was told; this model is not asked for without."""
        known = asked_of(self.prunings.config)
        if known is None:
            raise ValueError(f'a pruned model without settings; expected "debias" in --hf-overrides, such as {EXAMPLE}')
        return known

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of pictures, and nothing else."""
        return {"image": None}

    def get_num_image_tokens(self, **size: Any) -> int:
        """How many tokens go on of a picture, which vLLM describes by its size."""
        return self.prunings(self.asked).count(super().get_num_image_tokens(**size))  # type: ignore[misc]


class Dummies(BaseDummyInputsBuilder[Any]):  # type: ignore[misc]  # vLLM need not be installed where types are checked
    """Pictures of the most tokens, for which the engine plans its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A prompt with so many pictures."""
        token: str = self.info.get_tokenizer().convert_ids_to_tokens(int(self.info.get_hf_config().image_token_id))
        return token * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Mapping[str, Any]:
        """The pictures."""
        largest = self.info.get_image_size_with_most_features()
        count = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(width=largest.width, height=largest.height, num_images=count)}


class Ready:
    """Over a family's processor."""

    info: Any
    views: ClassVar[bool] = False  # whether a picture has several: tiles, patches

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """The prompt and its pictures as the engine takes them; settings of the request are read and checked here."""
        given = dict(inputs.hf_processor_mm_kwargs)
        own = given.pop(ASKED, None)
        asked = self.info.asked if own is None else read(own, f"mm_processor_kwargs, {ASKED}")
        given[ASKED] = asked.key
        pictures = inputs.mm_data_items.get_count("image", strict=False)
        if self.info.prunings(asked).reads_prompt and pictures:  # what cannot be done is refused here
            if pictures > 1:
                raise ValueError(f"{asked.method} reads the prompt, and takes one picture in it")
            given[PROMPT] = self.marked(list(inputs.prompt))
        return super().apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)  # type: ignore[misc]

    def pruning(self, hf_kwargs: Mapping[str, object]) -> Pruning:
        """The pruning that a request asks for."""
        ready: Pruning = self.info.prunings(read(str(hf_kwargs[ASKED]), ASKED))
        return ready

    @property
    def token(self) -> int:
        """The id that stands for a picture."""
        return int(self.info.get_hf_config().image_token_id)

    def marked(self, ids: list[int]) -> list[int]:
        """Ids with a picture's tokens in them, and the marks around these that vLLM adds for the family."""
        return ids

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        adapter = self.info.prunings.adapter
        given: Any = hf_data["images"]
        pictures = [opened(image) for image in given]
        shown = [adapter.picture(picture) for picture in pictures]
        ready: dict[str, Any] = {}
        for name in shown[0].inputs:
            values = [picture.inputs[name] for picture in shown]
            ready[name] = values if self.views and name == "pixel_values" else [value[0] for value in values]
        ready[SOURCE] = torch.tensor([picture.size for picture in pictures])
        ready[TOKENS] = torch.tensor([picture.ids.count(self.token) for picture in shown])
        ready[KEY] = [written(str(hf_kwargs[ASKED]))] * len(shown)
        if PROMPT in hf_kwargs:
            ready[PROMPT] = [torch.tensor(hf_kwargs[PROMPT])] * len(shown)
        return BatchFeature(ready)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, Any]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        for name in OURS:
            fields[name] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        pruning, token = self.pruning(hf_processor_mm_kwargs), self.token
        most = self.info.prunings(self.info.asked)

        def placeholders(item: int) -> Any:
            images = mm_items["image"]
            if isinstance(images, ImageEmbeddingItems):  # made elsewhere, and taken as they are
                return placed(int(images.get_feature_size(item)))
            tokens = int(out_mm_kwargs["image"][item][TOKENS].data)
            count = pruning.count(tokens)
            if count > most.count(tokens):
                raise ValueError(
                    f"{ASKED}: {count} tokens of a picture are asked for, and the server was started for "
                    f"{most.count(tokens)} at most"
                )
            return placed(count)

        def placed(count: int) -> Any:
            return PromptUpdateDetails.select_token_id(self.marked([token] * count), token)

        return [PromptReplacement(modality="image", target=[token], replacement=placeholders)]


def opened(image: Any) -> Image.Image:
    """A picture as PIL has it; the engine may also hand over [H, W, 3] numbers from 0 to 255."""
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected a picture, or [height, width, 3] bytes; found {pixels.dtype} {list(pixels.shape)}")
    return Image.fromarray(pixels)
