"""What the hooks on the decoder's layers hand to them, on a run whose model is not run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from spying import Told

from pruners.cut import Cut
from pruners.engine import hooks
from pruners.engine.limits import Unsupported
from pruners.engine.masks import segment_mask
from pruners.engine.sequence import Segment


def test_a_layer_behind_a_cut_gets_its_segments_mask_and_tables(begun):
    """However it is called; all else that it is given stays."""
    run = begun()
    state, first = run.state, run.state.segments[0]
    columns = torch.stack([torch.arange(5, 12), torch.arange(3, 10)])
    valid = torch.arange(7) > torch.tensor([[1], [-1]])
    state.segments.append(Segment(2, 7, first.images, first.text, valid, columns))
    hidden, tables = torch.randn(2, 7, 32), (torch.randn(1, state.length, 8), torch.randn(1, state.length, 8))
    given = {"attention_mask": "own", "position_ids": "own", "position_embeddings": tables, "other": 5}
    for step in (0, 1):
        state.step, state.segments[1].mask, state.segments[1].rotary = step, None, None
        assert run.enter(1, (hidden,), {**given, "past_key_values": "cache"}) is None
        args, changed = run.enter(3, (hidden, "more"), given)
        assert args[0] is hidden
        assert args[1:] == ("more",)
        for name in ("attention_mask", "position_embeddings", "position_ids"):
            assert name in changed
        assert changed["position_ids"] is None
        assert changed["other"] == 5
        wanted = segment_mask(state.kernel, hidden, valid, 7 + step)
        assert torch.equal(changed["attention_mask"], wanted)
        for ours, table in zip(changed["position_embeddings"], tables, strict=True):
            assert torch.equal(ours, table if step else table[0][columns])
        args, again = run.enter(3, (), {**given, "hidden_states": hidden})
        assert args == ()
        assert again["hidden_states"] is hidden
        assert again["attention_mask"] is changed["attention_mask"]
    state.segments = []
    assert run.enter(3, (hidden,), given) is None


def test_a_layer_that_looks_at_itself_is_cut_where_it_lives(begun, monkeypatch):
    asked = []
    monkeypatch.setattr(hooks, "home", lambda layer, device: asked.append(layer) or device)
    for source in ("previous", "same"):
        run = begun(Told(1.0, (Cut(2, 12, source),)))
        run.choose = lambda stage, cut, tokens, segment, hidden: hooks.Choice(tokens, torch.arange(12))
        tables = run.adapter.rotary(torch.zeros(1), torch.arange(run.state.length)[None])
        left = run.cut(0, torch.randn(2, run.state.length, 32), tables)
        assert left.shape == (2, run.state.length - 24, 32)
        assert asked == ([] if source == "previous" else [run.layers[2]])
        assert run.state.looks == [{}]


def test_the_first_layer_of_a_prompt_settles_what_holds_for_all(begun):
    """Which cache is filled, and what kind of numbers the model has."""
    run = begun()
    state, hidden = run.state, torch.randn(2, run.state.length, 32, dtype=torch.float16)
    for cache in (SimpleNamespace(layers=[]), None):
        assert run.enter(0, (hidden,), {"past_key_values": cache}) is None
        assert run.enter(1, (hidden,), {"past_key_values": "another"}) is None
        assert state.cache is cache
        assert (state.like.shape, state.like.dtype) == ((1, 1, 0), torch.float16)
    quantised = SimpleNamespace(layers=[type("QuantizedLayer", (), {})()])
    with pytest.raises(Unsupported, match="a cache of QuantizedLayer is not supported"):
        run.enter(0, (hidden,), {"past_key_values": quantised})
    state.step = 1
    run.enter(0, (hidden,), {"past_key_values": "another"})
    assert state.cache is quantised
    state.forget()  # a prompt without pictures
    assert run.enter(0, (hidden,), {"past_key_values": cache}) is None
    assert (state.cache, state.like) == (cache, None)


@pytest.mark.parametrize("named", [True, False])
def test_a_layer_gets_what_is_left_at_its_cut(named, begun):
    """However it is called; the images' first tokens, and all that is text."""
    run = begun(Told(1.0, (Cut(2, 12),)))
    run.choose = lambda stage, cut, tokens, segment, hidden: hooks.Choice(tokens, torch.arange(12))
    first, hidden = run.state.segments[0], torch.randn(2, run.state.length, 32)
    tables = run.adapter.rotary(hidden, torch.arange(run.state.length)[None])
    given = {"position_embeddings": tables, **({"hidden_states": hidden} if named else {})}
    args, changed = run.enter(2, () if named else (hidden,), given)
    (left,) = args or [changed["hidden_states"]]
    for row, (text, (tokens,)) in enumerate(zip(first.text, first.images, strict=True)):
        slots = torch.cat([text, tokens.slots[:12]]).sort().values
        assert torch.equal(left[row, -len(slots) :], hidden[row, slots])


def test_a_cache_may_grow_layer_by_layer(begun):
    """A layer behind a cut that the cache has no place for yet gets the mask of any other that is not static."""
    run = begun()
    state, first = run.state, run.state.segments[0]
    hidden, layer = torch.randn(2, 5, 32), SimpleNamespace(max_cache_len=9)
    for held, columns in (([layer] * 2, None), ([layer] * 3, 9)):
        state.cache = SimpleNamespace(layers=held)
        segment = Segment(2, 5, first.images, first.text, torch.ones(2, 5) > 0)
        wanted = segment_mask(state.kernel, hidden, segment.valid, 5, columns)
        assert torch.equal(run.mask(segment, 2, hidden), wanted)
