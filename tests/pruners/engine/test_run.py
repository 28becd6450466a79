"""What one `with` block does around the layers, part by part, on a small model that is hardly ever run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from spying import Told

from debias import Debias, Padding, Reading, Trend
from debias.release import Release
from pruners.cut import Cut
from pruners.engine import hooks
from pruners.engine.hooks import Run
from pruners.engine.limits import Unsupported

PADDING = Debias(padding=Padding())


class Watching(Told):
    reads = "vision"


class Inside(Told):
    def vision_layers(self, layers):
        return (1,)


@pytest.fixture(scope="module")
def llava(get):
    return get("llava")


def prompt(batch, beams=1):
    ids, mask = (batch.inputs[name].repeat_interleave(beams, 0) for name in ("input_ids", "attention_mask"))
    return ids, mask


# a block --------------------------------------------------------------------------------------------------------------
def test_a_run_keeps_of_a_debias_what_means_something_to_the_method(made, llava, monkeypatch):
    trend, reading = Trend.exponential(0.1), Reading(heads=2)
    for one in (
        Debias(trend, Padding()), Debias(padding=Padding(), reading=reading), Debias(trend, Padding(), reading=reading)
    ):  # fmt: skip
        assert made(Told(), one).debias is one
        assert made(Watching(), one).debias == PADDING
    assert made(Watching(), PADDING).debias is PADDING
    assert [made(pruner).vision is None for pruner in (Told(), Watching(), Inside())] == [True, False, False]
    with pytest.raises(ValueError, match="silences padding and needs the size of every image before padding"):
        Run(Told(), llava, PADDING, None)
    for unplaced in (Debias(), Debias(padding=Padding.sink())):
        assert Run(Told(), llava, unplaced, None).sizes is None
    sizes = [(1, 2)]
    assert Run(Told(), llava, PADDING, sizes).sizes is sizes
    assert Run(Told(), llava, Debias(), sizes).sizes is None  # nobody may depend on them
    monkeypatch.setattr(llava, "pads", False, raising=False)
    assert Run(Told(), llava, Debias(), sizes).sizes is sizes
    assert Run(Told(), llava, PADDING, None).sizes is None

    class Choosy(Told):
        def check(self, adapter):
            raise ValueError("not on this model")

    with pytest.raises(ValueError, match="not on this model"):
        made(Choosy())

    class Anew(Inside):
        mode = "mask"

    with pytest.raises(Unsupported, match="mode='mask' ranks all tokens again at every step"):
        made(Anew())


def test_what_a_run_installs_goes_with_it(made, llava, monkeypatch):
    """Methods of the model are watched only where a family's spans depend on what they are given."""
    inner, names, own = llava.inner, ["get_image_features", "get_video_features"], []
    monkeypatch.setattr(llava, "hooks", lambda state: [SimpleNamespace(remove=lambda: own.append(state))])
    monkeypatch.setattr(type(inner), names[1], lambda self, grid=None: grid, raising=False)
    for media in ((), ("grid",)):
        monkeypatch.setattr(llava, "media", media, raising=False)
        run = made()
        run.install()
        assert [name for name in names if name in vars(inner)] == (names if media else [])
        inner.get_video_features(grid=5)
        assert run.media == ({"grid": 5} if media else {})
        run.state.segments = ["some"]
        run.remove()
        assert own.pop() is run.state  # the family's own hooks
        assert not set(names) & set(vars(inner))
        assert (run.state.segments, run.handles) == ([], [])


def test_an_answer_ends_a_prompt_or_a_step(begun):
    run, cpu = begun(Watching()), torch.device("cpu")
    clocks, (segment,) = (run.trace.prefill, run.trace.decode), run.state.segments
    for step, ended in ((0, [1, 0]), (1, [1, 1])):
        for clock in clocks:
            clock.begin(cpu)
        run.state.step, run.vision.over, run.media["grid"], segment.mask = step, False, 1, ("mask",)
        run.end()
        assert [len(clock.pairs) for clock in clocks] == ended
        assert (run.media, run.vision.over, segment.mask) == ({}, True, None)


# a prompt -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("beams", [1, 3])
def test_a_prompt_is_known_by_its_rows_and_their_images(begun, batch, beams):
    run, (ids, mask) = begun(beams=beams), prompt(batch, beams)
    state = run.state
    assert (state.length, state.beams, state.padded, state.step) == (ids.shape[1], beams, True, 0)
    assert torch.equal(state.ids, ids)
    (segment,) = state.segments
    assert torch.equal(segment.valid, mask > 0)
    assert [[tokens.image for tokens in row] for row in segment.images] == [[0]] * beams + [[1]] * beams
    assert run.trace.rows == [0, 1]
    assert [image.layers for image in run.trace.images] == [[2, 4]] * 2
    assert [image.budget for image in run.trace.images] == [9.0] * 2
    assert [image.tokens for image in run.trace.images] == [segment.images[0][0], segment.images[beams][0]]


def test_another_prompt_forgets_the_last_one(begun, batch):
    run, (ids, _) = begun(debias=Debias()), prompt(batch)
    run.state.step, run.state.cache = 3, "an earlier one"
    run.prefill(ids[1:], None, {})
    assert (run.state.step, run.state.cache, run.state.padded) == (0, None, False)
    assert len(run.state.segments[0].images) == 1
    run.prefill(torch.tensor([[3, 4, 5]]), None, {})
    assert (run.state.segments, run.state.length, run.state.ids) == ([], 3, None)


def test_what_the_tower_will_see_is_each_image_once(begun):
    for pruner, inside in ((Watching(), []), (Inside(), [0])):
        run = begun(pruner, beams=2)
        first = run.state.segments[0]
        assert run.vision.spans == [first.images[0][0].span, first.images[2][0].span]
        assert run.vision.filmed == [False, False]
        assert run.trace.images[0].layers == [*inside, 2, 4]


def test_trends_are_as_many_as_images(begun):
    one = Trend.exponential(0.1)
    begun(trends=[one, one])
    with pytest.raises(ValueError, match="holds 2 pictures or clips, but 1 trends"):
        begun(trends=[one])


def test_beams_are_counted_by_sizes_or_by_what_the_tower_saw(made):
    told = made()
    assert [told.repeats([None] * rows) for rows in (2, 4, 6, 1)] == [1, 2, 3, 1]
    untold = made(debias=Debias())  # nobody may depend on sizes here
    assert untold.sizes is None
    assert untold.repeats([None] * 4) == 1
    untold.vision = SimpleNamespace(repeats=lambda spans: ("asked", spans))
    assert untold.repeats("spans") == ("asked", "spans")


# what a method is shown -----------------------------------------------------------------------------------------------
DECODER = (Cut(2, 12), Cut(4, 0.25))
TOWER = (Cut(0, 30, source="tower"), Cut(2, 50), Cut(4, 0.25))
LATE = (Cut(1, 30), Cut(3, 12, source="tower"), Cut(5, 9))


@pytest.mark.parametrize(
    ("cuts", "counts", "turns"),
    [(DECODER, [12, 9], [-1, 0, 1]), (TOWER, [30, 36, 9], [-1, -1, 0, 1]), (LATE, [30, 12, 9], [-1, 0, 0, 1])],
)
def test_a_view_is_of_one_cut_and_one_image(begun, llava, cuts, counts, turns):
    trends = [Trend.exponential(0.1), Trend.exponential(0.2)]
    run, hidden = begun(Told(1.0, cuts), replace(PADDING, trend=trends[0]), trends=trends), torch.randn(2, 60, 4)
    segment = run.state.segments[0]
    for stage, count, turn in zip(range(-1, 3), [36, *counts], turns, strict=False):
        cut, looks = cuts[max(stage, 0)], run.state.looks[stage]
        looks[7] = stage
        for row in (0, 1):
            tokens = segment.images[row][0]
            view = run.view(stage, cut, tokens, segment, hidden)
            assert (view.cut, view.stage, view.layers, view.count, view.turn) == (cut, stage, 8, count, turn)
            assert view.tokens is tokens
            assert view.adapter is llava
            assert view.debiaser == replace(PADDING, trend=trends[row])
            assert torch.equal(view.sequence, hidden[row])
            assert view.text_slots is segment.text[row]
            assert view.looks is looks
            assert view.patches is None
    few = replace(tokens, slots=tokens.slots[:3])
    assert run.view(0, cuts[0], few, segment, hidden).count == 3
    run.state.step = 1
    assert run.view(0, cuts[0], tokens, segment, hidden).sequence is None
    untold = begun(Told(1.0, cuts))
    assert untold.view(0, cuts[0], tokens, segment, hidden).debiaser is untold.debias


def test_the_tower_is_shown_until_tokens_have_left(begun):
    run = begun(Watching())
    tokens = run.state.segments[0].images[1][0]
    run.vision.patches = lambda image: ("patches", image)
    assert run.patches(tokens) == ("patches", 1)
    assert run.patches(replace(tokens, span=tokens.span.at(torch.arange(5)))) is None
    inside = begun(Inside())
    inside.vision.patches = run.vision.patches
    assert inside.patches(tokens) is None
    assert begun().patches(tokens) is None


def test_a_release_ranks_in_the_models_own_numbers(llava, begun, monkeypatch):
    monkeypatch.setattr(hooks, "choose", lambda pruner, view, dtype: dtype)
    for debias, dtype in ((PADDING, None), (replace(PADDING, release=Release()), torch.bfloat16)):
        run = begun(debias=debias)
        run.state.like = torch.zeros(1, 1, 0, dtype=torch.bfloat16)
        segment = run.state.segments[0]
        found = run.choose(0, DECODER[0], segment.images[0][0], segment, torch.zeros(2, 60, 4))
        assert found is dtype


