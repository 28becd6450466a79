"""The vision tower, for methods that score by it or prune inside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Span
from pruners.engine.seen import Seen, held, patches
from pruners.engine.sequence import unpadded
from pruners.method import Method
from pruners.models import Adapter
from pruners.parts.patches import Patches
from pruners.parts.tower import heads
from pruners.view import VisionView


class Vision:
    """What one run does in the vision tower, which runs before the prefill and for all images of the batch."""

    def __init__(self, pruner: Method, adapter: Adapter, debias: Debias, sizes: Any) -> None:
        self.pruner, self.adapter, self.debias, self.sizes = pruner, adapter, debias, sizes
        self.tower = adapter.tower
        self.shrinking = list(pruner.vision_layers(self.tower.feature_layer + 1))
        if pruner.watches_tower() and self.shrinking:
            raise ValueError(f"{pruner} both reads the vision tower's output and prunes inside it; it cannot do both")
        if not pruner.serves(type(adapter)):
            kind = adapter.model.config.model_type
            raise ValueError(
                f"{pruner} takes tokens out inside the vision tower, which needs a tower whose patches are the tokens "
                f"of the prompt one by one; those of {kind} are not"
            )
        if any(layer > self.tower.feature_layer for layer in self.shrinking):
            last = self.tower.feature_layer
            raise ValueError(f"{pruner} prunes at vision layers {self.shrinking}; features leave the tower at {last}")
        wanted = pruner.glances(self.tower.feature_layer + 1)
        self.glances = [self.tower.seeing(layer) for layer in wanted]
        self.tokens: int  # of each image, before any is taken out
        self.spans: Sequence[Span] = ()
        self.filmed: Sequence[bool] = ()
        self.forget()

    def forget(self) -> None:
        """Drop everything of the last prompt."""
        self.seen: list[Seen] = []  # one for each run: over pictures, over clips
        self.starts: list[tuple[Seen, int]] = []  # per image of the batch, where in which run it begins
        self.glanced: list[tuple[int, Tensor]] = []  # (layer, normed input of its attention) of the run that goes on
        self.over = False  # the prompt was read: the next run belongs to another prompt
        self.features: Tensor | None = None  # output of the feature layer
        self.entering: Tensor | None = None
        self.attended: tuple[Tensor, Tensor] | None = None
        self.slots: Tensor | None = None  # [I, m] which of the tower's tokens are left
        self.weights: Tensor | None = None  # [I, m] how many patches each stands for; None: one
        self.whole: Tensor | None = None  # [I, N] True where there is no padding

    def install(self) -> list[Any]:
        """Hook the tower; the handles to remove again."""
        tower = self.tower
        handles = [tower.module.register_forward_pre_hook(self.begin)]
        for stage, number in enumerate(self.shrinking):
            layer = tower.layers[number]
            handles.append(layer.register_forward_pre_hook(self.enter, with_kwargs=True))
            handles.append(self.attn(number).register_forward_hook(self.attend, with_kwargs=True))
            handles.append(layer.register_forward_hook(partial(self.shrink, stage)))
        chosen = tower.layers[tower.feature_layer]
        if self.pruner.watches_tower():
            for number in self.glances:
                note = partial(self.glance, number)
                handles.append(self.attn(number).register_forward_pre_hook(note, with_kwargs=True))
            handles.append(self.attn(tower.looked_at).register_forward_pre_hook(self.look, with_kwargs=True))
        handles.append(chosen.register_forward_hook(self.keep_features))
        if self.shrinking:
            handles += [layer.register_forward_pre_hook(self.weigh, with_kwargs=True) for layer in tower.layers]
            handles.append(tower.module.register_forward_hook(self.restore))
        return handles

    def attn(self, number: int) -> Any:
        """The attention module of a layer."""
        return getattr(self.tower.layers[number], self.tower.attention)

    # -- reading -------------------------------------------------------------------------------------------------------
    def begin(self, module: Any, args: Any) -> None:
        """Before the tower runs: forget the last prompt's runs."""
        if self.over or self.shrinking:
            self.forget()
        self.glanced = []

    def glance(self, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what an attention gets that only scores by it need."""
        self.glanced.append((number, states_of(args, kwargs)))

    def look(self, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a run: what the attention that the method reads gets."""
        self.seen.append(Seen(states_of(args, kwargs), kwargs.get("position_embeddings"), self.glanced))

    def keep_features(self, layer: Any, args: Any, output: Any) -> None:
        """Note the output of the layer whose features the model takes."""
        self.features = first(output)
        if self.seen:
            self.seen[-1].features = self.features

    def repeats(self, spans: Sequence[Span]) -> int:
        """How often beam search repeats every row of a prompt with these spans."""
        known = sum(seen.held for seen in self.seen)
        if not known and self.features is not None:
            known = len(self.features)
        return max(sum(held(self.adapter, span) for span in spans) // known, 1) if known else 1

    def expect(self, spans: Sequence[Span], filmed: Sequence[bool]) -> None:
        """The images of a batch, and which of them the tower sees in its run over clips. It may not have run yet."""
        self.spans, self.filmed, self.starts = spans, filmed, []

    def settle(self) -> list[tuple[Seen, int]]:
        """Where in which run each image begins; nothing where the tower saw other images than the prompt has."""
        kinds = sorted(set(self.filmed))
        if len(kinds) != len(self.seen):
            return []
        runs, counted = dict(zip(kinds, self.seen, strict=True)), dict.fromkeys(kinds, 0)
        starts = []
        for span, film in zip(self.spans, self.filmed, strict=True):
            starts.append((runs[film], counted[film]))
            counted[film] += held(self.adapter, span)
        return starts if all(runs[film].held == count for film, count in counted.items()) else []

    def patches(self, image: int) -> Patches:
        """What the tower knows of one image of the batch, token by token."""
        self.starts = self.starts or self.settle()
        if not self.starts:
            raise ValueError("the vision tower did not run inside this `with` block, so there is nothing to score by")
        return patches(self.adapter, self.attn, *self.starts[image], self.spans[image])

    # -- pruning inside ------------------------------------------------------------------------------------------------
    @property
    def total(self) -> int:
        """Patches of each image, before any is taken out."""
        return self.tokens - int(self.tower.cls)

    def enter(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a layer gets."""
        self.entering = states_of(args, kwargs)
        if self.slots is None:
            images, self.tokens = self.entering.shape[:2]
            self.slots = torch.arange(self.tokens, device=self.entering.device).expand(images, -1)
            device = self.entering.device
            padded = self.debias.padding is not None
            self.whole = self.unpadded(images).to(device, non_blocking=True) if padded else None

    def weigh(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let a layer's attention see each key as often as the patches that it stands for."""
        if self.weights is None:
            return None
        mask = self.weights.log().to(states_of(args, kwargs).dtype)[:, None, None]
        if len(args) > 1:
            return (args[0], mask, *args[2:]), kwargs
        return args, {**kwargs, "attention_mask": mask}

    def unpadded(self, images: int) -> Tensor:
        """[I, N] True where a patch shows the picture."""
        assert self.debias.padding is not None
        if self.sizes is None or len(self.sizes) != images:
            raise ValueError(f"the vision tower got {images} pictures; expected one size for each, in `sizes`")
        side = isqrt(self.total)
        return torch.stack([unpadded(self.debias.padding, Span(0, (side, side), size=size)) for size in self.sizes])

    def attend(self, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note what an attention got and made, for the merge behind it."""
        self.attended = states_of(args, kwargs), first(output)

    def shrink(self, stage: int, layer: Any, args: Any, output: Any) -> Any:
        """Merge tokens after a layer's attention. The MLP works on each token alone, so that it ran on all of them
        changes nothing; only the changed ones pass it again."""
        assert self.entering is not None
        assert self.attended is not None
        assert self.slots is not None
        normed, result = self.attended
        middle, done, held = self.entering + result, first(output), self.weights
        states, slots, sizes = [], [], []
        for image in range(len(middle)):
            index = self.slots[image] - int(self.tower.cls)
            valid = None
            if self.whole is not None:
                valid = self.whole[image].index_select(0, index.clamp(min=0)) | (index < 0)
            merged = self.pruner.vision_merge(
                VisionView(
                    layer=self.shrinking[stage],
                    stage=stage,
                    stages=len(self.shrinking),
                    total=self.total,
                    hidden=middle[image],
                    query=heads(layer.self_attn, "q", normed[image]),
                    keys=heads(layer.self_attn, "k", normed[image]),
                    scale=float(layer.self_attn.scale),
                    size=torch.ones_like(index, dtype=torch.float32) if held is None else held[image],
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
            sizes += [] if merged.size is None else [merged.size]
        self.weights = torch.stack(sizes) if sizes else None
        self.entering = self.attended = None
        self.slots, shrunk = torch.stack(slots), torch.stack(states)
        return (shrunk, *output[1:]) if isinstance(output, tuple) else shrunk

    def restore(self, module: Any, args: Any, output: Any) -> None:
        """Put the tokens that are left where they belong, zeros elsewhere: the model checks their number."""
        assert self.features is not None
        assert self.slots is not None
        full = self.features.new_zeros(len(self.slots), self.tokens, self.features.shape[2])
        full.scatter_(1, self.slots[..., None].expand_as(self.features), self.features)
        entry = self.tower.feature_layer + 1  # entry 0 is the embeddings
        output.hidden_states = tuple(full if n == entry else states for n, states in enumerate(output.hidden_states))

    def survivors(self, image: int) -> Tensor:
        """Raster indices of an image's patches that are left."""
        if self.slots is None:
            raise ValueError("the vision tower did not run inside this `with` block, so nothing could be pruned in it")
        slots = self.slots[image] - int(self.tower.cls)
        return slots[int(self.tower.cls) :]


def states_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among a layer's arguments."""
    states: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return states


def first(output: Any) -> Tensor:
    """The hidden states that a layer returned, alone or first of several."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
