"""What a vision tower in vLLM knows of pictures: features, and the attention at the layer that methods read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.models.clip import CLIPVisionModel

from pruners.engine.seen import Seen
from pruners.parts.tower import Tower

TURNED = "rotary_pos_emb_cos"  # what a tower's attention is given where it turns its queries and keys


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
        """Queries of the `asking` and keys of all `states`, as a tower without rotation compares them; keys again."""
        query, key = parts(attn, attn.qkv_proj, asking)[0], parts(attn, attn.qkv_proj, states)[1]
        return query, key, key


@contextmanager
def watched(tower: Tower, behind: Any = None) -> Iterator[list[Seen]]:
    """What the tower sees while the block runs, one entry for each run. behind: the module that gets what the tower
    hands on, where vLLM may run the layer before it as a graph, in which no hook is heard."""
    looked, runs = getattr(tower.layers[tower.looked_at], tower.attention), []

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if TURNED not in kwargs:
            runs.append(Seen(states, None, []))
            return
        half = (kwargs[TURNED], kwargs[TURNED.replace("cos", "sin")])
        cos, sin = (table.repeat(1, 2) for table in half)
        runs.append(Seen(states[:, 0], (cos, sin), []))

    def leave(module: Any, args: Any, output: Tensor | None = None) -> None:
        features = args[0] if output is None else output
        runs[-1].features = features if runs[-1].tables is None else features[:, 0]

    hooks = [looked.register_forward_pre_hook(enter, with_kwargs=True)]
    if behind is None:
        hooks.append(tower.layers[tower.feature_layer].register_forward_hook(leave))
    else:
        hooks.append(behind.register_forward_pre_hook(leave))
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def parts(attn: Any, fused: Any, states: Tensor) -> list[Tensor]:
    """Queries, keys and values [h, n, c] of normed [n, C], of all heads, also where several processes hold them. fused:
    the attention's layer that projects all three."""
    heads, width = [], attn.head_dim if hasattr(attn, "head_dim") else attn.hidden_size_per_attention_head
    for part in fused(states)[0].chunk(3, dim=-1):
        whole = tensor_model_parallel_all_gather(part.contiguous()) if attn.tp_size > 1 else part
        heads.append(torch.unflatten(whole, -1, (-1, width)).transpose(0, 1))
    return heads
