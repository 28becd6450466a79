"""A small random LLaVA with a tokenizer, as a folder: what every fork can load."""

from __future__ import annotations

import json

import pytest
import torch


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from tiny import tokenizer

    folder = tmp_path_factory.mktemp("llava")
    tokens = tokenizer.build()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=112, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=10,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokens.convert_tokens_to_ids("<image>"))
    )
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "embed" not in name:
            torch.nn.init.normal_(weight, 0, 1.5 * weight[0].numel() ** -0.5)
        elif "embed" in name:
            torch.nn.init.normal_(weight, 0, 1)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    edge = {"height": 112, "width": 112}
    prepared = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 112}, "crop_size": edge}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder
