"""The vision tower, for methods that score by it or prune inside it.

Every attention kernel will do: the few weights that are wanted are computed again from the layer's own projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Span
from pruners.engine.sequence import unpadded
from pruners.method import Method
from pruners.models.base import Adapter
from pruners.patches import Patches
from pruners.view import VisionView


class Vision:
    """What one run does in the vision tower, which runs before the prefill and for all images of the batch."""

    def __init__(self, pruner: Method, adapter: Adapter, debias: Debias, sizes: Any) -> None:
        self.pruner, self.adapter, self.debias, self.sizes = pruner, adapter, debias, sizes
        self.tower = adapter.tower
        self.shrinking = list(pruner.vision_layers(self.tower.feature_layer + 1))
        if pruner.reads == "vision" and self.shrinking:
            raise ValueError(f"{pruner} both reads the vision tower's output and prunes inside it; it can do only one")
        if not pruner.serves(type(adapter)):
            kind = adapter.model.config.model_type
            raise ValueError(
                f"{pruner} takes patches of the vision tower for tokens of the prompt, which {kind} does not"
            )
        if any(layer > self.tower.feature_layer for layer in self.shrinking):
            last = self.tower.feature_layer
            raise ValueError(f"{pruner} prunes at vision layers {self.shrinking}; features leave the tower at {last}")
        self.forget()

    def forget(self) -> None:
        self.states: Tensor | None = None  # normed input of the feature layer's attention
        self.features: Tensor | None = None  # its output
        self.entering: Tensor | None = None
        self.attended: tuple[Tensor, Tensor] | None = None
        self.slots: Tensor | None = None  # [I, m] which of the tower's tokens are left
        self.whole: Tensor | None = None  # [I, N] True where there is no padding
        self.tokens = 0

    def install(self) -> list[Any]:
        tower = self.tower
        handles = [tower.module.register_forward_pre_hook(self.begin)]
        for stage, number in enumerate(self.shrinking):
            layer = tower.layers[number]
            handles.append(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
            handles.append(self.attn(number).register_forward_hook(self.attend, with_kwargs=True))
            handles.append(layer.register_forward_hook(partial(self.shrink, stage)))
        chosen = tower.layers[tower.feature_layer]
        if self.pruner.reads == "vision":
            handles.append(self.attn(tower.feature_layer).register_forward_pre_hook(self.look, with_kwargs=True))
        handles.append(chosen.register_forward_hook(self.keep_features))
        if self.shrinking:
            handles.append(tower.module.register_forward_hook(self.restore))
        return handles

    def attn(self, number: int) -> Any:
        return getattr(self.tower.layers[number], self.tower.attention)

    @property
    def rows(self) -> int:
        """Pictures (or tiles, or frames) in the tower's batch."""
        return 0 if self.features is None else len(self.features)

    # -- reading -------------------------------------------------------------------------------------------------------
    def begin(self, module: Any, args: Any) -> None:
        self.forget()

    def look(self, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.states = states_of(args, kwargs)

    def keep_features(self, layer: Any, args: Any, output: Any) -> None:
        self.features = first(output)

    def patches(self, image: int, spans: Sequence[Span]) -> Patches:
        """What the tower knows of one image of the batch, whose images have these spans; token by token."""
        if self.states is None or self.features is None:
            raise ValueError("the vision tower did not run inside this `with` block, so there is nothing to score by")
        if not self.tower.cls:
            raise ValueError("this vision tower has no CLS token, whose attention the method ranks by")
        start = sum(self.adapter.views(span) for span in spans[:image])
        attn, parts = self.attn(self.tower.feature_layer), []
        for row in range(start, start + self.adapter.views(spans[image])):
            query, key = heads(attn, "q", self.states[row, :1]), heads(attn, "k", self.states[row])
            weights = (query.float() @ key.float().transpose(1, 2) * attn.scale).softmax(-1)
            view = Patches(weights[:, 0, 1:], self.features[row, 1:], key[:, 1:], self.features[row, 0])
            parts.append(self.adapter.joined(view))
        if len(parts) == 1:
            return parts[0]
        shown = self.adapter.shows(spans[image])
        which = (shown // len(parts[0].features)).masked_fill(shown < 0, -1)
        shown = shown.to(self.features.device, non_blocking=True)
        none, place = shown < 0, shown.clamp(min=0)
        return Patches(
            torch.cat([part.attention for part in parts], 1)[:, place].masked_fill(none, 0),
            torch.cat([part.features for part in parts])[place].masked_fill(none[:, None], 0),
            torch.cat([part.keys for part in parts], 1)[:, place].masked_fill(none[:, None], 0),
            torch.stack([part.cls for part in parts]).mean(0),
            which,
        )

    # -- pruning inside ------------------------------------------------------------------------------------------------
    def enter(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.entering = states_of(args, kwargs)
        if self.slots is None:
            images, self.tokens = self.entering.shape[:2]
            self.slots = torch.arange(self.tokens, device=self.entering.device).expand(images, -1)
            device = self.entering.device
            padded = self.debias.padding is not None
            self.whole = self.unpadded(images).to(device, non_blocking=True) if padded else None

    def unpadded(self, images: int) -> Tensor:
        """[I, N] True where a patch shows the picture."""
        assert self.debias.padding is not None
        if self.sizes is None or len(self.sizes) != images:
            raise ValueError(f"the vision tower got {images} pictures; expected one size for each, in `sizes`")
        side = isqrt(self.tokens - self.tower.cls)
        return torch.stack([unpadded(self.debias.padding, Span(0, (side, side), size=size)) for size in self.sizes])

    def attend(self, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.attended = states_of(args, kwargs), first(output)

    def shrink(self, stage: int, layer: Any, args: Any, output: Any) -> Any:
        """Merge tokens after a layer's attention. The MLP works on each token alone, so that it ran on all of them
        changes nothing; only the changed ones pass it again."""
        assert self.entering is not None
        assert self.attended is not None
        assert self.slots is not None
        normed, result = self.attended
        middle, done = self.entering + result, first(output)
        states, slots = [], []
        for image in range(len(middle)):
            index = self.slots[image] - int(self.tower.cls)
            query, key = heads(layer.self_attn, "q", normed[image]), heads(layer.self_attn, "k", normed[image])
            valid = None
            if self.whole is not None:
                valid = self.whole[image].index_select(0, index.clamp(min=0)) | (index < 0)
            merged = self.pruner.vision_merge(
                VisionView(
                    layer=self.shrinking[stage],
                    stage=stage,
                    stages=len(self.shrinking),
                    total=self.tokens - int(self.tower.cls),
                    hidden=middle[image],
                    attention=(query.float() @ key.float().transpose(1, 2) * layer.self_attn.scale).softmax(-1),
                    cls=int(self.tower.cls),
                    index=index,
                    valid=valid,
                )
            )
            out = done[image].index_select(0, merged.place)
            fresh = slice(None) if merged.fresh is None else merged.fresh
            again = merged.hidden[fresh]
            out[fresh] = again + layer.mlp(layer.layer_norm2(again))
            states.append(out)
            slots.append(self.slots[image].index_select(0, merged.place))
        self.entering = self.attended = None
        self.slots, shrunk = torch.stack(slots), torch.stack(states)
        return (shrunk, *output[1:]) if isinstance(output, tuple) else shrunk

    def restore(self, module: Any, args: Any, output: Any) -> Any:
        """Put the tokens that are left where they belong, zeros elsewhere: the model checks their number."""
        assert self.features is not None
        assert self.slots is not None
        full = self.features.new_zeros(len(self.slots), self.tokens, self.features.shape[2])
        full.scatter_(1, self.slots[..., None].expand_as(self.features), self.features)
        entry = self.tower.feature_layer + 1  # entry 0 is the embeddings
        output.hidden_states = tuple(full if n == entry else states for n, states in enumerate(output.hidden_states))
        return output

    def survivors(self, image: int) -> Tensor:
        """Raster indices of an image's patches that are left."""
        if self.slots is None:
            raise ValueError("the vision tower did not run inside this `with` block, so nothing could be pruned in it")
        slots = self.slots[image] - int(self.tower.cls)
        return slots[int(self.tower.cls) :]


def heads(attn: Any, which: str, states: Tensor) -> Tensor:
    """[h, n, c] of normed [n, C]."""
    norm = getattr(attn, f"{which}_norm", None)
    projected: Tensor = getattr(attn, f"{which}_proj")(states)
    projected = projected if norm is None else norm(projected)
    return projected.view(len(states), -1, attn.head_dim).transpose(0, 1)


def states_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    states: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return states


def first(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
