"""Tiny seeded random models of every family, with tokenizers built in code: the real classes, nothing downloaded.

``model("qwen2_5_vl")`` is a few thousand weights; ``checkpoint("qwen2_5_vl", folder)`` writes the folder that
``from_pretrained`` reads. Weights are drawn wide enough that attention is far from uniform.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import pre_tokenizers

FAMILIES = ("llava", "llava_next", "video_llava", "llava_onevision", "internvl", "idefics3", "smolvlm")
FAMILIES += ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# Families with the parts of LLaVA: the name of their class, and what their configuration says besides.
LLAVAS = {"llava": ("Llava", {}), "llava_next": ("LlavaNext", {}), "video_llava": ("VideoLlava", {})}
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)


# tokenizers -----------------------------------------------------------------------------------------------------------
def llama_tokenizer(extra=()):
    """A Llama tokenizer (byte fallback, dummy prefix) whose words are those the real one knows in the Vicuna system
    text: "polite" and "USER" are two pieces, every other word is one."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for char in ["▁", *map(chr, range(33, 127))]:
        vocab.setdefault(char, len(vocab))
    merges: list[tuple[str, str]] = []
    words = [f"▁{word.strip('.,:')}" for word in VICUNA.replace("'s", "").split()]
    words = [{"▁polite": "▁pol", "▁USER": "▁US"}.get(word, word) for word in words] + ["▁What", "▁is", "▁human"]
    for word in [*words, "ite", "ER"]:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
            vocab.setdefault(word[:end], len(vocab))
    built = transformers.LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    built.add_special_tokens({"pad_token": "<pad>"})
    built.add_tokens([transformers.AddedToken(token, special=True, normalized=False) for token in extra])
    return built


