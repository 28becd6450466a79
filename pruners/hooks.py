"""The mechanism: hooks that take tokens out of an unmodified model while it runs. Nothing else touches a decoder layer.

At a cut the hidden states, rotary tables, masks and positions of the layers behind it are replaced by those of the
tokens that stay; every layer's cache then simply holds what the layer saw. The model's attention kernel stays on.
Nothing is patched: all hooks belong to one `with` block and are gone behind it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from debias import Debias, Span
from pruners.base import Cut, Pruner
from pruners.masks import KERNELS, segment_mask
from pruners.models import Adapter, adapter
from pruners.models.request import Size
from pruners.sequence import Choice, Segment, gather, hide, take
from pruners.trace import Trace
from pruners.view import Look, Tokens, View

_running: WeakSet[Any] = WeakSet()


class Unsupported(ValueError):
    """Something that pruning could not do exactly."""


@contextmanager
def prune(pruner: Pruner, model: Any, debias: Debias, sizes: Sequence[Size | None] | None) -> Iterator[Trace]:
    """Prune `model` (or the model of an adapter) inside the block."""
    run = Run(pruner, model if isinstance(model, Adapter) else adapter(model), debias, sizes)
    if run.decoder in _running:
        raise Unsupported("this model is being pruned already: leave the other `with` block first")
    _running.add(run.decoder)
    try:
        run.install()
        yield run.trace
    finally:
        run.remove()
        _running.discard(run.decoder)


class Run:
    """One `with` block."""

    def __init__(self, pruner: Pruner, family: Adapter, debias: Debias, sizes: Sequence[Size | None] | None) -> None:
        self.pruner, self.adapter, self.debias = pruner, family, debias
        self.sizes = sizes if debias.padding is not None else None  # nobody else may depend on them
        self.decoder = family.decoder
        self.layers: Sequence[Any] = list(family.decoder.layers)
        self.kernel: str = family.decoder.config._attn_implementation
        self.cuts = checked(pruner, len(self.layers))
        self.trace = Trace(len(self.layers))
        self.handles: list[Any] = []
        self.media: dict[str, Any] = {}
        self.forget()
        refuse_unsupported(family, self.kernel)
        if debias.padding is not None and family.pads and sizes is None:
            raise ValueError(
                "this debias silences padding and needs the size of every image before padding: "
                "pass sizes=[(width, height), ...]"
            )

    def forget(self) -> None:
        self.segments: list[Segment] = []
        self.looks: list[dict[int, Look]] = [{} for _ in self.cuts]
        self.cache: Any = None
        self.length = 0  # of the prompt
        self.step = 0  # of decoding; 0 is the prefill
        self.beams = 1

    # -- installing ----------------------------------------------------------------------------------------------------
    def install(self) -> None:
        inner = self.adapter.inner
        self.handles.append(inner.register_forward_pre_hook(self.on_model, with_kwargs=True))
        self.handles.append(inner.register_forward_hook(self.on_answer))
        for number in {number for cut in self.cuts for number in cut.looks}:
            attn = self.layers[number].self_attn
            self.handles.append(attn.register_forward_hook(partial(self.on_attention, number), with_kwargs=True))
        for number, layer in enumerate(self.layers):
            self.handles.append(layer.register_forward_pre_hook(partial(self.on_layer, number), with_kwargs=True))
        for name in ("get_image_features", "get_video_features"):
            if self.adapter.media and hasattr(inner, name):
                self.handles.append(Recorder(inner, name, self.adapter.media, self.media))
        self.handles.extend(self.adapter.hooks(self))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.forget()

    # -- the model as a whole ------------------------------------------------------------------------------------------
    def on_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise Unsupported("pruning finds images by their tokens: pass input_ids, not inputs_embeds")
        cache = kwargs.get("past_key_values")
        ours = cache is not None and cache is self.cache
        if is_empty(cache, trusted=ours and ids.shape[1] == 1):
            self.trace.restart()
            self.trace.prefill.begin(ids.device)
            self.prefill(ids, kwargs.get("attention_mask"))
            return None
        if not ours:
            raise Unsupported("the cache was filled outside this `with` block: start with an empty one inside it")
        if ids.shape[1] > 1 and self.segments:
            raise Unsupported(
                "several tokens at once behind a pruned prompt are not supported: "
                "no chunked prefill, assisted decoding or second turn on the same cache"
            )
        self.trace.decode.begin(ids.device)
        self.step += 1
        if self.pruner.mode == "mask":
            del self.segments[1:]  # they are ranked again, by what this token looks at
        if self.segments and self.at(0).columns is not None and kwargs.get("position_ids") is None:
            # Layer 0's cache is shorter than what was read, and the model would count from it.
            return args, {**kwargs, "position_ids": torch.full_like(ids, self.length + self.step - 1)}
        return None

    def on_answer(self, module: Any, args: Any, output: Any) -> None:
        (self.trace.decode if self.step else self.trace.prefill).end(self.decoder.device)
        for segment in self.segments:
            segment.rotary = segment.mask = None

    def prefill(self, ids: Tensor, mask: Any) -> None:
        """Find the images of a new batch."""
        self.forget()
        self.length = ids.shape[1]
        inputs = {"input_ids": ids.cpu(), **self.media}
        spans = self.adapter.spans(inputs, self.sizes)
        if any(spans):
            real = real_columns(mask, self.length)
            places = self.adapter.slots(inputs, spans)
            self.beams = max(sum(map(len, spans)) // len(self.sizes), 1) if self.sizes else 1
            self.segments = [first_segment(spans, places, real, ids, self.beams, self.debias)]
            for row in self.segments[0].images[:: self.beams]:
                for tokens in row:
                    own = self.pruner.own_count(len(self.layers), tokens.span.total)
                    self.trace.add(tokens, [cut.layer for cut in self.cuts], own, tokens.row // self.beams)

    # -- a layer -------------------------------------------------------------------------------------------------------
    def on_layer(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if number == 0 and self.step == 0:
            self.cache = kwargs.get("past_key_values")
        if not self.segments:
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if number == 0 and self.step == 0:
            refuse_cache(self.cache, self.kernel)
            self.start(hidden)
        if self.step == 0 or self.pruner.mode == "mask":
            for stage, cut in enumerate(self.cuts):
                if cut.layer == number:
                    hidden = self.cut(stage, hidden, kwargs["position_embeddings"])
        segment = self.at(number)
        if not segment.cut:
            return None
        changed = {
            **kwargs,
            "attention_mask": self.mask(segment, number, hidden),
            "position_embeddings": self.rotary(segment, hidden, kwargs["position_embeddings"]),
        }
        if "position_ids" in changed:
            changed["position_ids"] = None  # the tables are made; flash attention would take gaps for packed sequences
        if args:
            return (hidden, *args[1:]), changed
        return args, {**changed, "hidden_states": hidden}

    def on_attention(self, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self.segments or (self.step and self.pruner.mode != "mask"):
            return
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        cached = None if self.cache is None else self.cache.layers[number]
        for stage, cut in enumerate(self.cuts):
            if number in cut.looks:
                look = self.look(cut, attn, self.at(number), states, kwargs["position_embeddings"], cached)
                self.looks[stage][number] = look

    def at(self, number: int) -> Segment:
        """The segment that a layer belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.start <= number)

    def mask(self, segment: Segment, number: int, hidden: Tensor) -> Tensor | None:
        if segment.mask is None:
            held = self.cache.layers[number] if self.cache is not None and number < len(self.cache.layers) else None
            seen, columns = segment.length + self.step, getattr(held, "max_cache_len", None)
            segment.mask = (segment_mask(self.kernel, hidden, segment.valid, seen, columns),)
        mask: Tensor | None = segment.mask[0]
        return mask

    def rotary(self, segment: Segment, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The tables of a segment's tokens. While decoding the model's own are right, unless tokens are renumbered."""
        if segment.columns is None or (self.step and self.pruner.positions == "original"):
            return tables
        if segment.rotary is None:
            if self.pruner.positions == "original":
                segment.rotary = take(tables[0], segment.columns), take(tables[1], segment.columns)
            else:
                segment.rotary = self.adapter.rotary(hidden, segment.positions(self.step))
        return segment.rotary

    # -- a cut ---------------------------------------------------------------------------------------------------------
    def start(self, hidden: Tensor) -> None:
        """Let the pruner see the input embeddings."""
        if type(self.pruner).start is not Pruner.start:
            for row in self.segments[0].images:
                for tokens in row:
                    tokens.memo = self.pruner.start(self.view(-1, self.cuts[0], tokens, self.segments[0], hidden))

    def cut(self, stage: int, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Take tokens out before a layer; returns the hidden states of those that stay."""
        segment, cut = self.segments[-1], self.cuts[stage]
        if cut.source == "same":
            layer = self.layers[cut.layer]
            states, tables = layer.input_layernorm(hidden), self.rotary(segment, hidden, tables)
            self.looks[stage][cut.layer] = self.look(cut, layer.self_attn, segment, states, tables, None)
        choices = [[self.choose(stage, cut, tokens, segment, hidden) for tokens in row] for row in segment.images]
        self.looks[stage] = {}
        if self.step == 0:
            for choice in (choice for row in choices[:: self.beams] for choice in row):
                self.trace.record(choice)
        if self.pruner.mode == "mask":
            self.segments.append(hide(segment, choices, cut.layer))
            return hidden
        behind, columns = gather(segment, choices, cut.layer)
        if self.pruner.shrink_cache:
            for number in range(cut.layer):
                shrink(self.cache, number, columns)
            self.segments = []
        self.segments.append(behind if not self.pruner.shrink_cache else replace(behind, start=0))
        hidden = take(hidden, columns)
        for row, images in zip(choices, behind.images, strict=True):
            for choice, tokens in zip(row, images, strict=True):
                if choice.merged is not None:
                    hidden[tokens.row, tokens.slots] = choice.merged.hidden.to(hidden.dtype)
        return hidden

    def choose(self, stage: int, cut: Cut, tokens: Tokens, segment: Segment, hidden: Tensor) -> Choice:
        """One image's way through a cut: score, debias, select, merge."""
        view = self.view(stage, cut, tokens, segment, hidden)
        view.raw = self.pruner.score(view)
        if view.raw.shape != (len(tokens),):
            raise ValueError(
                f"{type(self.pruner).__name__}.score returned shape {tuple(view.raw.shape)}; "
                f"expected ({len(tokens)},), one number per visual token"
            )
        view.score = self.debias(view.raw, tokens.span, stage, self.pruner.role)
        kept = self.pruner.select(view.score, view)
        return Choice(tokens, kept, self.pruner.merge(view, kept), (view.raw, view.score))

    def view(self, stage: int, cut: Cut, tokens: Tokens, segment: Segment, hidden: Tensor) -> View:
        depth = len(self.layers)
        budget = self.pruner.counts(depth, tokens.span.total)[stage] if stage >= 0 else len(tokens)
        return View(
            cut=cut,
            stage=stage,
            layers=depth,
            count=min(budget, len(tokens)),
            tokens=tokens,
            adapter=self.adapter,
            debiaser=self.debias,
            sequence=None if self.step else hidden[tokens.row],
            text_slots=segment.text[tokens.row],
            looks=self.looks[stage],
        )

    def look(self, cut: Cut, attn: Any, segment: Segment, states: Tensor, tables: Any, cached: Any) -> Look:
        """Take down the queries that a score will ask for."""
        valid, columns = segment.valid, segment.length + self.step
        if valid is not None and self.step:
            valid = torch.nn.functional.pad(valid, (0, self.step), value=True)
        rows: list[Tensor] = []
        if cut.rows == "last" or self.step:
            queries = list(self.adapter.queries(attn, states[:, -1:]))
        else:
            rows = query_rows(cut, segment)
            queries = [
                self.adapter.queries(attn, row.index_select(0, at)) for row, at in zip(states, rows, strict=True)
            ]
        kind = "last" if self.step else cut.rows
        held = states if cached is None else None
        return Look(self.adapter, attn, kind, rows, queries, tables, columns, valid, cached, held)


def query_rows(cut: Cut, segment: Segment) -> list[Tensor]:
    """Per row of the batch, the slots of the queries that a cut asks for."""
    rows = []
    for text, images in zip(segment.text, segment.images, strict=True):
        if cut.rows == "all":
            rows.append(torch.arange(segment.length, device=text.device))
        elif cut.rows == "text":
            rows.append(text[len(text) - images[0].after :] if images else text[:0])
        else:
            rows.append(torch.cat([tokens.slots for tokens in images]) if images else text[:0])
    return rows


def checked(pruner: Pruner, layers: int) -> list[Cut]:
    """The pruner's cuts, or a ValueError that says what is wrong with them."""
    cuts, before = list(pruner.cuts(layers)), -1
    for cut in cuts:
        if not 0 <= cut.layer < layers:
            raise ValueError(f"{pruner} cuts before layer {cut.layer}, but the model has layers 0 to {layers - 1}")
        if cut.layer <= before:
            raise ValueError(f"{pruner} cuts before layer {cut.layer} after layer {before}; layers must ascend")
        if any(not max(before, 0) <= look < cut.layer for look in cut.also):
            raise ValueError(
                f"{pruner} reads layers {cut.also} at layer {cut.layer}; they must lie behind the cut before it"
            )
        before = cut.layer
    if not cuts:
        raise ValueError(f"{pruner} has no cut in a model of {layers} layers")
    if pruner.shrink_cache and len(cuts) > 1:
        raise ValueError(f"{pruner} cuts the cache of earlier layers, which is possible with a single cut only")
    return cuts


def first_segment(
    spans: list[list[Span]], places: list[list[Tensor]], real: Tensor | None, ids: Tensor, beams: int, debias: Debias
) -> Segment:
    """The prompt as the model got it."""
    device = ids.device
    images: list[list[Tokens]] = []
    text = []
    for row, (here, slots) in enumerate(zip(spans, places, strict=True)):
        free = torch.ones(ids.shape[1], dtype=torch.bool) if real is None else real[row % len(real)].clone()
        free[torch.cat(slots) if slots else []] = False
        words, counted = free.nonzero()[:, 0], 0
        number = sum(len(spans[other]) for other in range(0, row // beams * beams, beams))
        images.append([])
        for image, (span, at) in enumerate(zip(here, slots, strict=True), number):
            padding = debias.padding
            images[row].append(
                Tokens(
                    row=row,
                    image=image,
                    span=span,
                    slots=at.to(device, non_blocking=True),
                    own=None,
                    before=counted,
                    after=int((words > at[-1]).sum()),
                    contiguous=int(at[-1] - at[0]) == len(at) - 1,
                    whole=None if padding is None else padding.whole(span).to(device, non_blocking=True),
                )
            )
            counted += len(at)
        text.append(words.to(device, non_blocking=True))
    valid = None if real is None else real.to(device, non_blocking=True).expand(len(ids), -1)
    return Segment(0, ids.shape[1], images, text, valid, cut=False)


def real_columns(mask: Any, length: int) -> Tensor | None:
    """[B, length] on the CPU: which tokens of the prompt are no padding; None when all are."""
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.dim() == 4:  # built for a static cache: what the last token sees
        mask = mask[:, 0, -1, :length]
    real: Tensor = (mask if mask.dtype == torch.bool else mask == 0 if mask.is_floating_point() else mask != 0).cpu()
    if bool(real.all()):
        return None
    if not bool((real[:, -1]).all()) or bool((real[:, :-1] & ~real[:, 1:]).any()):
        raise Unsupported("padding must be on the left: set tokenizer.padding_side = 'left'")
    return real


def is_empty(cache: Any, trusted: bool) -> bool:
    """Whether nothing was read yet. A static cache would have to ask the device; one that this run filled need not."""
    if cache is None:
        return True
    seen = cache.get_seq_length()
    return not (isinstance(seen, Tensor) and trusted) and int(seen) == 0


def shrink(cache: Any, number: int, columns: Tensor) -> None:
    """Leave only some columns in the cache of a layer."""
    if cache is None:
        return
    held = cache.layers[number]
    for name in ("keys", "values"):
        states = getattr(held, name)
        kept = states.gather(2, columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
        if hasattr(held, "max_cache_len"):
            states[:, :, : columns.shape[1]] = kept
        else:
            setattr(held, name, kept)
    if hasattr(held, "max_cache_len"):
        held.cumulative_length.fill_(columns.shape[1])


def refuse_unsupported(family: Adapter, kernel: str) -> None:
    config = family.decoder.config
    types = getattr(config, "layer_types", None)
    if kernel not in KERNELS:
        raise Unsupported(f"attention {kernel!r} is not supported: load the model with one of {', '.join(KERNELS)}")
    if any(kind != "full_attention" for kind in types or ()) or (
        types is None and getattr(config, "sliding_window", None)
    ):
        raise Unsupported("models with sliding-window or linear-attention layers are not supported")


def refuse_cache(cache: Any, kernel: str) -> None:
    kinds = {type(layer).__name__ for layer in cache.layers} if cache is not None else set()
    if kinds - {"DynamicLayer", "StaticLayer"} or getattr(cache, "offloading", False):
        raise Unsupported(
            f"a cache of {', '.join(sorted(kinds))} is not supported: use a plain dynamic or static cache"
        )
    if "StaticLayer" in kinds and kernel.startswith("flash"):
        raise Unsupported(
            "a static cache with flash attention is not supported: use a dynamic cache, or attention='sdpa'"
        )


class Recorder:
    """Notes what one method of one module is called with. It sits on the instance and is removed with the hooks."""

    def __init__(self, module: Any, name: str, wanted: Sequence[str], into: dict[str, Any]) -> None:
        self.module, self.name = module, name
        method = getattr(module, name)
        signature = inspect.signature(method)

        @functools.wraps(method)
        def recording(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            into.update({key: given[key] for key in wanted if given.get(key) is not None})
            return method(*args, **kwargs)

        setattr(module, name, recording)

    def remove(self) -> None:
        delattr(self.module, self.name)
