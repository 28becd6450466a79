"""Another reading of attention, against attention worked out by hand from the model's own projections."""

import pytest
import torch

import pruners
from debias import Debias, Reading
from pruners.engine.limits import Unsupported


def by_hand(adapter, encoded, layer, rope):
    """[H, n, n] float64 attention of one decoder layer on a single prompt; rope=False leaves the rotation out."""
    caught = {}
    attn = adapter.decoder.layers[layer].self_attn

    def keep(module, args, kwargs):
        caught.update(
            states=kwargs.get("hidden_states", args[0] if args else None), rotary=kwargs["position_embeddings"]
        )

    handle = attn.register_forward_pre_hook(keep, with_kwargs=True)
    adapter.model(**encoded.inputs)
    handle.remove()
    states = caught["states"][0]
    query = adapter.queries(attn, states).transpose(0, 1).double()
    key = adapter.keys(attn, states).transpose(0, 1).double()
    if rope:
        cos, sin = (table[0].double() for table in caught["rotary"])
        query, key = adapter.rotate(query, cos, sin), adapter.rotate(key, cos, sin)
    key = key.repeat_interleave(len(query) // len(key), 0)
    logits = query @ key.transpose(1, 2) * adapter.scale(attn)
    count = logits.shape[-1]
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    return logits.masked_fill(later, -float("inf")).softmax(-1)


def expected(weights, heads):
    """[V] of [H, R, V]: the mean of the heads that give the picture most."""
    best = sorted(range(len(weights)), key=lambda head: -float(weights[head].sum()))[:heads]
    return weights[best].sum(1).mean(0)


READINGS = [(False, None), (True, 2), (False, 1)]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(("rope", "heads"), READINGS)
def test_every_method_scores_what_is_read_by_hand(get, requests, family, rope, heads):
    adapter = get(family)
    encoded = adapter.encode(requests[:1])
    span = adapter.spans({k: v.cpu() if hasattr(v, "cpu") else v for k, v in encoded.inputs.items()}, encoded.sizes)[0][
        0
    ]
    own = slice(span.start, span.start + span.total)
    debias = Debias(reading=Reading(rope, heads))
    cuts = {
        pruners.make("fastv", keep=0.5, layer=3): (2, slice(-1, None)),
        pruners.make("pyramiddrop", layers=(3,), ratios=(0.5,)): (3, slice(-1, None)),
        pruners.make("himap", keeps=(8, 6), layer=3): (2, slice(span.start + span.total, None)),
    }
    for method, (layer, rows) in cuts.items():
        weights = by_hand(adapter, encoded, layer, rope)[:, rows, own]
        with method(adapter, debias, encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        raw, score = trace.scores[0][0]
        torch.testing.assert_close(raw.double(), expected(weights, heads or len(weights)), rtol=1e-4, atol=1e-6)
        assert torch.equal(raw, score)


def test_without_rotation_position_does_not_enter(get, builders):
    """Before the first layer's attention all copies of one patch are alike: raw scores differ by position alone."""
    from pruners.models import Request

    adapter = get("llava")
    tower = adapter.inner.vision_tower
    encoded = adapter.encode([Request("What is it?", [builders.picture(64, 64)])])
    handle = adapter.inner.multi_modal_projector.register_forward_hook(
        lambda module, args, out: out[:, :1].expand_as(out)
    )
    assert tower is not None
    found = {}
    for name, debias in (("raw", Debias()), ("unrotated", Debias(reading=Reading(rope=False)))):
        with pruners.make("fastv", keep=0.5, layer=1)(adapter, debias, encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        found[name] = trace.scores[0][0][0]
    handle.remove()
    assert float(found["raw"].std() / found["raw"].mean()) > 1e-3
    assert float(found["unrotated"].std() / found["unrotated"].mean()) < 1e-5


def test_a_padded_batch_is_read_as_its_singles(get, requests):
    adapter = get("llava")
    debias = Debias(reading=Reading(False, 2))
    method = pruners.make("sparsevlm", keep=0.3)
    together = adapter.encode(requests)
    with method(adapter, debias, together.sizes) as trace:
        adapter.model(**together.inputs)
    kept = [index.tolist() for index in trace.kept[-1]]
    for number, request in enumerate(requests):
        single = adapter.encode([request])
        with method(adapter, debias, single.sizes) as trace:
            adapter.model(**single.inputs)
        assert trace.kept[-1][0].tolist() == kept[number]


def test_a_method_that_reads_the_tower_ignores_it_and_a_mask_refuses_it(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    debias = Debias(reading=Reading(rope=False))
    found = []
    for one in (Debias(), debias):
        with pruners.make("vispruner", keep=0.3)(adapter, one, encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        found.append(trace.kept[0][0].tolist())
    assert found[0] == found[1]
    with pytest.raises(Unsupported, match="need mode='gather'"):
        pruners.make("fastv", mode="mask")(adapter, debias, encoded.sizes).__enter__()
