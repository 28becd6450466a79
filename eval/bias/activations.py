"""Hidden states of padding tokens beside those of the others, layer by layer: whether padding is an attention sink.

A sink shows in a few dimensions of the hidden state that are far larger than the rest, the same ones at the first token
of a sequence and at every other sink (https://arxiv.org/abs/2503.03321). Activations are relative to the root mean
square of the token's hidden state, as the layer's norm makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debias import Padding
from pruners.models.base import Adapter
from pruners.models.request import Request

Array = np.ndarray[Any, np.dtype[Any]]
DIMENSIONS = 2  # of a sink, as LLaMA has them
KINDS = ("padding", "valid")


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
