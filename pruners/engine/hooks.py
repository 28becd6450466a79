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

from debias import Debias, Span
from pruners.base import Cut, Pruner, check_score
from pruners.engine.compiled import LENT, Compiled
from pruners.engine.limits import Unsupported, checked, is_empty, refuse_cache, refuse_unsupported, warn_anew
from pruners.engine.masks import segment_mask
from pruners.engine.prefix import Prefix
from pruners.engine.recorder import Recorder
from pruners.engine.sequence import (
    Choice,
    Segment,
    first_segment,
    gather,
    hide,
    query_rows,
    real_columns,
    shrink,
    take,
)
from pruners.engine.trace import Trace
from pruners.engine.vision import Vision
from pruners.engine.watch import Watch
from pruners.models import Adapter, adapter
from pruners.models.base import home
from pruners.models.request import Size
from pruners.view import Look, Patches, Tokens, View

_running: WeakSet[Any] = WeakSet()


@contextmanager
def prune(
    pruner: Pruner, model: Any, debias: Debias, sizes: Sequence[Size | None] | None, prefix: Prefix | None = None
) -> Iterator[Trace]:
    """Prune `model` (or the model of an adapter) inside the block."""
    run = Run(pruner, model if isinstance(model, Adapter) else adapter(model), debias, sizes)
    run.prefix = prefix
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
        # Where pictures are padded, nobody but a debias that silences padding may depend on their sizes.
        self.sizes = sizes if debias.padding is not None or not family.pads else None
        self.decoder = family.decoder
        self.layers: Sequence[Any] = list(family.decoder.layers)
        self.kernel: str = family.decoder.config._attn_implementation
        self.cuts = checked(pruner, len(self.layers))
        pruner.check(family)
        self.prefix: Prefix | None = None
        self.trace = Trace(len(self.layers))
        self.handles: list[Any] = []
        self.watch = Watch(self)
        self.media: dict[str, Any] = {}
        inside = type(pruner).vision_layers is not Pruner.vision_layers
        self.vision = Vision(pruner, family, debias, self.sizes) if pruner.vision or inside else None
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
        self.ids: Tensor | None = None
        self.length = 0  # of the prompt
        self.padded = False  # whether the prompt has padding, and with it a mask that the model makes for every layer
        self.step = 0  # of decoding; 0 is the prefill
        self.given: list[dict[str, Any]] = []  # what each layer gets in this step of decoding instead
        self.like: Any = None  # an empty tensor [1, 1, 0] of the model's kind
        self.beams = 1

    # -- installing ----------------------------------------------------------------------------------------------------
    def install(self) -> None:
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
        self.handles.extend(self.adapter.hooks(self))
        if self.prefix is not None:
            self.handles.extend(self.prefix.install(self))
        if hasattr(self.adapter.model, "get_compiled_call"):
            self.handles.append(Compiled(self, self.adapter.model))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.forget()

    # -- the model as a whole ------------------------------------------------------------------------------------------
    def on_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        return None if torch.compiler.is_compiling() else self.begin(args, kwargs)  # see pruners.engine.compiled

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise Unsupported("pruning finds images by their tokens: pass input_ids, not inputs_embeds")
        cache = kwargs.get("past_key_values")
        ours = cache is not None and cache is self.cache
        if is_empty(cache, trusted=ours and ids.shape[1] == 1):
            warn_anew(None if self.cache is not None else self.ids, ids)
            self.watch.begin()
            self.trace.restart()
            self.trace.prefill.begin(ids.device)
            given = {name: kwargs[name] for name in self.adapter.media if kwargs.get(name) is not None}
            self.prefill(ids, kwargs.get("attention_mask"), {**self.media, **given})
            return None
        if not ours:
            raise Unsupported("the cache was filled outside this `with` block: start with an empty one inside it")
        if ids.shape[1] > 1 and self.segments:
            raise Unsupported(
                "several tokens at once behind a pruned prompt are not supported: "
                "no chunked prefill, assisted decoding or second turn on the same cache"
            )
        self.trace.decode.begin(ids.device)
        held = self.cache.layers[0]
        counted = not self.segments or hasattr(held, "max_cache_len")  # a static cache would have to ask the device
        self.step = self.step + 1 if counted else held.get_seq_length() - self.at(0).length + 1
        if self.pruner.mode == "mask":
            del self.segments[1:]  # they are ranked again, by what this token looks at
        elif not self.watch.resting and any(hasattr(layer, "max_cache_len") for layer in self.cache.layers):
            # Settled before the layers run: what they do with it is always the same, and can be compiled.
            self.given = [self.instead(number) for number in range(len(self.layers))]
        else:
            self.watch.step()
        if self.segments and self.at(0).columns is not None and kwargs.get("position_ids") is None:
            # Layer 0's cache is shorter than what was read, and the model would count from it.
            return args, {**kwargs, "position_ids": torch.full_like(ids, self.length + self.step - 1)}
        return None

    def on_answer(self, module: Any, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.end()

    def end(self) -> None:
        (self.trace.decode if self.step else self.trace.prefill).end(self.decoder.device)
        self.media.clear()
        for segment in self.segments:
            segment.rotary = segment.mask = None

    def prefill(self, ids: Tensor, mask: Any, media: Mapping[str, Any]) -> None:
        """Find the images of a new batch."""
        self.forget()
        self.length = ids.shape[1]
        inputs = {"input_ids": ids.cpu(), **media}
        spans = self.adapter.spans(inputs, self.sizes)
        if any(spans):
            real = real_columns(mask, self.length)
            self.ids, self.padded = ids, real is not None
            places = self.adapter.slots(inputs, spans)
            self.beams = self.repeats([span for row in spans for span in row])
            self.segments = [first_segment(spans, places, real, ids, self.beams, self.debias)]
            for row in self.segments[0].images[:: self.beams]:
                for tokens in row:
                    own = self.pruner.own_count(len(self.layers), tokens.span.total)
                    inside = [0] if self.vision is not None and self.vision.shrinking else []
                    layers = [*inside, *(cut.layer for cut in self.cuts)]
                    self.trace.add(tokens, layers, own, tokens.row // self.beams)

    def repeats(self, spans: Sequence[Span]) -> int:
        """How often beam search repeats every row, as far as it can be known."""
        if self.sizes:
            return max(len(spans) // len(self.sizes), 1)
        if self.vision is not None and self.vision.rows:
            return max(sum(map(self.adapter.views, spans)) // self.vision.rows, 1)
        return 1

    # -- a layer -------------------------------------------------------------------------------------------------------
    def on_layer(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = LENT.given if torch.compiler.is_compiling() else self.given
        if given:
            return (args, {**kwargs, **given[number]}) if given[number] else None
        return self.enter(number, args, kwargs)

    def instead(self, number: int) -> dict[str, Any]:
        """What a layer gets in a step of decoding, beside or in place of what the model gives it."""
        segment = self.at(number) if self.segments else None
        if segment is None or not segment.cut:
            return {}
        changed: dict[str, Any] = {"attention_mask": self.mask(segment, number, self.like), "position_ids": None}
        if segment.columns is not None and self.renumbered:
            changed["position_embeddings"] = self.rotary(segment, self.like)
        return changed

    def enter(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if number == 0 and self.step == 0:
            self.cache = kwargs.get("past_key_values")
        if not self.segments:
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if number == 0 and self.step == 0:
            refuse_cache(self.cache, self.kernel)
            self.like = hidden.new_empty(1, 1, 0)
            self.start(hidden)
            hidden = self.leave_out(hidden)
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
        if torch.compiler.is_compiling() or self.given or not self.segments:
            return
        self.record(number, attn, args, kwargs)

    def record(self, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
            valid = None if segment.valid is None else segment.valid.to(hidden.device)
            segment.mask = (segment_mask(self.kernel, hidden, valid, seen, columns),)
        mask: Tensor | None = segment.mask[0]
        return mask

    @property
    def renumbered(self) -> bool:
        return self.pruner.positions == "compact" and self.adapter.renumbers

    def rotary(
        self, segment: Segment, hidden: Tensor, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tables of a segment's tokens. While decoding the model's own are right, unless tokens are renumbered."""
        if segment.columns is None or (self.step and not self.renumbered):
            assert tables is not None
            return tables
        if segment.rotary is None:
            if self.renumbered:
                segment.rotary = self.adapter.rotary(hidden, segment.positions(self.step).to(hidden.device))
            else:
                assert tables is not None
                cos, sin = (take(table.to(segment.columns.device), segment.columns) for table in tables)
                segment.rotary = cos, sin
        return segment.rotary

    # -- a cut ---------------------------------------------------------------------------------------------------------
    def start(self, hidden: Tensor) -> None:
        """Let the pruner see the input embeddings."""
        if type(self.pruner).start is not Pruner.start:
            for row in self.segments[0].images:
                for tokens in row:
                    tokens.memo = self.pruner.start(self.view(-1, self.cuts[0], tokens, self.segments[0], hidden))

    def leave_out(self, hidden: Tensor) -> Tensor:
        """Take out what the vision tower has pruned already."""
        if self.vision is None or not self.vision.shrinking:
            return hidden
        segment, left = self.segments[-1], self.vision.survivors
        return self.go_on(segment, [[Choice(t, left(t.image)) for t in row] for row in segment.images], 0, hidden)

    def cut(self, stage: int, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Take tokens out before a layer; returns the hidden states of those that stay."""
        cut, layer = self.cuts[stage], self.layers[self.cuts[stage].layer]
        if cut.source == "same":
            hidden = hidden.to(home(layer, hidden.device))
        segment = self.segments[-1] = self.segments[-1].on(hidden.device)
        if cut.source == "same":
            states, tables = layer.input_layernorm(hidden), self.rotary(segment, hidden, tables)
            self.looks[stage][cut.layer] = self.look(cut, layer.self_attn, segment, states, tables, None)
        choices = [[self.choose(stage, cut, tokens, segment, hidden) for tokens in row] for row in segment.images]
        self.looks[stage] = {}
        return self.go_on(segment, choices, cut.layer, hidden)

    def go_on(self, segment: Segment, choices: list[list[Choice]], start: int, hidden: Tensor) -> Tensor:
        """Begin a new segment with what was chosen of the last one; returns its hidden states."""
        if self.step == 0:
            for choice in (choice for row in choices[:: self.beams] for choice in row):
                self.trace.record(choice)
        if self.pruner.mode == "mask":
            self.segments.append(hide(segment, choices, start))
            return hidden
        behind, columns = gather(segment, choices, start)
        if self.pruner.shrink_cache:
            for number in range(start):
                shrink(self.cache, number, columns)
            self.segments, behind = [], replace(behind, start=0)
        self.segments.append(behind)
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
        check_score(self.pruner, view.raw, len(tokens))
        if self.debias.release is not None:
            view.raw = view.raw.to(self.like.dtype)  # the release ranks in the model's own dtype
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
            count=min(self.debias.budget(budget, tokens.span), len(tokens)),
            tokens=tokens,
            adapter=self.adapter,
            debiaser=self.debias,
            sequence=None if self.step else hidden[tokens.row],
            text_slots=segment.text[tokens.row],
            looks=self.looks[stage],
            patches=self.patches(tokens),
        )

    def patches(self, tokens: Tokens) -> Patches | None:
        if self.vision is None or not self.pruner.vision:
            return None
        spans = [image.span for row in self.segments[0].images[:: self.beams] for image in row]
        return self.vision.patches(tokens.image, spans)

    def look(self, cut: Cut, attn: Any, segment: Segment, states: Tensor, tables: Any, cached: Any) -> Look:
        """Take down the queries that a score will ask for."""
        segment, tables = segment.on(states.device), tuple(table.to(states.device) for table in tables)
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
