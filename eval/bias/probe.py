"""The attention of every decoder layer of an unpruned model on the visual tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debias import Span
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.models.base import Adapter
from pruners.models.request import Request
from pruners.parts.budget import Budget
from pruners.view import View

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class AttentionProbe(Pruner):
    """A pruner that keeps everything and writes down what the last prompt token looks at, layer by layer."""

    keep: Budget = 1.0
    rotary: bool = True  # False: queries and keys before rotation
    seen: list[tuple[int, Span, Tensor]] = field(default_factory=list, compare=False, repr=False)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(layers - 1, 1.0, source="same", also=tuple(range(layers - 1)))]

    def score(self, view: View) -> Tensor:
        rows = torch.stack([view.attend(layer, self.rotary)[:, -1] for layer in range(view.layers)])
        self.seen.append((view.image, view.span, rows.cpu()))
        return rows[-1].mean(0)


@dataclass(frozen=True)
class Watched:
    """attention [samples, layers, heads, tokens]; spans[sample]; all samples share one layout."""

    attention: Array
    spans: list[Span]

    @property
    def heads_mean(self) -> Array:
        """[samples, layers, tokens]"""
        return np.asarray(self.attention.mean(2))


@contextmanager
def wordy(family: Adapter, slots: Sequence[Sequence[Tensor]], seed: int) -> Iterator[None]:
    """Inside the block, a word drawn at random stands at every place of a visual token, one prefill long.

    slots: for every row of the batch and each of its pictures, where its tokens stand.
    """
    table = family.decoder.get_input_embeddings().weight
    special = set(getattr(family.tokenizer, "all_special_ids", ()))
    usual = torch.tensor([word for word in range(len(table)) if word not in special])
    rng = torch.Generator().manual_seed(seed)

    def replace(_: Any, args: Any, kwargs: Any) -> Any:
        words = kwargs["inputs_embeds"].clone()
        if words.shape[1] > 1:
            for row, pictures in enumerate(slots):
                for place in pictures:
                    drawn = usual[torch.randint(len(usual), (len(place),), generator=rng)]
                    words[row, place.to(words.device)] = table[drawn.to(table.device)].to(words)
        return args, {**kwargs, "inputs_embeds": words}

    hook = family.decoder.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def watch(
    family: Adapter, requests: Sequence[Request], rotary: bool = True, batch: int = 8, words: int | None = None
) -> Watched:
    """Runs the prompts once each; returns what was seen of the pictures of the commonest layout, of each request once.

    words: the seed of random words that stand in the places of visual tokens; None: the pictures are seen.
    """
    rows, spans = [], []
    for first in range(0, len(requests), batch):
        encoded = family.encode(requests[first : first + batch])
        probe, sized = AttentionProbe(rotary=rotary), family.spans(encoded.inputs, encoded.sizes)
        slots = family.slots(encoded.inputs, sized)
        around = nullcontext() if words is None else wordy(family, slots, words + first)
        with around, probe(family, sizes=encoded.sizes):
            family.model.generate(**encoded.inputs, max_new_tokens=1, do_sample=False)
        seen = [weights.numpy() for _, _, weights in sorted(probe.seen, key=lambda entry: entry[0])]
        rows += by_request(seen, sized)
        spans += [row[0] for row in sized if row]
    return commonest(rows, spans)


@torch.inference_mode()
def first_cut(family: Adapter, pruner: Pruner, requests: Sequence[Request], batch: int = 8) -> tuple[Watched, int]:
    """What a method's own score says of every visual token at its first cut, as one layer with one head; and how many
    tokens stay there. Of the pictures of the commonest layout."""
    rows, spans, kept = [], [], {}
    for first in range(0, len(requests), batch):
        encoded = family.encode(requests[first : first + batch])
        with pruner(family, sizes=encoded.sizes) as trace:
            family.model.generate(**encoded.inputs, max_new_tokens=1, do_sample=False)
        sized = family.spans(encoded.inputs, encoded.sizes)
        scored = []
        for span, scores, chosen in zip([s for row in sized for s in row], trace.scores[0], trace.kept[0], strict=True):
            if scores is None:
                raise ValueError(f"{pruner}: its first cut scores nothing, so no bias of it can be measured")
            scored.append(scores[0].float().cpu().numpy()[None, None])
            kept[len(span)] = len(chosen)
        rows += by_request(scored, sized)
        spans += [row[0] for row in sized if row]
    seen = commonest(rows, spans)
    return seen, kept[len(seen.spans[0])]


def by_request(seen: Sequence[Array], sized: Sequence[Sequence[Span]]) -> list[Array]:
    """What was `seen` of each span, as one sample a request: the mean over its spans. A clip has several where a family
    puts words between its frames, and these are no pictures of their own."""
    left = iter(seen)
    return [np.mean([next(left) for _ in row], 0) for row in sized if row]


def commonest(rows: Sequence[Array], spans: Sequence[Span]) -> Watched:
    """Those of the commonest layout: a trend belongs to one layout, and tiles or clips make several."""
    lengths = [len(span) for span in spans]
    common = max(sorted(set(lengths)), key=lengths.count)
    chosen = [number for number, length in enumerate(lengths) if length == common]
    return Watched(np.stack([rows[number] for number in chosen]), [spans[number] for number in chosen])
