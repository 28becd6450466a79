"""The scout: the first layers of vLLM's decoder, run once over a prompt and its whole picture, ahead of the engine.

It reads what the method reads at its cut, so that it keeps the same tokens. What follows differs from the method: the
engine runs the first layers again, over the tokens that are left, and numbers these without gaps. Methods that read the
tokens as they enter the decoder, or nothing, need none of its layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from eval.harnesses.vllm.pruning import Pruning
from pruners.cut import Cut
from pruners.engine.sequence import Choice, Segment, query_rows
from pruners.method import Method
from pruners.models import Adapter
from pruners.view import Look


class Reads:
    """Over a family's adapter: queries, keys and values of vLLM's layers, which project all three at once."""

    model: Any

    @property
    def inner(self) -> Any:
        """What the adapter takes for the model inside vLLM's: the model itself."""
        return self.model

    @property
    def decoder(self) -> Any:
        """vLLM's decoder, with its layers."""
        return self.model.language_model.model

    def _heads(self, attn: Any, which: str, states: Tensor) -> Tensor:
        """[..., H, d] of all heads, also where several processes hold them."""
        part = parts(attn, states)["qkv".index(which)]
        if get_tensor_model_parallel_world_size() > 1:
            part = tensor_model_parallel_all_gather(part.contiguous())
        return normed(attn, which, torch.unflatten(part, -1, (-1, attn.head_dim)))


def chosen(pruning: Pruning, adapter: Adapter, segment: Segment, embeds: Tensor, positions: Tensor) -> Choice:
    """What the method keeps of the picture in a prompt whose embeddings are [n, D]. positions: as the decoder's layers
    take them."""
    assert pruning.pruner is not None
    cut, layers = pruning.pruner.cuts(pruning.depth)[0], adapter.decoder.layers
    if type(pruning.pruner).start is not Method.start:
        view = pruning.view(adapter, segment, embeds, stage=-1)
        segment.images[0][0].memo = pruning.pruner.start(view)
    looks, hidden = {}, embeds
    for number in range(pruning.layers):
        layer = layers[number]
        states = layer.input_layernorm(hidden)
        if number in cut.looks:
            looks[number] = look(adapter, cut, layer.self_attn, segment, states, positions)
        hidden = through(layer, hidden, states, positions)
    if pruning.layers and cut.source == "same":
        layer = layers[cut.layer]
        states = layer.input_layernorm(hidden)
        looks[cut.layer] = look(adapter, cut, layer.self_attn, segment, states, positions)
    return pruning.choose(pruning.view(adapter, segment, hidden, looks))


def through(layer: Any, hidden: Tensor, states: Tensor, positions: Tensor) -> Tensor:
    """[n, D] behind a layer, with plain causal attention in the place of the engine's."""
    attn = layer.self_attn
    query, key, value = parts(attn, states)
    query, key = (
        normed(attn, which, torch.unflatten(part, -1, (-1, attn.head_dim))).flatten(-2)
        for which, part in (("q", query), ("k", key))
    )
    query, key = attn.rotary_emb(positions, query, key)
    query, key, value = (
        torch.unflatten(part, -1, (-1, attn.head_dim)).transpose(0, 1)[None] for part in (query, key, value)
    )
    mixed = scaled_dot_product_attention(query, key, value, is_causal=True, scale=attn.scaling, enable_gqa=True)
    hidden = hidden + attn.o_proj(mixed[0].transpose(0, 1).flatten(1))[0]
    behind: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return behind


def look(adapter: Adapter, cut: Cut, attn: Any, segment: Segment, states: Tensor, positions: Tensor) -> Look:
    """The attention of a layer on normed [n, D], for a score to read."""
    rows = [] if cut.rows == "last" else query_rows(cut, segment)
    asking = states[-1:] if cut.rows == "last" else states.index_select(0, rows[0])
    queries = [adapter.queries(attn, asking)]
    return Look(adapter, attn, cut.rows, rows, queries, tables(attn, positions), len(states), None, states=states[None])


def tables(attn: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos, sin [1, n, d] as an adapter's `rotate` takes them."""
    cos, sin = (
        along(half, attn).repeat(1, 2)[None]
        for half in attn.rotary_emb.cos_sin_cache[positions].float().chunk(2, dim=-1)
    )
    return cos, sin


def along(table: Tensor, attn: Any) -> Tensor:
    """[n, c] of a table [n, c], or [3, n, c] where positions have three axes and each turns channels of its own."""
    if table.dim() == 2:
        return table
    return torch.cat([part[axis] for axis, part in enumerate(table.split(attn.rotary_emb.mrope_section, -1))], -1)


def parts(attn: Any, states: Tensor) -> list[Tensor]:
    """Queries, keys and values [n, heads * d] of the heads that this process holds."""
    fused, _ = attn.qkv_proj(states)
    return list(fused.split([attn.q_size, attn.kv_size, attn.kv_size], dim=-1))


def normed(attn: Any, which: str, heads: Tensor) -> Tensor:
    """[..., H, d] as the layer rotates them; families of late norm each head before."""
    norm = getattr(attn, f"{which}_norm", None)
    return heads if norm is None else norm(heads)
