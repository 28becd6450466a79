"""Writes a trained model as a folder that `from_pretrained` and `AutoProcessor` load."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from tiny.model import PATCH
from tiny.tokenizer import PATCHES

WEIGHTS = "model.safetensors"
TOWER = re.compile(r"((?:vision|image|video)_tower\.)(?!vision_model\.)")


class Saved(Protocol):
    """A tokenizer, a processor: anything that is saved beside the weights."""

    def save_pretrained(self, save_directory: Path, /) -> Any:
        """Write its files into a folder."""


def processor(tokens: PreTrainedTokenizerFast, side: int = PATCHES * PATCH, marker: str = "<image>") -> LlavaProcessor:
    """Padding on, as LLaVA-1.5 was trained: the resize and the crop then change a picture of this side in no way."""
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    return LlavaProcessor(
        images,
        tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=marker,
        chat_template=tokens.chat_template,
    )


def write(model: PreTrainedModel, tokens: PreTrainedTokenizerFast, handlers: Sequence[Saved], folder: Path) -> None:
    """Weights as 16-bit floats to keep the repository small; the config says float32, so loading widens them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    model.set_attn_implementation("sdpa")
    state = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    as_published(folder)
    as_float32(folder / "config.json", json.loads((folder / "config.json").read_text()))
    for handler in handlers:
        handler.save_pretrained(folder)


def as_float32(path: Path, config: dict[str, Any]) -> None:
    """Writes a configuration that has weights widened when they are loaded."""
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
        part.pop("_name_or_path", None)  # where this machine keeps a language model
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_published(folder: Path) -> None:
    """Give the weights of a saved folder the names that checkpoints on the hub have.

    transformers saves a CLIP tower without the `vision_model.` of the published names. It reads both; other programs,
    vLLM among them, know the published ones alone.
    """
    state = load_file(folder / WEIGHTS)
    save_file(
        {TOWER.sub(r"\1vision_model.", name): tensor for name, tensor in state.items()},
        folder / WEIGHTS,
        {"format": "pt"},
    )
    (folder / WEIGHTS).chmod(0o644)


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model and the processor of a folder."""
    return LlavaForConditionalGeneration.from_pretrained(folder), LlavaProcessor.from_pretrained(folder)
