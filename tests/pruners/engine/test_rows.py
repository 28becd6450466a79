"""Whose attention a score reads: the rows of its own image, every head, and the columns that are there."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import pruners
from debias import Debias, Padding, Span
from pruners import Cut, Merged, Pruner
from pruners.engine.sequence import unpadded
from pruners.models import Request


@dataclass(frozen=True)
class Twice(Pruner):
    """Two cuts, the second of which takes down what its score could read."""

    rows: str = "visual"
    seen: list[Any] = field(default_factory=list, compare=False)

    def cuts(self, layers):
        return [Cut(2, 0.5), Cut(4, 0.25, rows=self.rows)]

    def score(self, view):
        if view.stage:
            self.seen.append((view.tokens, view.attention))
        return torch.arange(len(view.tokens), 0, -1).float() * (1 + view.tokens.image)


def test_rows_of_an_image_behind_a_cut_are_its_own(get, builders):
    """Of a prompt with two pictures, the second's queries stand behind what is left of the first."""
    adapter = get("llava")
    pictures = [builders.picture(64, 64, seed) for seed in range(2)]
    encoded = adapter.encode([Request("<image>\nWhat is it? <image>\nAnd what is this?", pictures)])
    found = {}
    for rows in ("visual", "all"):
        pruner = Twice(keep=0.25, rows=rows)
        with pruner(adapter, Debias(), encoded.sizes):
            adapter.model(**encoded.inputs)
        found[rows] = pruner.seen
    assert [tokens.image for tokens, _ in found["visual"]] == [0, 1]
    for (tokens, own), (_, every) in zip(found["visual"], found["all"], strict=True):
        assert own.shape[1] == len(tokens)
        torch.testing.assert_close(own, every[:, tokens.slots])


@dataclass(frozen=True)
class Noting(pruners.find("fastv")):
    seen: list[Any] = field(default_factory=list, compare=False)

    def score(self, view):
        found = super().score(view)
        self.seen.append((view.tokens.row, found))
        return found


def test_a_padded_row_weighs_the_tokens_it_has_generated(get, requests, run):
    """mode="mask" ranks again at every step: the newest token's attention is spread over what was generated too, in a
    padded batch as alone."""
    adapter = get("llava")
    batch = adapter.encode(requests[:2])
    together = Noting(keep=8, mode="mask")
    with together(adapter, Debias(), batch.sizes):
        answers = run(adapter, batch).sequences[:, -3:]
    short = int(batch.inputs["attention_mask"].sum(1).argmin())
    alone = Noting(keep=8, mode="mask")
    encoded = adapter.encode(requests[short : short + 1])
    assert encoded.inputs["input_ids"].shape[1] < batch.inputs["input_ids"].shape[1]
    with alone(adapter, Debias(), encoded.sizes):
        assert run(adapter, encoded).sequences[0, -3:].tolist() == answers[short].tolist()
    ours = [score for row, score in together.seen if row == short]
    assert len(ours) == len(alone.seen) == 3  # the prompt, and two steps
    for here, (_, there) in zip(ours, alone.seen, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)


def test_vispruner_ranks_by_the_mean_of_all_heads(builders, requests):
    """As the tower itself computes its attention."""
    adapter = builders.adapter("llava", attention="eager", layers=4)
    encoded = adapter.encode(requests[:1])
    with pruners.make("vispruner", keep=12)(adapter, Debias(), encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    tower = adapter.inner.vision_tower
    seen = tower(encoded.inputs["pixel_values"], output_attentions=True).attentions
    heads = seen[adapter.tower.feature_layer][0, :, 0, 1:]
    assert len(heads) == 4
    raw, _ = trace.scores[0][0]
    torch.testing.assert_close(raw, heads.mean(0))
    assert not torch.allclose(raw, heads[0])


@dataclass(frozen=True)
class Inside(Pruner):
    """Drops the last patch behind a layer of the tower, and takes down what it was told."""

    seen: list[Any] = field(default_factory=list, compare=False)

    def cuts(self, layers):
        return [Cut(2, self.keep)]

    def score(self, view):
        return torch.arange(len(view.tokens)).float()

    def vision_layers(self, layers):
        return (0, 1)

    def vision_merge(self, view):
        self.seen.append(view)
        place = torch.arange(len(view.index) - 1)
        return Merged(view.hidden[:-1], place, place >= 0, place[:0])


def test_a_merge_in_the_tower_is_told_what_shows_the_picture(get, requests):
    """[CLS] is no padding, wherever it stands; and each patch is what the mask says of its place."""
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    pruner, padding = Inside(keep=4), Padding()
    with pruner(adapter, Debias(padding=padding), encoded.sizes):
        adapter.model(**encoded.inputs)
    side = int(len(pruner.seen[0].index[1:]) ** 0.5)
    whole = padding.valid(encoded.sizes[0], (side, side)).flatten()
    assert not whole.all()
    for stage, view in enumerate(pruner.seen):
        assert view.index.tolist() == [-1, *range(side**2 - stage)]
        assert view.valid.tolist() == [True, *whole[: side**2 - stage].tolist()]


def test_where_all_would_be_padding_none_is():
    """A picture so thin that no patch shows half of it: the debias silences none of it, and neither do the methods."""
    padding = Padding(threshold=0.5)
    thin = Span(0, (6, 6), size=(1000, 1))
    assert not padding.valid((1000, 1), (6, 6)).any()
    assert unpadded(padding, thin).tolist() == [True] * 36
    half = replace(thin, size=(1000, 500))
    assert unpadded(padding, half).tolist() == padding.valid((1000, 500), (6, 6)).flatten().tolist()


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_tables_of_tokens_numbered_anew_are_the_models_own(builders, requests, run, kind):
    """Some kinds of rotary embedding heed how far the sequence goes: a table made ahead would be another one."""
    text = builders.config("llava").text_config.to_dict()
    text |= {"rope_parameters": {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}}
    text |= {"max_position_embeddings": 16}
    adapter = builders.adapter("llava", text_config=text)
    encoded = adapter.encode(requests[:1])
    tables = []

    def note(attn, args, kwargs):
        tables.append(kwargs["position_embeddings"])

    handle = adapter.decoder.layers[-1].self_attn.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with pruners.make("sparsevlm", keep=0.3)(adapter, Debias(), encoded.sizes):
            run(adapter, encoded)
    finally:
        handle.remove()
    prompt, *steps = tables
    left = prompt[0].shape[1]
    assert left > 16
    assert len(steps) == 2
    own, whole = type(adapter.decoder.rotary_emb)(adapter.decoder.config), encoded.inputs["input_ids"].shape[1]
    own(prompt[0], torch.arange(whole)[None])  # what the model has asked it before
    for step, (cos, sin) in enumerate(steps):
        torch.testing.assert_close((cos, sin), own(prompt[0], torch.tensor([[left + step]])))
        own(prompt[0], torch.tensor([[whole + step]]))  # the model asks for its own positions as well
