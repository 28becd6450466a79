"""What the engine shares, tells and refuses, part by part. No model is loaded."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding, Reading, Span, Trend
from pruners.base import Pruner
from pruners.cut import Cut, Merged
from pruners.engine import limits
from pruners.engine.prefix import Prefix, check_shared, same
from pruners.engine.recorder import Detour, Recorder
from pruners.engine.sequence import Choice
from pruners.engine.state import State
from pruners.engine.trace import Clock, Trace
from pruners.view import Tokens


class Cuts(Pruner):
    """Cuts where it is told to."""

    def __init__(self, *cuts, shrink=False):
        super().__init__()
        object.__setattr__(self, "told", cuts)
        object.__setattr__(self, "shrink_cache", shrink)

    def cuts(self, layers):
        return self.told


# what is shared and lent ---------------------------------------------------------------------------------------------
def test_a_prefix_serves_what_is_equal_to_the_last_number():
    a, module = torch.arange(4.0), object()
    assert same([a, 1, module, (2,)], [a.clone(), 1, module, (2,)])
    assert same([], [])
    for other in (a.double(), a[:3], a.index_fill(0, torch.tensor([2]), 9.0), a.to("meta"), None, 1):
        assert same([a], [other]) is False
        assert same([other], [a]) is False
    assert same([1, a], [1]) is False
    assert same([1], [2]) is False
    assert same([module], [object()]) is False


def test_a_prefix_hands_on_the_rows_that_are_asked_for():
    prefix, part = Prefix(), torch.arange(6.0).view(3, 2)
    assert prefix._chosen(part) is part
    prefix.chosen = torch.tensor([2, 0])
    assert torch.equal(prefix._chosen(part), part[[2, 0]])
    assert prefix._chosen(part[:1]).tolist() == part[:1].tolist()  # one row for all
    assert torch.equal(prefix._chosen(part[:2]), part[:2])  # another batch, which has no such row
    assert prefix._chosen("word") == "word"


@pytest.mark.parametrize("tupled", [False, True])  # what a layer returns, in some versions
def test_a_row_of_a_padded_batch_is_replayed_by_itself(tupled):
    """Of two layers; what the first hands on is not read, so that no rows are chosen of it."""
    prefix, decoder, ran, filled = Prefix(), object(), [], []
    states, tables = torch.arange(12.0).view(2, 3, 2), (torch.ones(1, 3, 2), torch.zeros(1, 3, 2))

    def run(rows, valid):
        held = [SimpleNamespace(keys=None, values=None) for _ in range(2)]
        cache = SimpleNamespace(layers=held, update=lambda *given: filled.append(given))
        segment, cuts = SimpleNamespace(valid=valid), [Cut(2, 1)]
        state = SimpleNamespace(step=0, segments=[segment], cache=cache, decoder=decoder, cuts=cuts, length=3)

        def layer(number, hidden, **kwargs):
            ran.append(rows)
            held[number].keys, held[number].values = hidden[:, None], -hidden[:, None]
            return (2 * hidden, None) if tupled else 2 * hidden

        prefix.rows, entering = torch.tensor(rows), [states[rows]]
        for number in (0, 1):
            here = partial(layer, number)
            out = prefix._layer(state, print, number, here, entering[-1], position_embeddings=tables)
            assert isinstance(out, tuple) == tupled
            entering.append(out[0] if tupled else out)
        return entering

    assert torch.equal(run([0, 1], torch.tensor([[False, True, True], [True, True, True]]))[2], 4 * states)
    first, second, last = run([1], None)  # all of it is real, as it was in the batch
    assert second is first
    assert torch.equal(last, 4 * states[[1]])
    assert ran == [[0, 1]] * 2
    for number, ((keys, values, at), factor) in enumerate(zip(filled, (1, 2), strict=True)):
        assert torch.equal(keys, factor * states[[1], None])
        assert torch.equal(values, -keys)
        assert at == number
    assert prefix.reused == 2
    assert torch.equal(run([0], None)[2], 4 * states[[0]])  # there it was padded
    assert ran == [[0, 1]] * 2 + [[0]] * 2


def test_arms_that_have_no_layer_in_common_are_named():
    check_shared(pruners.make("fastv"), 32)
    check_shared(pruners.make("illava", tower_keep=1.0), 32)
    with pytest.raises(limits.Unsupported, match="ILLaVA prunes inside the vision tower"):
        check_shared(pruners.make("illava"), 32)
    for method in (pruners.make("visionzip"), Cuts()):
        with pytest.raises(limits.Unsupported, match="takes tokens out before the first layer"):
            check_shared(method, 32)


def state_of(positions="original", renumbers=True):
    method = SimpleNamespace(positions=positions, cuts=lambda layers: [Cut(2, 1), Cut(4, 1)], shrink_cache=False)
    config = SimpleNamespace(_attn_implementation="sdpa")
    return State(method, SimpleNamespace(decoder=SimpleNamespace(layers=range(6), config=config), renumbers=renumbers))


def test_a_layer_belongs_to_the_last_segment_that_begins_before_it():
    state = state_of()
    assert (state.length, state.step, state.beams, state.padded, state.looks) == (0, 0, 1, False, [{}, {}])
    assert (state.kernel, [cut.layer for cut in state.cuts]) == ("sdpa", [2, 4])
    state.segments = [SimpleNamespace(start=0), SimpleNamespace(start=2), SimpleNamespace(start=4)]
    assert [state.at(number).start for number in range(6)] == [0, 0, 2, 2, 4, 4]
    state.step, state.padded = 3, True
    state.forget()
    assert (state.segments, state.step, state.padded) == ([], 0, False)


def test_a_step_of_decoding_gets_masks_and_where_tokens_are_numbered_anew_tables():
    for positions in ("original", "compact"):
        for renumbers in (True, False):
            state = state_of(positions, renumbers)
            assert state.renumbered == (positions == "compact" and renumbers)
            for cut in (True, False):
                for columns in (None, torch.zeros(1, 2)):
                    wanted = {"attention_mask": "mask", "position_ids": None} if cut else {}
                    if cut and columns is not None and state.renumbered:
                        wanted["position_embeddings"] = "tables"
                    segment = SimpleNamespace(cut=cut, columns=columns)
                    assert state.decoding(segment, lambda _: "mask", lambda _: "tables") == wanted


# what is told and refused ---------------------------------------------------------------------------------------------
def test_a_trace_tells_what_stayed_by_stage_and_image():
    trace = Trace(8)
    assert (trace.stages, trace.kept, trace.rows) == (0, [], [])
    whole = torch.tensor([True, False, True, False])
    for image in range(2):
        tokens = Tokens(image, image, Span(0, (2, 2)), torch.arange(4), None, 0, 1, True, whole if image else None)
        trace.add(tokens, [2, 6], 2.5, image)
        trace.record(Choice(tokens, torch.tensor([1, 2, 3]), None, (torch.ones(4), torch.zeros(4))))
        behind = trace.images[image].choices[0].after(torch.arange(3), 0)
        new = Merged(torch.zeros(2, 1), torch.tensor([2, 0]), torch.tensor([True, False]))
        trace.record(Choice(behind, torch.tensor([2]), new))
    assert (trace.stages, trace.rows) == (2, [0, 1])
    assert [[kept.tolist() for kept in stage] for stage in trace.kept] == [[[1, 2, 3]] * 2, [[3]] * 2]
    assert [[kept.tolist() for kept in stage] for stage in trace.merged] == [[[]] * 2, [[1]] * 2]
    assert trace.scores[1] == [None, None]
    assert trace.scores[0][1][0].tolist() == [1.0] * 4
    mean = (4 * 2 + 3 * 4 + 2 * 2) / 8
    assert trace.counts == [
        {"after": [3, 2], "mean": mean, "own": 2.5, "padding": [padding, last]} for padding, last in ((0, 0), (2, 1))
    ]
    assert trace.ms == {"prefill": 0, "decode": 0.0, "steps": 0.0}
    trace.restart()
    assert trace.images == []


def test_a_clock_counts_milliseconds_between_marks(monkeypatch):
    now = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr("pruners.engine.trace.time.perf_counter", lambda: next(now))
    clock, cpu = Clock(), torch.device("cpu")
    clock.end(cpu)  # nothing has begun
    assert clock.ms == []
    for _ in range(2):
        clock.begin(cpu)
        clock.end(cpu)
    clock.end(cpu)
    assert clock.ms == [250.0, 500.0]
    trace = Trace(2)
    trace.decode = clock
    assert trace.ms == {"prefill": 0, "decode": 375.0, "steps": 2.0}


class Event:
    """As torch.cuda.Event, on streams that are numbers: of seconds."""

    def __init__(self, enable_timing=False):
        self.timed, self.at, self.waited = enable_timing, None, False

    def record(self, stream):
        self.at = stream

    def synchronize(self):
        self.waited = True

    def elapsed_time(self, other):
        assert self.timed
        assert other.timed
        assert other.waited
        return (other.at - self.at) * 1000


def test_a_clock_of_a_gpu_waits_when_it_is_read(monkeypatch):
    now = iter([1.0, 1.25])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: next(now))
    clock, gpu = Clock(), torch.device("cuda")
    clock.begin(gpu)
    clock.end(gpu)
    assert not clock.pairs[0][1].waited
    assert clock.ms == [250.0]


def test_cuts_that_cannot_be_are_refused():
    good = [Cut(2, 1), Cut(5, 1, also=(2, 4))]
    assert limits.checked(Cuts(*good), 6) == good
    assert limits.checked(Cuts(Cut(0, 1)), 1) == [Cut(0, 1)]
    assert limits.checked(Cuts(Cut(1, 1, also=(0,)), shrink=True), 2)
    for cuts, said in (
        ([Cut(6, 1)], r"cuts before layer 6, but the model has layers 0 to 5"),
        ([Cut(-1, 1)], "cuts before layer -1"),
        ([Cut(3, 1), Cut(3, 1)], "cuts before layer 3 after layer 3; layers must ascend"),
        ([Cut(3, 1, also=(3,))], r"reads layers \(3,\) at layer 3"),
        ([Cut(3, 1, also=(-1,))], r"reads layers \(-1,\) at layer 3"),
        ([Cut(3, 1), Cut(5, 1, also=(4, 2))], r"they must lie behind the cut before it"),
        ([], "has no cut in a model of 6 layers"),
    ):
        with pytest.raises(ValueError, match=said):
            limits.checked(Cuts(*cuts), 6)
    with pytest.raises(ValueError, match="possible with a single cut only"):
        limits.checked(Cuts(*good, shrink=True), 6)


def test_what_the_mechanism_cannot_do_is_refused():
    def family(**config):
        return SimpleNamespace(decoder=SimpleNamespace(config=SimpleNamespace(**config)))

    whole = {"layer_types": ["full_attention"] * 2}
    for config in ({}, whole, {**whole, "sliding_window": 4}, {"sliding_window": None}):
        limits.refuse_unsupported(family(**config), "sdpa")
    with pytest.raises(limits.Unsupported, match=r"attention 'flex' is not supported: load .* one of sdpa, "):
        limits.refuse_unsupported(family(), "flex")
    for config in ({"layer_types": ["full_attention", "linear"]}, {"sliding_window": 4}):
        with pytest.raises(limits.Unsupported, match="sliding-window or linear-attention"):
            limits.refuse_unsupported(family(**config), "sdpa")
    unrotated = Debias(reading=Reading(rope=False))
    limits.refuse_reading(unrotated, SimpleNamespace(mode="gather"))
    limits.refuse_reading(Debias(reading=Reading()), SimpleNamespace(mode="mask"))
    limits.refuse_reading(Debias(), SimpleNamespace(mode="mask"))
    with pytest.raises(limits.Unsupported, match="need mode='gather'"):
        limits.refuse_reading(unrotated, SimpleNamespace(mode="mask"))

    def ranking(mode, prunes_tower, *sources):
        method = SimpleNamespace(mode=mode, prunes_tower=lambda: prunes_tower)
        limits.refuse_ranking(method, [Cut(2 + number, 1, source) for number, source in enumerate(sources)])

    ranking("mask", False, "previous", "previous")
    ranking("gather", True, "same")
    for told in ((False, "previous", "same"), (True, "previous")):
        with pytest.raises(limits.Unsupported, match="mode='mask' ranks all tokens again at every step"):
            ranking("mask", *told)
    sinks = Debias(padding=Padding.sink())
    for debias, cut in ((sinks, Cut(1, 1)), (Debias(padding=Padding()), Cut(0, 1)), (Debias(), Cut(0, 1))):
        limits.refuse_sinks(debias, [cut])
    for cut in (Cut(0, 1), Cut(2, 1, source="tower")):
        with pytest.raises(ValueError, match="use another padding rule"):
            limits.refuse_sinks(sinks, [cut])
    limits.refuse_trends(None, 2)
    limits.refuse_trends([Trend.exponential(1)] * 2, 2)
    with pytest.raises(ValueError, match="holds 2 pictures or clips, but 1 trends were given"):
        limits.refuse_trends([Trend.exponential(1)], 2)


def test_caches_that_are_not_plain_are_refused():
    kinds = {name: type(name, (), {}) for name in ("DynamicLayer", "StaticLayer", "QuantizedLayer")}

    def cache(*names, **more):
        return SimpleNamespace(layers=[kinds[name]() for name in names], **more)

    limits.refuse_cache(None, "sdpa")
    limits.refuse_cache(cache("DynamicLayer", offloading=False), "flash_attention_2")
    limits.refuse_cache(cache("StaticLayer"), "sdpa")
    with pytest.raises(limits.Unsupported, match="a cache of DynamicLayer, QuantizedLayer is not supported"):
        limits.refuse_cache(cache("QuantizedLayer", "DynamicLayer"), "sdpa")
    with pytest.raises(limits.Unsupported, match="a cache of DynamicLayer is not supported"):
        limits.refuse_cache(cache("DynamicLayer", offloading=True), "sdpa")
    with pytest.raises(limits.Unsupported, match="a static cache with flash attention"):
        limits.refuse_cache(cache("StaticLayer"), "flash_attention_2")


def test_a_cache_is_empty_until_something_was_read():
    def cache(length):
        return SimpleNamespace(get_seq_length=lambda: length)

    assert limits.is_empty(None, False)
    for trusted in (True, False):
        assert limits.is_empty(cache(0), trusted)
        assert not limits.is_empty(cache(3), trusted)
    assert limits.is_empty(cache(torch.tensor(0)), False)
    assert not limits.is_empty(cache(torch.tensor(3)), False)
    assert not limits.is_empty(cache(torch.tensor(0)), True)  # a static cache that this run filled is not asked


def test_a_prompt_that_grows_by_a_token_is_warned_about(recwarn):
    before = torch.tensor([[1, 2, 7], [3, 4, 8]])
    other = torch.tensor([[1, 2, 7, 9], [3, 5, 8, 9]])
    for ids in (before, torch.cat([before, before], 1), other, torch.cat([before, before[:, :1]], 1)[:1]):
        limits.warn_anew(before, ids)
    limits.warn_anew(None, before)
    assert not recwarn.list
    limits.warn_anew(before, torch.cat([before, before[:, :1]], 1))
    assert [str(warning.message)[:15] for warning in recwarn.list] == ["use_cache=False"]
    assert recwarn.list[0].filename == __file__


def test_a_method_of_a_module_is_noted_and_left_as_it_was():
    class Module:
        def look(self, pixels, sizes=None, **kwargs):
            return pixels, sizes, kwargs

        def forward(self):
            return "own"

    module, noted = Module(), {"grid": 0}
    recorder = Recorder(module, "look", ("pixels", "sizes", "grid", "other"), noted)
    assert module.look(1, grid=3, more=4) == (1, None, {"grid": 3, "more": 4})
    assert noted == {"grid": 0, "pixels": 1}  # what was there stays, None is nothing
    module.look(pixels=5, sizes=2, other=6)
    assert noted == {"grid": 0, "pixels": 1, "sizes": 2, "other": 6}
    recorder.remove()
    assert vars(module) == {}
    first = Detour(module, lambda: "first")
    second = Detour(module, lambda: "second")
    assert module.forward() == "second"
    second.remove()
    assert module.forward() == "first"
    first.remove()
    assert module.forward() == "own"
    assert vars(module) == {}
