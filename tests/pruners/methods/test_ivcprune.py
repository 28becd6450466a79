"""IVC-Prune against its description, token by token."""

import math
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding
from pruners.methods.ivcprune import anchors, likeness
from pruners.models import Request


@pytest.mark.parametrize("count", [0, 1, 5, 12, 40])
@pytest.mark.parametrize("start", [0, 35])
def test_coordinates_are_where_cosines_and_sines_sum_highest(count, start):
    turns = [10_000 ** (-2 * k / 16) for k in range(8)]
    at = range(start, start + 40)
    real = [sum(math.cos(m * turn) for turn in turns) for m in at]
    imaginary = [sum(math.sin(m * turn) for turn in turns) for m in at]
    angles = torch.tensor([[m * turn for turn in turns] * 2 for m in at])
    order = [sorted(range(40), key=lambda m: -part[m]) for part in (real, imaginary)]
    expected = set()
    for pair in zip(*order, strict=True):
        for token in pair:
            if len(expected) < count:
                expected.add(token)
    assert set(anchors(angles.cos(), angles.sin(), count).nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("seed", range(3))
def test_likeness_is_the_mean_softmax_over_the_words(seed):
    generator = torch.Generator().manual_seed(seed)
    words, patches = torch.randn(4, 6, generator=generator), torch.randn(9, 6, generator=generator)
    expected = [0.0] * 9
    for word in words.tolist():
        raised = [math.exp(sum(a * b for a, b in zip(word, p, strict=True)) / math.sqrt(6)) for p in patches.tolist()]
        expected = [a + b / sum(raised) / 4 for a, b in zip(expected, raised, strict=True)]
    torch.testing.assert_close(likeness(words, patches), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert likeness(words[:0], patches).tolist() == [0.0] * 9  # no text behind the picture
    assert float(likeness(words[:1], patches).sum()) == pytest.approx(1)


def test_what_turns_by_half_a_circle_comes_before_padding():
    half, valid = -torch.ones(3, 4), torch.tensor([False, True, True])
    view = SimpleNamespace(valid=valid, rotary=(half, half), count=1)
    assert pruners.make("ivcprune", coordinates=1.0).select(torch.tensor([1.0, 2.0, 3.0]), view).tolist() == [1]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("padding", [None, Padding()])
def test_kept_sets_match_the_description(get, builders, family, padding):
    adapter = get(family)
    encoded = adapter.encode([Request("What is the colour of it?", [builders.picture(90, 50)])])
    ((span,),) = adapter.spans(encoded.inputs, encoded.sizes)
    method = pruners.make("ivcprune", keep=0.5, layer=3, seeds=0.1)
    caught = {}
    attn = adapter.decoder.layers[2].self_attn

    def keep(module, args, kwargs):
        caught.update(states=kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        caught["rotary"] = kwargs["position_embeddings"]

    handle = attn.register_forward_pre_hook(keep, with_kwargs=True)
    adapter.model(**encoded.inputs)
    handle.remove()
    with method(adapter, Debias(padding=padding), encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    own, text = slice(span.start, span.start + span.total), slice(span.start + span.total, None)
    values = adapter.values(attn, caught["states"][0]).flatten(1)
    patches, words = values[own], values[text]
    shown = torch.ones(span.total, dtype=torch.bool)
    if padding is not None and adapter.pads:
        shown = padding.valid(span)
    tokens = range(span.total)
    first = likeness(words, patches)
    seeds = sorted(tokens, key=lambda t: (not shown[t], -float(first[t])))[: max(1, int(0.1 * span.total))]
    score = likeness(torch.cat([words, patches[seeds]]), patches)
    cos, sin = (table[0][own] for table in caught["rotary"])
    budget = int(span.total * 0.5)
    order = [sorted(tokens, key=lambda t: (not shown[t], -float(part[t].sum()), t)) for part in (cos, sin)]
    fixed = []
    for token in (token for pair in zip(*order, strict=True) for token in pair):
        if token not in fixed and len(fixed) < int(0.2 * budget) and shown[token]:
            fixed.append(token)
    rest = sorted((t for t in tokens if t not in fixed), key=lambda t: (not shown[t], -float(score[t]), t))
    assert trace.kept[0][0].tolist() == sorted((fixed + rest)[:budget])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="coordinates=2"):
        pruners.make("ivcprune", coordinates=2.0)
    with pytest.raises(ValueError, match="seeds=-1"):
        pruners.make("ivcprune", seeds=-1.0)
