"""The two layouts of a LLaVA-1.5 or Video-LLaVA: Hugging Face's, and the original that the authors' code reads.

Imported by the evaluation and, in the forks' own environments, by the worker: torch and safetensors only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Hugging Face name, old or new spelling -> original name. LLaVA's original keeps its vision tower in a folder of its
# own, Video-LLaVA's holds the weights of its two towers.
_TO_ORIGINAL = [
    (re.compile(r"^(?:model\.)?(image|video)_tower\.(?:vision_model\.)?"), r"model.\1_tower.\1_tower."),
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "model.vision_tower.vision_tower.vision_model."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
    (re.compile(r"^(?:language_model\.model|model\.language_model)\."), "model."),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "lm_head."),
]
_TO_HF = [
    (re.compile(r"^model\.(image|video)_tower\.\1_tower\."), r"\1_tower.vision_model."),
    (re.compile(r"^model\.vision_tower\.vision_tower\."), "vision_tower."),
    (re.compile(r"^model\.mm_projector\.0\."), "multi_modal_projector.linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), "multi_modal_projector.linear_2."),
    (re.compile(r"^model\."), "language_model.model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOWER = "model.vision_tower.vision_tower."
VIDEO_TOWERS = {"mm_image_tower": "LanguageBind_Image", "mm_video_tower": "LanguageBind_Video_merge"}
TEXT_FIELDS = (
    *("attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size"),
    *("initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps", "vocab_size"),
)


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, new in rules:
        if pattern.match(name):
            return pattern.sub(new, name, count=1)
    raise ValueError(f"weight '{name}' belongs to no part of a LLaVA-1.5 or Video-LLaVA (towers, projector, LLaMA)")


def to_original(name: str) -> str:
    """The original name of a weight; a ValueError if it belongs to no part of these models."""
    return _rename(name, _TO_ORIGINAL)


def to_hf(name: str) -> str:
    """The name that Hugging Face has for an original weight."""
    return _rename(name, _TO_HF)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint's folder."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json: expected the folder of a LLaVA checkpoint")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def is_original(config: dict[str, Any]) -> bool:
    """Whether a configuration is of the original layout."""
    return "mm_vision_tower" in config or "mm_video_tower" in config


def is_video(config: dict[str, Any]) -> bool:
    """Whether a configuration is of a Video-LLaVA, in either layout."""
    return "mm_video_tower" in config or config.get("model_type") == "video_llava"


def tower_folder(folder: Path, config: dict[str, Any], key: str = "mm_vision_tower") -> str:
    """Where an original checkpoint's vision tower is: a folder inside its own, another folder, or a hub id."""
    name = str(config[key])
    return str(Path(folder) / name) if (Path(folder) / name).is_dir() else name


def weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a folder by its own name: safetensors, or the .bin files of older checkpoints, tensors only."""
    folder = Path(folder)
    from safetensors import safe_open

    files = sorted(folder.glob("model*.safetensors"))  # a prior measured on the model may lie beside its weights
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                yield name, opened.get_tensor(name)
    if files:
        return
    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} holds neither model*.safetensors nor pytorch_model*.bin")
    for file in files:
        # weights_only: the file is read as tensors, never as a program.
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def theta(text: dict[str, Any]) -> float:
    """The rotary base, wherever this version of a configuration keeps it; scaled rotary tables are refused."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError(f"the forks' LLaMA knows plain rotary embeddings only; this checkpoint asks for {rope}")
    return float(rope.get("rope_theta", text.get("rope_theta", 10000.0)))


def original_config(config: dict[str, Any], tower: str) -> dict[str, Any]:
    """config.json of the original layout for a Hugging Face config; `tower` is the folder of LLaVA's vision tower."""
    text, vision, kind = config["text_config"], config["vision_config"], config.get("model_type")
    if text.get("model_type", "llama") != "llama" or kind not in ("llava", "video_llava"):
        raise ValueError(
            f"the forks run LLaVA-1.5 and Video-LLaVA on LLaMA; this is {kind} on {text.get('model_type')}"
        )
    if config.get("vision_feature_select_strategy", "default") != "default":
        raise ValueError("the forks drop the vision tower's CLS token; this checkpoint keeps it")
    made = {key: text[key] for key in TEXT_FIELDS if text.get(key) is not None}
    made.update(
        model_type="llava",
        architectures=["LlavaLlamaForCausalLM"],
        rope_theta=theta(text),
        tie_word_embeddings=False,
        pretraining_tp=1,
        **(VIDEO_TOWERS if kind == "video_llava" else {"mm_vision_tower": tower}),
        mm_hidden_size=vision["hidden_size"],
        mm_vision_select_layer=config.get("vision_feature_layer", -2),
        mm_vision_select_feature="patch",
        mm_projector_type="mlp2x_gelu",
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        use_mm_proj=True,
        image_aspect_ratio="pad",
    )
    return made


def hf_config(config: dict[str, Any], vision: dict[str, Any], tokens: dict[str, int]) -> dict[str, Any]:
    """config.json of the Hugging Face layout for an original one and the configuration of its vision tower.

    tokens: the ids of <image> and, for a Video-LLaVA, <video>."""
    text = {key: config[key] for key in (*TEXT_FIELDS, "rope_theta") if config.get(key) is not None}
    text.update(model_type="llama", vocab_size=max(int(config["vocab_size"]), *(id + 1 for id in tokens.values())))
    side, film = vision["image_size"] // vision["patch_size"], is_video(config)
    if vision.get("add_time_attn"):
        raise ValueError(
            "this Video-LLaVA's video tower attends over time, which Hugging Face's model cannot. --backend fork reads "
            "the original layout as it is"
        )
    clips = {"video_token_index": tokens["<video>"], "video_seq_length": 8 * (side**2 + 1)} if film else {}
    return {
        "model_type": "video_llava" if film else "llava",
        "architectures": [f"{'VideoLlava' if film else 'Llava'}ForConditionalGeneration"],
        "text_config": text,
        "vision_config": {**vision, "model_type": "clip_vision_model"},
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "image_token_index": tokens["<image>"],
        "image_seq_length": side**2,
        **clips,
        "tie_word_embeddings": False,
    }


def grow(name: str, weight: Tensor, rows: int) -> Tensor:
    """Embedding and head with `rows` rows: Hugging Face gives the image placeholder one. New rows are the mean."""
    if not name.endswith(("embed_tokens.weight", "lm_head.weight")) or len(weight) >= rows:
        return weight
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])
