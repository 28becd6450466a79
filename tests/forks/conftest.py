"""A small random LLaVA and Video-LLaVA with a tokenizer, as folders: what every fork can load."""

from __future__ import annotations

import json

import pytest
import torch


def parts(tokens, side):
    """The configurations of a tower with `side` x `side` patches, and of a LLaMA."""
    from transformers import CLIPVisionConfig, LlamaConfig

    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=14 * side,
        patch_size=14,
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
    return {"vision_config": vision, "text_config": text}


def save(model, tokens, folder):
    """With weights drawn wide, so that attention is far from uniform."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "embed" not in name:
            torch.nn.init.normal_(weight, 0, 1.5 * weight[0].numel() ** -0.5)
        elif "embed" in name:
            torch.nn.init.normal_(weight, 0, 1)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    side = model.config.vision_config.image_size
    edge = {"height": side, "width": side}
    prepared = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "crop_size": edge}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from tiny import tokenizer

    tokens = tokenizer.build()
    torch.manual_seed(0)
    config = LlavaConfig(**parts(tokens, 8), image_token_index=tokens.convert_tokens_to_ids("<image>"))
    return save(LlavaForConditionalGeneration(config), tokens, tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def video_checkpoint(tmp_path_factory):
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

    from tiny import tokenizer

    tokens = tokenizer.build()
    torch.manual_seed(0)
    image, video = tokens.convert_tokens_to_ids(["<image>", "<video>"])
    lengths = {"image_seq_length": 16, "video_seq_length": 8 * 17}
    config = VideoLlavaConfig(**parts(tokens, 4), image_token_index=image, video_token_index=video, **lengths)
    return save(VideoLlavaForConditionalGeneration(config), tokens, tmp_path_factory.mktemp("video-llava"))
