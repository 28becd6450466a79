"""Models of real shapes with random weights, made on the device: what speed is measured on. Nothing is downloaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from debias import Span
from eval.speed.shapes import AFTER, BEFORE, CLIP_TINY, Architecture
from pruners.models.llava import Llava
from pruners.models.request import Size


class Laid(Llava):
    """LLaVA's adapter for any number of visual tokens: one picture a row, its tokens side by side."""

    tokens = 576
    whole = True  # with the shape's vision tower
    ragged = 0  # how many tokens less every second row of a batch has

    @classmethod
    def load_processor(cls, path: str) -> tuple[Any, Any]:
        return None, None  # random weights know no words

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        side = round(self.tokens**0.5)
        grid = (side, side) if side * side == self.tokens else (1, self.tokens)
        size = None if sizes is None else sizes[0]
        return [[Span(BEFORE, grid, size=size if grid[0] > 1 else None)] for _ in inputs["input_ids"]]


def configuration(shape: Architecture, tower: Mapping[str, int], layers: int) -> Any:
    """LLaVA's, of these sizes."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    sizes: dict[str, Any] = dict(tower)
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.groups,
            max_position_embeddings=8192,
        ),
        image_token_index=shape.vocabulary - 1,
    )


def build(
    shape: Architecture, tokens: int, device: str, dtype: torch.dtype, attention: str, shared_layers: bool = False
) -> Laid:
    """The model with random weights, its visual features fixed unless the shape has a tower for that many tokens."""
    from transformers import LlavaForConditionalGeneration

    whole = shape.tower is not None and tokens == (shape.tower["image_size"] // shape.tower["patch_size"]) ** 2
    tower = shape.tower if whole and shape.tower else CLIP_TINY
    config = configuration(shape, tower, 1 if shared_layers else shape.layers)
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    if shared_layers:
        _repeat_layer(model.model.language_model, shape.layers)
    family = Laid(model)
    family.tokens, family.whole = tokens, whole
    if not whole:
        _fix_features(model, torch.randn(tokens, shape.width, device=device, dtype=dtype))
    return family


def _repeat_layer(decoder: Any, times: int) -> None:
    """Make a decoder of one layer that deep: every layer has its own place in the cache, and all the same weights."""
    first = decoder.layers[0]
    for number in range(1, times):
        layer = copy.deepcopy(first, {id(weight): weight for weight in first.parameters()})
        layer.self_attn.layer_idx = number
        decoder.layers.append(layer)
    decoder.config.num_hidden_layers = times


def _fix_features(model: Any, features: Tensor) -> None:
    """The same features for every picture: the tower is not part of what is measured."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def fixed(pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        listed: Any = [features] * len(pixel_values)
        return BaseModelOutputWithPooling(pooler_output=listed)

    model.model.get_image_features = fixed


def prompt(family: Laid, batch: int, seed: int = 1) -> dict[str, Tensor]:
    """Random text around one picture, `batch` times; padding on the left of the shorter rows."""
    config, device = family.model.config, family.model.device
    dice = torch.Generator().manual_seed(seed)
    text = torch.randint(3, config.text_config.vocab_size - 1, (batch, BEFORE + AFTER), generator=dice)
    ids = torch.full((batch, BEFORE + family.tokens + AFTER), config.image_token_id)
    ids[:, :BEFORE], ids[:, BEFORE + family.tokens :] = text[:, :BEFORE], text[:, BEFORE:]
    mask = torch.ones_like(ids)
    mask[1::2, : family.ragged] = 0
    edge = config.vision_config.image_size
    pixels = torch.randn(batch, 3, edge, edge, generator=dice)
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "pixel_values": pixels.to(device, family.model.dtype),
    }