def test_a_start_sees_all_that_enters(begun):
    class Starting(Told):
        def start(self, view):
            return view

    run, hidden = begun(Starting()), torch.randn(2, 60, 4)
    run.start(hidden)
    for row in (0, 1):
        (tokens,) = run.state.segments[0].images[row]
        view = tokens.memo
        assert (view.stage, view.cut, view.count, view.turn) == (-1, DECODER[0], 36, -1)
        assert torch.equal(view.sequence, hidden[row])
    plain = begun()
    plain.view = None
    plain.start(hidden)  # nobody looks


# what the model is called with ----------------------------------------------------------------------------------------
class Cache:
    """As many layers as the model has, which hold some tokens; a static one tells it in a tensor."""

    def __init__(self, held, static):
        self.held = torch.tensor(held) if static else held
        kind = type("Layer", (), {"get_seq_length": lambda _: self.held, **({"max_cache_len": 99} if static else {})})
        self.layers = [kind() for _ in range(8)]

    def get_seq_length(self):
        return self.held


def called(run, ids, cache, **more):
    return run.begin((), {"input_ids": ids, "past_key_values": cache, **more})


def test_a_run_knows_prompts_from_steps(made, monkeypatch):
    read = []
    monkeypatch.setattr(Run, "prefill", lambda self, ids, mask, media: read.append((ids, mask, media)))
    run, ids, one = made(), torch.tensor([[3, 4, 5]]), torch.tensor([[6]])
    run.media["grid"] = "noted"
    assert run.begin((ids,), {"attention_mask": "mask"}) is None
    assert read.pop() == (ids, "mask", {"grid": "noted"})
    monkeypatch.setattr(run.adapter, "media", ("grid", "more"), raising=False)
    for given, media in ((None, "noted"), (5, 5)):
        run.begin((ids,), {"grid": given})
        assert read.pop()[2] == {"grid": media}
    with pytest.raises(Unsupported, match="pass input_ids, not inputs_embeds"):
        run.begin((), {})
    for static in (True, False):
        run.state.cache = Cache(3, static)
        assert called(run, one, run.state.cache) is None
        assert read == []
        for cache in (None, Cache(0, static)):
            for some in (ids, one):
                called(run, some, cache)
                assert read.pop()[0] is some
        run.state.cache = Cache(0, static)  # set back by whoever owns it
        called(run, ids, run.state.cache)
        assert read.pop()[0] is ids
        called(run, one, run.state.cache)
        assert len(read) == (not static)  # a static one is not asked at every step
        read.clear()
        with pytest.raises(Unsupported, match="the cache was filled outside this `with` block"):
            called(run, one, Cache(3, static))


def test_a_step_is_counted_by_what_the_cache_holds(begun):
    one = torch.tensor([[6], [7]])
    for static in (False, True):
        run = begun()
        state = run.state
        length = state.length
        for number, step in enumerate((1, 2, 3, 2), 1):
            state.cache = Cache(length + step - 1, static)
            assert called(run, one, state.cache) is None
            assert type(state.step) is int
            assert state.step == (number if static else step)
        assert len(state.given) == (8 if static else 0)
        with pytest.raises(Unsupported, match="several tokens at once on a filled cache"):
            called(run, torch.ones(2, 2).long(), state.cache)
        state.segments = []  # no picture, nothing that could be wrong
        assert called(run, torch.ones(2, 2).long(), state.cache) is None
        assert state.step == (5 if static else 3)
        if static:
            assert state.given == [{}] * 8
        picture = torch.full((2, 37), run.adapter.model.config.image_token_id)
        picture[0], picture[1, 36] = 4, 4
        with pytest.raises(Unsupported, match="not supported where there is a picture or clip"):
            called(run, picture, state.cache)  # the text before it was read as a prompt without one


def test_a_step_tells_the_model_where_it_stands_if_layer_0_is_cut(begun):
    one = torch.tensor([[6], [7]])
    for columns in (None, torch.arange(9).expand(2, -1)):
        run = begun()
        state = run.state
        first = replace(state.segments[0], length=9, columns=columns)
        state.segments = [first, replace(first, start=1, columns=torch.arange(9).expand(2, -1))]
        state.cache, state.like = Cache(11, False), torch.zeros(1, 1, 0)
        found = called(run, one, state.cache, other=1)
        if columns is None:
            assert found is None
        else:
            args, given = found
            assert (args, given["other"], given["input_ids"]) == ((), 1, one)
            assert given["position_ids"].tolist() == [[state.length + 2]] * 2
        assert called(run, one, state.cache, position_ids="told") is None
