"""The small random LLaVA that golden files speak of: rebuilt, bit for bit, wherever it is needed.

Weights come from whole random numbers, which every platform draws alike; a digest in each golden file proves it.
Runs in the forks' old environments too: torch and debias only. Names and shapes are those of a Hugging Face LLaVA-1.5.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Padding, Trend

START, TOKENS, IMAGE_ID, VOCAB = 35, 576, 126, 128
SIZE = (640, 480)  # what the picture is taken to have been before it was made square
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "projection_dim": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
CONFIG: dict[str, Any] = {
    "model_type": "llava",
    "text_config": TEXT,
    "vision_config": VISION,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "image_token_index": IMAGE_ID,
    "image_seq_length": TOKENS,
    "tie_word_embeddings": False,
}


def draw(name: str, seed: int, *shape: int) -> Tensor:
    """Numbers in [-1, 1), the same everywhere: float arithmetic on whole random numbers that is exact."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    return torch.randint(-(2**15), 2**15, shape, generator=generator).float() / 2**15


def shapes() -> dict[str, list[int]]:
    d, v, f, w = TEXT["hidden_size"], VISION["hidden_size"], TEXT["intermediate_size"], VISION["intermediate_size"]
    made = {"language_model.model.embed_tokens.weight": [VOCAB, d], "language_model.lm_head.weight": [VOCAB, d]}
    made["language_model.model.norm.weight"] = [d]
    for i in range(TEXT["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        made.update({f"{layer}self_attn.{p}_proj.weight": [d, d] for p in "qkvo"})
        made.update({f"{layer}mlp.{p}_proj.weight": [f, d] for p in ("gate", "up")})
        made.update({f"{layer}mlp.down_proj.weight": [d, f]})
        made.update({f"{layer}{p}_layernorm.weight": [d] for p in ("input", "post_attention")})
    tower = "vision_tower.vision_model."
    made[f"{tower}embeddings.class_embedding"] = [v]
    made[f"{tower}embeddings.patch_embedding.weight"] = [v, 3, VISION["patch_size"], VISION["patch_size"]]
    made[f"{tower}embeddings.position_embedding.weight"] = [TOKENS + 1, v]
    norms = ["pre_layrnorm", "post_layernorm"]
    for i in range(VISION["num_hidden_layers"]):
        layer = f"encoder.layers.{i}."
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
        for p, rows, columns in (
            *((f"self_attn.{p}", v, v) for p in ("k_proj", "v_proj", "q_proj", "out_proj")),
            ("mlp.fc1", w, v),
            ("mlp.fc2", v, w),
        ):
            made.update({f"{tower}{layer}{p}.weight": [rows, columns], f"{tower}{layer}{p}.bias": [rows]})
    made.update({f"{tower}{norm}.{p}": [v] for norm in norms for p in ("weight", "bias")})
    for name, columns in (("linear_1", v), ("linear_2", d)):
        made.update({f"multi_modal_projector.{name}.weight": [d, columns], f"multi_modal_projector.{name}.bias": [d]})
    return made


def weights(seed: int) -> dict[str, Tensor]:
    """Wide enough that attention is far from uniform, so that the choice of tokens does not hang on rounding."""
    made = {}
    for name, shape in shapes().items():
        value = draw(name, seed, *shape)
        if "norm" in name and name.endswith("weight"):
            value = 1 + value / 8
        elif len(shape) == 1 and not name.endswith("class_embedding"):
            value = value / 8
        elif "embed" not in name or "patch_embedding" in name:
            value = value * math.sqrt(3 / math.prod(shape[1:]))
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value = value * 1.5
        made[name] = value
    return made


def digest(state: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def sorting() -> str:
    """What decides the order of equal numbers, which PyTorch leaves open."""
    return f"torch {torch.__version__.split('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def pixels(seed: int) -> Tensor:
    """[1, 3, 336, 336]: coarse blocks with noise on them."""
    coarse = draw("coarse", seed, 1, 3, 12, 12).repeat_interleave(28, 2).repeat_interleave(28, 3)
    return coarse + draw("fine", seed, 1, 3, 336, 336) / 2


def debias(arm: str = "none") -> Debias:
    """An arm with a trend steep enough to change what is kept."""
    trend = Trend.exponential(0.004) if arm in ("trend", "both") else None
    return Debias(trend, Padding() if arm in ("padding", "both") else None)


def prompt(seed: int, words: int = 24) -> list[int]:
    """Token ids with one placeholder for the image, at START as in vicuna_v1."""
    text = ((draw("prompt", seed, START - 1 + words) + 1) / 2 * (IMAGE_ID - 3)).long() + 3
    return [1, *text[: START - 1].tolist(), IMAGE_ID, *text[START - 1 :].tolist()]
