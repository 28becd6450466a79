"""What an unpruned model does with the visual tokens: the attention of every decoder layer on them, and the hidden
states of padding tokens beside those of the others, layer by layer: whether padding is an attention sink.

A sink shows in a few dimensions of the hidden state that are far larger than the rest, the same ones at the first token
of a sequence and at every other sink (https://arxiv.org/abs/2503.03321). Activations are relative to the root mean
square of the token's hidden state, as the layer's norm makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debias import Padding, Span
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.models.base import Adapter
from pruners.models.request import Request
from pruners.parts.budget import Budget
from pruners.view import View

Array = np.ndarray[Any, np.dtype[Any]]
DIMENSIONS = 2  # of a sink, as LLaMA has them
KINDS = ("padding", "valid")


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


@dataclass(frozen=True)
class Activations:
    """What enters each decoder layer.

    dimensions: the sink's, largest at the first token. first [layers]: its activation there.
    at_sink[kind] [pictures, layers]: the mean of that over a picture's tokens of one kind.
    profile[kind] [layers, width]: of every dimension, the mean over pictures.
    """

    dimensions: list[int]
    first: Array
    at_sink: dict[str, Array]
    profile: dict[str, Array]


@torch.inference_mode()
def activations(family: Adapter, requests: Sequence[Request]) -> Activations:
    """Runs each request once, unpruned; pictures without padding, or with nothing else, are left out."""
    dimensions: list[int] = []
    first = np.zeros(0)
    at_sink: dict[str, list[Array]] = {kind: [] for kind in KINDS}
    profile: dict[str, list[Array]] = {kind: [] for kind in KINDS}
    for request in requests:
        encoded = family.encode([request])
        (spans,) = family.spans(encoded.inputs, encoded.sizes)
        (slots,) = family.slots(encoded.inputs, [spans])
        padded = [(where, ~Padding().valid(span)) for where, span in zip(slots, spans, strict=True)]
        padded = [(where, mask) for where, mask in padded if mask.any() and not mask.all()]
        if not padded:
            continue
        output = family.model(**encoded.inputs, output_hidden_states=True, use_cache=False)
        states = torch.stack([relative(state[0]) for state in output.hidden_states[:-1]])  # the last enters no layer
        if not dimensions:  # nothing comes before the first token, so it is the same in every sequence
            dimensions = states[:, 0].amax(0).topk(DIMENSIONS).indices.tolist()
            first = states[:, 0, dimensions].amax(-1).cpu().numpy()
        for where, mask in padded:
            for kind, chosen in zip(KINDS, (where[mask], where[~mask]), strict=True):
                mine = states[:, chosen.to(states.device)]
                at_sink[kind].append(mine[..., dimensions].amax(-1).mean(1).cpu().numpy())
                profile[kind].append(mine.mean(1).cpu().numpy())
    if not dimensions:
        raise ValueError(f"none of {len(requests)} pictures has padding: they are square, or this model pads nothing")
    return Activations(
        dimensions,
        first,
        {kind: np.stack(rows) for kind, rows in at_sink.items()},
        {kind: np.mean(rows, axis=0) for kind, rows in profile.items()},
    )


def relative(states: Tensor) -> Tensor:
    """[tokens, width] absolute values over the root mean square of each token."""
    states = states.float()
    return states.abs() / states.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
