"""The mechanism: hooks that take tokens out of an unmodified model while it runs. Nothing else touches a decoder layer.

At a cut the hidden states, rotary tables, masks and positions of the layers behind it are replaced by those of the
tokens that stay; every layer's cache then simply holds what the layer saw. The model's attention kernel stays on.
No class is patched: hooks, and forwards set on single modules, belong to one `with` block and are gone behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from debias import Debias, Span, Trend
from pruners.cut import Cut
from pruners.engine import limits
from pruners.engine.choose import choose
from pruners.engine.compiled import LENT, Compiled
from pruners.engine.limits import Unsupported, is_empty, warn_anew
from pruners.engine.masks import segment_mask
from pruners.engine.prefix import Prefix
from pruners.engine.recorder import Recorder
from pruners.engine.sequence import Choice, Segment, first_segment, gather, hide, query_rows, real_columns, shrink, take
from pruners.engine.state import State
from pruners.engine.trace import Trace
from pruners.engine.vision import Vision, states_of
from pruners.engine.watch import Watch
from pruners.method import Method
from pruners.models import Adapter, adapter
from pruners.models.base import home
from pruners.models.request import Size
from pruners.parts.patches import Patches
from pruners.view import Look, Tokens, View

_running: WeakSet[Any] = WeakSet()


@contextmanager
def prune(
    pruner: Method,
    model: Any,
    debias: Debias,
    sizes: Sequence[Size | None] | None,
    prefix: Prefix | None = None,
    trends: Sequence[Trend] | None = None,
) -> Iterator[Trace]:
    """Prune `model` (or the model of an adapter) inside the block."""
    run = Run(pruner, model if isinstance(model, Adapter) else adapter(model), debias, sizes)
    run.prefix, run.trends = prefix, trends
    if run.state.decoder in _running:
        raise Unsupported("this model is being pruned already: leave the other `with` block first")
    _running.add(run.state.decoder)
    try:
        run.install()
        yield run.trace
    finally:
        run.remove()
        _running.discard(run.state.decoder)


class Run:
    """One `with` block."""

    def __init__(self, pruner: Method, family: Adapter, debias: Debias, sizes: Sequence[Size | None] | None) -> None:
        self.state = State(pruner, family)
        self.pruner, self.adapter, self.layers, self.cuts = pruner, family, self.state.layers, self.state.cuts
        plain = "trend" in pruner.arms() or (debias.trend is None and debias.reading is None)
        self.debias = debias if plain else replace(debias, trend=None, reading=None)
        # Where pictures are padded, nobody but a debias that silences padding may depend on their sizes.
        self.sizes = sizes if debias.padding is not None or not family.pads else None
        pruner.check(family)
        self.prefix: Prefix | None = None
        self.trends: Sequence[Trend] | None = None
        self.trace = Trace(len(self.layers))
        self.handles: list[Any] = []
        self.watch = Watch(self.state, self.on_layer, self.on_attention)
        self.media: dict[str, Any] = {}
        watched = pruner.watches_tower() or pruner.prunes_tower()
        self.vision = Vision(pruner, family, debias, self.sizes) if watched else None
        limits.refuse_unsupported(family, self.state.kernel)
        limits.refuse_reading(self.debias, pruner)
        limits.refuse_ranking(pruner, self.cuts)
        limits.refuse_sinks(self.debias, self.cuts)
        limits.refuse_unsized(self.debias, family, sizes)

    # -- installing ----------------------------------------------------------------------------------------------------
    def install(self) -> None:
        """Set all hooks on the model."""
        inner = self.adapter.inner
        self.handles.append(inner.register_forward_pre_hook(self.on_model, with_kwargs=True))
        self.handles.append(inner.register_forward_hook(self.on_answer))
        self.watch.begin()
        self.handles.append(self.watch)
        for name in ("get_image_features", "get_video_features"):  # generate() calls them before the model
            if self.adapter.media and hasattr(inner, name):
                self.handles.append(Recorder(inner, name, self.adapter.media, self.media))
        if self.vision is not None:
            self.handles.extend(self.vision.install())
        self.handles.extend(self.adapter.hooks(self.state))
        if self.prefix is not None:
            self.handles.extend(self.prefix.install(self.state, self.record))
        if hasattr(self.adapter.model, "get_compiled_call"):
            self.handles.append(Compiled(self.state, self.begin, self.end))

    def remove(self) -> None:
        """Take all hooks off, and forget what the last prompt left."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.state.forget()

    # -- the model as a whole ------------------------------------------------------------------------------------------
    def on_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Before the model: see `begin`."""
        return None if torch.compiler.is_compiling() else self.begin(args, kwargs)  # see pruners.engine.compiled

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Read a new prompt's pictures, or ready the segments for a step; None, or the model's changed arguments."""
        state = self.state
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise Unsupported("pruning finds images by their tokens: pass input_ids, not inputs_embeds")
        given = {name: kwargs[name] for name in self.adapter.media if kwargs.get(name) is not None}
        cache, media = kwargs.get("past_key_values"), {**self.media, **given}
        ours = cache is state.cache
        if is_empty(cache, trusted=ours and ids.shape[1] == 1):
            warn_anew(None if state.cache is not None else state.ids, ids)
            self.watch.begin()
            self.trace.restart()
            self.trace.prefill.begin(ids.device)
            self.prefill(ids, kwargs.get("attention_mask"), media)
            return None
        if not ours:
            raise Unsupported("the cache was filled outside this `with` block: start with an empty one inside it")
        if ids.shape[1] > 1 and (state.segments or any(self.adapter.spans({"input_ids": ids.cpu(), **media}))):
            raise Unsupported(
                "several tokens at once on a filled cache are not supported where there is a picture or clip: "
                "no chunked prefill, assisted decoding or second turn on the same cache"
            )
        self.trace.decode.begin(ids.device)
        held = state.cache.layers[0]
        static = hasattr(held, "max_cache_len")  # and would have to ask the device how many tokens it holds
        counted = static or not state.segments
        state.step = state.step + 1 if counted else held.get_seq_length() - state.at(0).length + 1
        if self.pruner.mode == "mask":
            del state.segments[1:]  # they are ranked again, by what this token looks at
        elif static:
            # Settled before the layers run: what they do with it is always the same, and can be compiled.
            state.given = [self.instead(number) for number in range(len(self.layers))]
        else:
            self.watch.step()
        if state.segments and state.at(0).columns is not None and kwargs.get("position_ids") is None:
            # Layer 0's cache is shorter than what was read, and the model would count from it.
            return args, {**kwargs, "position_ids": torch.full_like(ids, state.length + state.step - 1)}
        return None

    def on_answer(self, module: Any, args: Any, output: Any) -> None:
        """Behind the model: see `end`."""
        if not torch.compiler.is_compiling():
            self.end()

    def end(self) -> None:
        """Close a step: stop its clock, and drop what belonged to it alone."""
        state = self.state
        (self.trace.decode if state.step else self.trace.prefill).end(state.decoder.device)
        if self.vision is not None:
            self.vision.over = True
        self.media.clear()
        for segment in state.segments:
            segment.rotary = segment.mask = None

    def prefill(self, ids: Tensor, mask: Any, media: Mapping[str, Any]) -> None:
        """Find the images of a new batch."""
        state = self.state
        state.forget()
        state.length = ids.shape[1]
        inputs = {"input_ids": ids.cpu(), **media}
        spans = self.adapter.spans(inputs, self.sizes)
        if any(spans):
            real = real_columns(mask, state.length)
            state.ids, state.padded = ids, real is not None
            places = self.adapter.slots(inputs, spans)
            state.beams = self.repeats([span for row in spans for span in row])
            read = inputs["input_ids"]
            state.segments = [first_segment(spans, places, real, ids, state.beams, self.debias, read)]
            if self.vision is not None:
                filmed = self.adapter.filmed(inputs, places)[:: state.beams]
                once = spans[:: state.beams]
                self.vision.expect([span for row in once for span in row], [film for row in filmed for film in row])
            for row in state.segments[0].images[:: state.beams]:
                for tokens in row:
                    own = self.pruner.own_count(len(self.layers), tokens.span.total)
                    inside = [0] if self.vision is not None and self.vision.shrinking else []
                    layers = [*inside, *(cut.layer for cut in self.cuts)]
                    self.trace.add(tokens, layers, own, tokens.row // state.beams)
            limits.refuse_trends(self.trends, len(self.trace.images))

    def repeats(self, spans: Sequence[Span]) -> int:
        """How often beam search repeats every row, as far as it can be known."""
        if self.sizes:
            return max(len(spans) // len(self.sizes), 1)
        return 1 if self.vision is None else self.vision.repeats(spans)

    # -- a layer -------------------------------------------------------------------------------------------------------
    def on_layer(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a layer: what it gets in place of its arguments, None to leave them."""
        given = LENT.given if torch.compiler.is_compiling() else self.state.given
        if given:
            return (args, {**kwargs, **given[number]}) if given[number] else None
        return self.enter(number, args, kwargs)

    def instead(self, number: int) -> dict[str, Any]:
        """What a layer gets in a step of decoding whose shapes are always the same."""
        state = self.state
        if not state.segments:
            return {}
        return state.decoding(
            state.at(number),
            lambda segment: self.mask(segment, number, state.like),
            lambda segment: self.rotary(segment, state.like),
        )

    def enter(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut before this layer where it is due; the arguments for the tokens that stay, None to leave all as is."""
        state, first = self.state, number == 0 and self.state.step == 0
        if first:
            state.cache = kwargs.get("past_key_values")  # which the model makes where it is given none
        if not state.segments:
            return None
        hidden = states_of(args, kwargs)
        if first:
            limits.refuse_cache(state.cache, state.kernel)
            state.like = hidden.new_empty(1, 1, 0)
            self.start(hidden)
            hidden = self.leave_out(hidden)
        if state.step == 0 or self.pruner.mode == "mask":
            for stage, cut in enumerate(self.cuts):
                if cut.layer == number:
                    hidden = self.cut(stage, hidden, kwargs["position_embeddings"])
        segment = state.at(number)
        if not segment.cut:
            return None
        changed = {
            **kwargs,
            "attention_mask": self.mask(segment, number, hidden),
            "position_embeddings": self.rotary(segment, hidden, kwargs["position_embeddings"]),
            "position_ids": None,  # the tables are made; flash attention would take gaps for packed sequences
        }
        if args:
            return (hidden, *args[1:]), changed
        return args, {**changed, "hidden_states": hidden}

    def on_attention(self, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Behind a layer's attention: see `record`."""
        if torch.compiler.is_compiling() or self.state.given or not self.state.segments:
            return
        self.record(number, attn, args, kwargs)

    def record(self, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the cuts that look at this layer will score."""
        state = self.state
        states = states_of(args, kwargs)
        cached = None if state.cache is None else state.cache.layers[number]
        for stage, cut in enumerate(self.cuts):
            if number in cut.looks:
                look = self.look(cut, attn, state.at(number), states, kwargs["position_embeddings"], cached)
                state.looks[stage][number] = look

    def mask(self, segment: Segment, number: int, hidden: Tensor) -> Tensor | None:
        """The attention mask of a segment at a layer, made once a step; None where the kernel needs none."""
        state = self.state
        if segment.mask is None:
            held = state.cache.layers[number] if state.cache is not None and number < len(state.cache.layers) else None
            seen, columns = segment.length + state.step, getattr(held, "max_cache_len", None)
            valid = None if segment.valid is None else segment.valid.to(hidden.device)
            segment.mask = (segment_mask(state.kernel, hidden, valid, seen, columns),)
        mask: Tensor | None = segment.mask[0]
        return mask

    def rotary(
        self, segment: Segment, hidden: Tensor, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tables of a segment's tokens. While decoding the model's own are right, unless tokens are renumbered."""
        state = self.state
        if segment.columns is None or (state.step and not state.renumbered):
            assert tables is not None
            return tables
        if segment.rotary is None:
            if state.renumbered:
                segment.rotary = self.adapter.rotary(hidden, segment.positions(state.step).to(hidden.device))
            else:
                assert tables is not None
                cos, sin = (take(table.to(segment.columns.device), segment.columns) for table in tables)
                segment.rotary = cos, sin
        return segment.rotary

    # -- a cut ---------------------------------------------------------------------------------------------------------
    def start(self, hidden: Tensor) -> None:
        """Let the pruner see the input embeddings."""
        if type(self.pruner).start is not Method.start:
            for row in self.state.segments[0].images:
                for tokens in row:
                    tokens.memo = self.pruner.start(self.view(-1, self.cuts[0], tokens, self.state.segments[0], hidden))

    def leave_out(self, hidden: Tensor) -> Tensor:
        """Take out what the vision tower has pruned already."""
        if self.vision is None or not self.vision.shrinking:
            return hidden
        segment, left = self.state.segments[0], self.vision.survivors
        return self.go_on(segment, [[Choice(t, left(t.image)) for t in row] for row in segment.images], 0, hidden)

    def cut(self, stage: int, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Take tokens out before a layer; returns the hidden states of those that stay."""
        cut, layer = self.cuts[stage], self.layers[self.cuts[stage].layer]
        if cut.source == "same":
            hidden = hidden.to(home(layer, hidden.device))
        segment = self.state.segments[-1] = self.state.segments[-1].on(hidden.device)
        if cut.source == "same":
            states, tables = layer.input_layernorm(hidden), self.rotary(segment, hidden, tables)
            self.state.looks[stage][cut.layer] = self.look(cut, layer.self_attn, segment, states, tables, None)
        choices = [[self.choose(stage, cut, tokens, segment, hidden) for tokens in row] for row in segment.images]
        self.state.looks[stage] = {}
        return self.go_on(segment, choices, cut.layer, hidden)

    def go_on(self, segment: Segment, choices: list[list[Choice]], start: int, hidden: Tensor) -> Tensor:
        """Begin a new segment with what was chosen of the last; returns its hidden states."""
        state = self.state
        if state.step == 0:
            for choice in (choice for row in choices[:: state.beams] for choice in row):
                self.trace.record(choice)
        if self.pruner.mode == "mask":
            state.segments.append(hide(segment, choices, start))
            return hidden
        behind, columns = gather(segment, choices, start)
        if self.pruner.shrink_cache:
            for number in range(start):
                shrink(state.cache, number, columns)
            state.segments, behind = [], replace(behind, start=0)
        state.segments.append(behind)
        hidden = take(hidden, columns)
        for row, images in zip(choices, behind.images, strict=True):
            for choice, tokens in zip(row, images, strict=True):
                if choice.merged is not None:
                    hidden[tokens.row, tokens.slots] = choice.merged.hidden.to(hidden.dtype)
        return hidden

    def choose(self, stage: int, cut: Cut, tokens: Tokens, segment: Segment, hidden: Tensor) -> Choice:
        """One image's way through a cut."""
        dtype = None if self.debias.release is None else self.state.like.dtype  # the release ranks in the model's own
        return choose(self.pruner, self.view(stage, cut, tokens, segment, hidden), dtype)

    def view(self, stage: int, cut: Cut, tokens: Tokens, segment: Segment, hidden: Tensor) -> View:
        """What the method sees of one image's tokens at a cut; stage -1 is a look without a budget."""
        depth = len(self.layers)
        budget = self.pruner.counts(depth, tokens.span.total)[stage] if stage >= 0 else len(tokens)
        return View(
            cut=cut,
            stage=stage,
            layers=depth,
            count=min(self.debias.budget(budget, tokens.span), len(tokens)),
            tokens=tokens,
            adapter=self.adapter,
            debiaser=self.debias if self.trends is None else replace(self.debias, trend=self.trends[tokens.image]),
            sequence=None if self.state.step else hidden[tokens.row],
            text_slots=segment.text[tokens.row],
            looks=self.state.looks[stage],
            patches=self.patches(tokens),
            turn=stage - sum(earlier.source == "tower" for earlier in self.cuts[: stage + 1]),
        )

    def patches(self, tokens: Tokens) -> Patches | None:
        """What the vision tower saw of an image; None where it is not read, or where places are unknown."""
        if self.vision is None or not self.pruner.watches_tower() or tokens.span.index is not None:
            return None
        return self.vision.patches(tokens.image)

    def look(self, cut: Cut, attn: Any, segment: Segment, states: Tensor, tables: Any, cached: Any) -> Look:
        """Take down the queries that a score will ask for."""
        state = self.state
        segment, tables = segment.on(states.device), tuple(table.to(states.device) for table in tables)
        valid, columns = segment.valid, segment.length + state.step
        if valid is not None and state.step:
            valid = torch.nn.functional.pad(valid, (0, state.step), value=True)
        rows: list[Tensor] = []
        if cut.rows == "last" or state.step:
            queries = list(self.adapter.queries(attn, states[:, -1:]))
        else:
            rows = query_rows(cut, segment)
            queries = [self.adapter.queries(attn, states[row].index_select(0, at)) for row, at in enumerate(rows)]
        kind = "last" if state.step else cut.rows
        held = states if cached is None else None
        return Look(self.adapter, attn, kind, rows, queries, tables, columns, valid, cached, held)