def byte_tokenizer(extra=(), **named):
    """A Qwen2 tokenizer over bytes: every text goes there and back."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = transformers.Qwen2Tokenizer(
        vocab={**{letter: i for i, letter in enumerate(letters)}, "<|endoftext|>": 256}, merges=[], **named
    )
    built.add_tokens([transformers.AddedToken(token, special=True, normalized=False) for token in extra])
    return built


def tokenizer(family, text="qwen2"):
    """A tokenizer with the special tokens of a family. text: InternVL comes with Qwen2's or with LLaMA's."""
    if family == "internvl":
        names = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        extra = ["<|im_start|>", "<|im_end|>", *names.values()]
        return llama_tokenizer(extra) if text == "llama" else byte_tokenizer(extra, extra_special_tokens=names)
    if family in ("idefics3", "smolvlm"):
        signs = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>"]
        places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
        return byte_tokenizer([*signs, *places], bos_token="<|im_start|>")
    if family == "llava_onevision":
        return byte_tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    if family.startswith("qwen"):
        vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
        return byte_tokenizer(["<|im_start|>", "<|im_end|>", *vision])
    return llama_tokenizer(["<image>", "<video>"])


# models ---------------------------------------------------------------------------------------------------------------
def _llama(vocab, layers, **changes):
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "initializer_range": 0.2,
        **changes,
    }


def _clip(size, **changes):
    return {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": 14,
        "projection_dim": 32,
        **changes,
    }


def _mrope(vocab, layers, kind, **changes):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return {**_llama(vocab, layers), "model_type": kind, "rope_parameters": rope, **changes}


def config(family, layers=4, text="qwen2", **changes):
    """The family's config at toy size; ``changes`` go to its top level (for example ``image_grid_pinpoints``)."""
    names = tokenizer(family, text)
    vocab, token = len(names), names.convert_tokens_to_ids
    if family in LLAVAS:
        size = changes.pop("image_size", 84)
        ids = {"image_token_index": token("<image>"), "vision_config": _clip(size)}
        ids["text_config"] = _llama(vocab, layers)
        ids["image_seq_length"] = (size // 14) ** 2
        if family == "llava_next":
            ids["image_grid_pinpoints"] = [[size * a, size * b] for a, b in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
        if family == "video_llava":
            ids |= {"video_token_index": token("<video>"), "video_seq_length": 8 * (1 + (size // 14) ** 2)}
        kind, own = LLAVAS[family]
        return getattr(transformers, f"{kind}Config")(**{**ids, **own, **changes})
    if family == "llava_onevision":
        size = changes.pop("image_size", 84)
        ends = {"bos_token_id": None, "eos_token_id": token("<|im_end|>")}
        tiles = [[size * a, size * b] for a, b in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 3))]
        return transformers.LlavaOnevisionConfig(
            vision_config=_clip(size, model_type="siglip_vision_model", vision_use_head=False),
            text_config=_llama(vocab, layers, model_type="qwen2", **ends),
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            **{"image_grid_pinpoints": tiles, "vision_aspect_ratio": "anyres_max_2", **changes},
        )
    if family in ("idefics3", "smolvlm"):
        size, end = changes.pop("image_size", 84), token("<end_of_utterance>")
        vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        kind = {"idefics3": transformers.Idefics3Config, "smolvlm": transformers.SmolVLMConfig}[family]
        return kind(
            vision_config={**vision, "image_size": size, "patch_size": 14},
            text_config=_llama(vocab, layers, bos_token_id=token("<|im_start|>"), eos_token_id=end),
            image_token_id=token("<image>"),
            pad_token_id=end,
            **changes,
        )
    if family == "internvl":
        size = changes.pop("image_size", 112)
        vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        llm = _llama(vocab, layers, model_type=text)
        if text != "llama":
            llm |= {"bos_token_id": None, "eos_token_id": token("<|im_end|>")}
        return transformers.InternVLConfig(
            vision_config={**vision, "image_size": [size, size], "patch_size": [14, 14]},
            image_token_id=token("<IMG_CONTEXT>"),
            image_seq_length=(size // 28) ** 2,
            **{"text_config": llm, "tie_word_embeddings": False, **changes},
        )
    ids = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        **changes,
    }
    ends = {"bos_token_id": None, "eos_token_id": token("<|im_end|>")}
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    if family == "qwen2_vl":
        vision = {"depth": 3, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 4, "patch_size": 14}
        llm = _mrope(vocab, layers, "qwen2_vl_text", **ends)
        return transformers.Qwen2VLConfig(vision_config=vision, text_config=llm, **ids)
    if family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1, 3]}
        llm = _mrope(vocab, layers, "qwen2_5_vl_text", **ends)
        return transformers.Qwen2_5_VLConfig(**{"vision_config": vision, "text_config": llm, **ids})
    if family == "qwen3_vl":
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
        llm = _mrope(vocab, layers, "qwen3_vl_text", head_dim=8, **ends)
        return transformers.Qwen3VLConfig(vision_config=vision, text_config=llm, **ids)
    raise ValueError(f"no tiny model for {family!r}; there are {', '.join(FAMILIES)}")


def model(family, attention="sdpa", layers=4, seed=0, **changes):
    """A random model in evaluation mode."""
    settings = config(family, layers, **changes)
    settings._attn_implementation = attention
    name = type(settings).__name__.replace("Config", "ForConditionalGeneration")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = getattr(transformers, name)._from_config(settings, attn_implementation=attention)
        for key, weight in built.named_parameters():
            if "norm" not in key:  # some vision towers start from zero embeddings, which no test could tell apart
                torch.nn.init.normal_(weight, std=0.05 if key.endswith("bias") else 0.2)
    return built.eval()


def preprocessor(family, size=None):
    """What a hub repository's preprocessor_config.json says, at toy size."""
    if family.startswith("qwen"):
        patch = 16 if family == "qwen3_vl" else 14
        mean, std = (CLIP_MEAN, CLIP_STD) if patch == 14 else ([0.5] * 3, [0.5] * 3)
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 24 * (2 * patch) ** 2},
            "patch_size": patch,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": mean,
            "image_std": std,
            "resample": 3,
            "video_processor": {"size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 48 * (2 * patch) ** 2}},
        }
    if family == "internvl":
        size = size or 112
        return {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": size, "width": size},
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": 12,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
        }
    size = size or 84
    if family in ("idefics3", "smolvlm"):
        return {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": 2 * size},
            "max_image_size": {"longest_edge": size},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 1,
        }
    if family == "llava_onevision":
        return {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": {"height": size, "width": size},
            "image_grid_pinpoints": config(family, image_size=size).image_grid_pinpoints,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 3,
        }
    found = {
        "image_processor_type": f"{type(config(family)).__name__.replace('Config', '')}ImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
    }
    if family == "llava_next":
        found["image_grid_pinpoints"] = config(family, image_size=size).image_grid_pinpoints
    return found


def adapter(family, **changes):
    """The family's adapter, bound to a tiny model, with tokenizer and preprocessor settings."""
    import pruners.models

    settings = preprocessor(family, changes.get("image_size"))
    settings["video_processor"] = SimpleNamespace(**settings.get("video_processor", {}))
    names = tokenizer(family, changes.get("text", "qwen2"))
    return pruners.models.family(family)(model(family, **changes), SimpleNamespace(**settings), names)


def picture(width, height, seed=0):
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def checkpoint(family, folder, **changes):
    """Write model, tokenizer and preprocessor settings into ``folder`` and return it."""
    folder = Path(folder)
    model(family, **changes).save_pretrained(folder)
    tokenizer(family, changes.get("text", "qwen2")).save_pretrained(folder)
    settings = preprocessor(family, changes.get("image_size"))
    for name in ("video_processor", ""):
        part = settings.pop(name, None) if name else settings
        if part:
            file = folder / ("video_preprocessor_config.json" if name else "preprocessor_config.json")
            file.write_text(json.dumps(part), encoding="utf-8")
    return folder
