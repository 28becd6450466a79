"""What CLIP's tower in vLLM knows of pictures: features, and the attention of [CLS] at the layer they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.models.clip import CLIPVisionModel

from pruners.engine.seen import Seen
from pruners.models.tower import Tower


class Opens:
    """Over a family's adapter: the tower of vLLM's model, which projects queries, keys and values at once."""

    model: Any

    @property
    def tower(self) -> Tower:
        """vLLM builds a tower up to the layer whose output is used, and no further."""
        module = self.model.vision_tower
        if not isinstance(module, CLIPVisionModel):
            raise ValueError(
                f"methods that read the vision tower are served with CLIP's alone, not {type(module).__name__}"
            )
        layers = module.vision_model.encoder.layers
        return Tower(module, layers, len(layers) - 1)

    def looking(self, attn: Any, asking: Tensor, states: Tensor, tables: Any) -> tuple[Tensor, Tensor, Tensor]:
        query, key = parts(attn, asking)[0], parts(attn, states)[1]
        return query, key, key

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.model.multi_modal_projector(features)
        return projected


@contextmanager
def watched(tower: Tower) -> Iterator[list[Seen]]:
    """What the tower sees while the block runs, one entry for each run."""
    layer, runs = tower.layers[tower.feature_layer], []

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        runs.append(Seen(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], None, []))

    def leave(module: Any, args: Any, output: Tensor) -> None:
        runs[-1].features = output

    hooks = [layer.self_attn.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def parts(attn: Any, states: Tensor) -> list[Tensor]:
    """Queries, keys and values [h, n, c] of normed [n, C], of all heads, also where several processes hold them."""
    found = []
    for part in attn.qkv_proj(states)[0].chunk(3, dim=-1):
        whole = tensor_model_parallel_all_gather(part) if attn.tp_size > 1 else part
        found.append(torch.unflatten(whole, -1, (-1, attn.head_dim)).transpose(0, 1))
    return found
