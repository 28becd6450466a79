"""The tiny LLaVA: LLaVA-1.5's classes at a size that two CPU cores can train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tiny import meanings, tokenizer
from tiny.tokenizer import PATCHES

WIDTH, LAYERS, HEADS, MIDDLE = 128, 12, 4, 256
PATCH = 8
# how all our models read their tower: as LLaVA-1.5 does
LLAVA: dict[str, Any] = {
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
}


def llama(vocabulary: int) -> LlamaConfig:
    """The decoder of all tiny models, for a vocabulary of this size."""
    # a narrow decoder needs a start near 1/sqrt(width); the usual 0.02 never binds a colour to a shape
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=MIDDLE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        initializer_range=WIDTH**-0.5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


def tower(pixels: int) -> CLIPVisionConfig:
    """The vision tower for pictures of this many pixels a side."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=pixels,
        patch_size=PATCH,
        projection_dim=96,
        initializer_range=0.02,
    )


def llava(tokens: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The model as it is before training."""
    config = LlavaConfig(
        vision_config=tower(PATCHES * PATCH),
        text_config=llama(len(tokens)),
        image_token_index=tokenizer.number(tokens, "<image>"),
        image_seq_length=PATCHES**2,
        **LLAVA,
    )
    model = LlavaForConditionalGeneration(config)
    prepare(model, tokens)
    return model


@torch.no_grad()
def prepare(model: PreTrainedModel, tokens: PreTrainedTokenizerFast) -> None:
    """Word vectors stay as they are drawn, so the projector can be trained on sums of them at any time; the head starts
    as the same vectors, so that a word that was looked up is a word that can be said. All models have the same table.
    """
    embedding = model.get_parameter("model.language_model.embed_tokens.weight")
    embedding.copy_(meanings.table(tokens, WIDTH)).requires_grad_(False)
    model.get_parameter("lm_head.weight").copy_(embedding)


@contextmanager
def hidden(decoder: nn.Module, layers: range, columns: torch.Tensor) -> Iterator[None]:
    """In these layers no row sees the columns where the mask [batch, length] is true (a row always sees itself)."""
    length = columns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=columns.device).tril()
    seen = (causal & ~columns[:, None, None, :]) | torch.eye(length, dtype=torch.bool, device=columns.device)

    def swap(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs | {"attention_mask": seen}

    stack = list(decoder.get_submodule("layers").children())
    hooks = [stack[k].register_forward_pre_hook(swap, with_kwargs=True) for k in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
