"""Padding told by the hidden state: what methods do with attention sinks. Which they are: debias/test_sinks.py."""

import pytest

import pruners
from debias import Debias, Padding, Trend


@pytest.fixture
def sunk(get, requests):
    """A model in which every second token of the picture carries the first token's activation, and its batch."""
    adapter = get("llava")
    encoded = adapter.encode(requests)
    spans = [row[0] for row in adapter.spans(encoded.inputs, encoded.sizes)]
    real = encoded.inputs["attention_mask"].argmax(1)

    def mark(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        for row, span in enumerate(spans):
            hidden[row, real[row], 5] = 500.0
            hidden[row, span.start : span.start + span.total : 2, 5] = 500.0
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = adapter.decoder.layers[2].register_forward_pre_hook(mark, with_kwargs=True)
    yield adapter, encoded
    handle.remove()


@pytest.mark.parametrize("name", ["fastv", "himap", "grid", "feather"])
def test_tokens_that_are_sinks_are_never_preferred(sunk, name):
    adapter, encoded = sunk
    method = pruners.make(name, keep=12, **({"layers": (3, 5)} if name == "feather" else {"layer": 3}))
    for debias in (Debias(padding=Padding.sink(4.0)), Debias(Trend.exponential(0.01), Padding.sink(4.0))):
        with method(adapter, debias) as trace:  # no sizes: places do not matter
            adapter.model(**encoded.inputs)
        for kept in trace.kept[0]:
            assert int((kept % 2 == 1).sum()) == min(len(kept), 18)
    with method(adapter, Debias(padding=Padding.sink(1e6)), encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    with method(adapter, Debias(), encoded.sizes) as plain:
        adapter.model(**encoded.inputs)
    assert [kept.tolist() for kept in trace.kept[0]] == [kept.tolist() for kept in plain.kept[0]]


def test_where_every_token_is_a_sink_none_is_silenced(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])

    def mark(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[..., 5] = 500.0
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = adapter.decoder.layers[2].register_forward_pre_hook(mark, with_kwargs=True)
    kept = []
    for debias in (Debias(), Debias(padding=Padding.sink(4.0))):
        with pruners.make("fastv", keep=12, layer=3)(adapter, debias, encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        kept.append(trace.kept[0][0].tolist())
    handle.remove()
    assert kept[0] == kept[1]


def test_where_no_hidden_state_is_at_hand_it_says_so(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    with pytest.raises(ValueError, match="cuts before the first layer"):
        pruners.make("vispruner", keep=0.3)(adapter, Debias(padding=Padding.sink()), encoded.sizes).__enter__()
