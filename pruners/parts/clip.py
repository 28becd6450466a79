"""CLIP's two projections: words and the patches of its vision tower, brought into one space."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pruners.loading.folder import checked, config_in, local
from pruners.loading.model import sentences
from pruners.models.base import Adapter


class Words:
    """The text tower of a CLIP checkpoint, and the projection of its vision tower."""

    def __init__(self, path: str) -> None:
        """path: a folder or hub id of a CLIPModel, whose vision tower is that of the model to prune."""
        from transformers import AutoModel, AutoTokenizer

        folder = local(path)
        config = config_in(folder)
        if config.get("model_type") != "clip":
            raise ValueError(
                f"{folder}/config.json: model_type is {config.get('model_type')!r}; expected 'clip', a checkpoint of "
                "CLIP with its text tower"
            )
        checked(folder)
        with sentences(folder):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
            self.model: Any = AutoModel.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        self.model.eval().requires_grad_(False)
        self.model.vision_model.encoder = None  # the model to prune has run it
        self.path = path

    def check(self, adapter: Adapter) -> None:
        """A ValueError unless the model's vision tower can be this checkpoint's, and the question can be read."""
        config, own = adapter.tower.module.config, self.model.config.vision_config
        if (config.model_type, config.hidden_size) != (own.model_type, own.hidden_size):
            raise ValueError(
                f"the vision tower of this model is {config.model_type} of width {config.hidden_size}, and that of "
                f"{self.path} is {own.model_type} of width {own.hidden_size}: its text tower belongs to another model"
            )
        if adapter.tokenizer is None:
            raise ValueError("the words of a question are read by a tokenizer: prune an adapter, not its model alone")

    def features_of_text(self, text: str, device: torch.device) -> Tensor:
        """[m, P] of unit length: the text, in as many stretches as CLIP needs to read it."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        room = int(self.model.config.text_config.max_position_embeddings) - 2
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        parts = [ids[at : at + room] for at in range(0, max(len(ids), 1), room)]
        model = self.model.to(device)
        rows = [model.text_model(torch.tensor([[begin, *part, end]], device=device)).pooler_output for part in parts]
        return torch.nn.functional.normalize(model.text_projection(torch.cat(rows)))

    def features_of_patches(self, features: Tensor) -> Tensor:
        """[N, P] of unit length: patches of the vision tower [N, C]."""
        model = self.model.to(features.device)
        projected = model.visual_projection(model.vision_model.post_layernorm(features.float()))
        return torch.nn.functional.normalize(projected)


@lru_cache(maxsize=2)
def words(path: str) -> Words:
    """A checkpoint, loaded once."""
    return Words(path)
