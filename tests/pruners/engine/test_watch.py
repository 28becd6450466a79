"""While decoding, layers are called without hooks wherever the model does right by itself."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch

import pruners
from debias import Debias, Padding, Trend
from pruners.cut import Cut
from pruners.engine import watch as module
from pruners.engine.masks import segment_mask
from pruners.engine.sequence import Segment
from pruners.engine.state import State
from pruners.engine.watch import Watch

DEBIAS = Debias(Trend.exponential(0.01), Padding())


def counter(adapter):
    """How many hooks have come since now: transformers leaves some of its own where attentions were asked for once."""
    parts = [part for layer in adapter.decoder.layers for part in (layer, layer.self_attn)]

    def count():
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)

    before = count()
    return lambda: count() - before


def ids(adapter, encoded, **options):
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "disable_compile": True, **options}
    return adapter.model.generate(**encoded.inputs, **settings)[:, -4:].tolist()


def test_they_rest_while_decoding_and_come_back(get, requests):
    adapter = get("llava")
    hooks = counter(adapter)
    short, long = (adapter.encode([request]) for request in requests[:2])
    expected = []
    for encoded in (short, long):
        with pruners.make("fastv", keep=0.3)(adapter, DEBIAS, encoded.sizes):
            expected.append(ids(adapter, encoded))
    with pruners.make("fastv", keep=0.3)(adapter, DEBIAS.with_arm("trend")) as trace:
        assert hooks() == len(adapter.decoder.layers) + 1
        first = ids(adapter, short)
        assert hooks() == 0
        with torch.no_grad():
            adapter.model(**short.inputs)  # a prefill
        assert hooks() == len(adapter.decoder.layers) + 1
        assert len(trace.kept[0][0]) < short.inputs["input_ids"].shape[1] // 2
        assert ids(adapter, short) == first
    with pruners.make("fastv", keep=0.3)(adapter, DEBIAS, [*short.sizes]):
        assert [ids(adapter, short), ids(adapter, short)] == [expected[0]] * 2
    assert hooks() == 0


@pytest.mark.parametrize(
    ("name", "kernel", "batch"),
    [
        ("fastv", "sdpa", 2),  # a padded batch
        ("fastv", "eager", 1),  # its mask has as many columns as the prompt
        ("pyramiddrop", "eager", 2),
        ("sparsevlm", "sdpa", 1),  # other positions
        ("visionzip", "sdpa", 2),  # a cut before layer 0
    ],
)
def test_layers_behind_a_cut_get_what_they_need_without_hooks(get, requests, name, kernel, batch, monkeypatch):
    """The same answers where masks are made for every step, and where they have to be made anew on the way."""
    adapter = get("llava", kernel)
    layers, hooks = adapter.decoder.layers, counter(adapter)
    encoded, found = adapter.encode(requests[:batch]), []
    for room in (255, 0, 2):
        monkeypatch.setattr("pruners.engine.watch.ROOM", room)
        pruner = pruners.make(name, keep=0.3)
        with pruner(adapter, DEBIAS, encoded.sizes):
            found.append(ids(adapter, encoded, max_new_tokens=6))
            assert hooks() == 0
            first = pruner.cuts(len(layers))[0].layer
            assert ["forward" in vars(layer) for layer in layers] == [number >= first for number in range(len(layers))]
            assert ids(adapter, encoded, max_new_tokens=6) == found[-1]
        assert not any("forward" in vars(layer) for layer in layers)
        assert not adapter.decoder._forward_pre_hooks
    with pruner(adapter, DEBIAS, encoded.sizes):  # a static cache, which keeps the hooks
        found.append(ids(adapter, encoded, max_new_tokens=6, cache_implementation="static"))
    assert found == [found[0]] * 4


def test_a_prompt_without_pictures_needs_nothing(get, requests):
    for kernel in ("sdpa", "eager"):
        adapter = get("llava", kernel)
        hooks, text = (
            counter(adapter),
            {"input_ids": torch.arange(4, 12)[None], "attention_mask": torch.ones(1, 8).long()},
        )
        expected = adapter.model.generate(**text, max_new_tokens=4, do_sample=False).tolist()
        with pruners.make("fastv", keep=0.3)(adapter):
            assert adapter.model.generate(**text, max_new_tokens=4, do_sample=False).tolist() == expected
            assert hooks() == 0


def test_a_static_cache_keeps_them(get, requests):
    adapter = get("llava")
    hooks = counter(adapter)
    encoded = adapter.encode(requests[:1])
    with pruners.make("fastv", keep=0.3)(adapter, DEBIAS, encoded.sizes):
        ids(adapter, encoded, cache_implementation="static")
        assert hooks() >= len(adapter.decoder.layers)


def test_a_mask_that_ranks_anew_keeps_them(get, requests):
    adapter = get("llava")
    hooks = counter(adapter)
    encoded = adapter.encode(requests[:1])
    with pruners.make("fastv", keep=0.3, mode="mask")(adapter, DEBIAS, encoded.sizes):
        ids(adapter, encoded)
        assert hooks() == len(adapter.decoder.layers) + 1


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "tokencarve"])
def test_a_step_taken_back_is_taken_again(get, requests, name, kernel):
    """What a step needs follows from what is in the cache, not from how many steps there were."""
    adapter = get("llava", kernel)
    encoded, tokens = adapter.encode(requests[:2]), torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    mask = torch.cat([encoded.inputs["attention_mask"], torch.ones_like(tokens)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def step(cache, number):
        at = encoded.inputs["input_ids"].shape[1] + number
        return adapter.model(
            input_ids=tokens[:, number, None],
            attention_mask=mask[:, : at + 1],
            position_ids=positions[:, at, None],
            past_key_values=cache,
        ).logits

    with pruners.make(name, keep=0.3)(adapter, DEBIAS, encoded.sizes):
        cache = adapter.model(**encoded.inputs).past_key_values
        first = [step(cache, number) for number in range(5)]
        cache.crop(-3)
        again = [step(cache, number) for number in range(2, 5)]
    assert torch.equal(torch.stack(first[2:]), torch.stack(again))


# the parts by themselves, on layers that tell what they are given -----------------------------------------------------
class Telling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = torch.nn.Identity()

    def forward(self, *args, **given):
        if args:
            self.self_attn(*args)
        return given


def state_of(kernel="sdpa", positions="compact", kind="default"):
    """Six layers, two cuts, and what was asked of the rotary embedding."""
    decoder = Telling()
    decoder.layers = torch.nn.ModuleList(Telling() for _ in range(6))
    decoder.config = SimpleNamespace(_attn_implementation=kernel)
    decoder.rotary_emb = SimpleNamespace(**({"rope_type": kind} if kind else {}))
    asked = []

    def rotary(like, positions):
        asked.append(positions)
        turned = positions[..., None] * torch.tensor([1.0, 0.1])
        return turned.cos(), turned.sin()

    cuts = [Cut(2, 1), Cut(4, 1, also=(2,))]
    method = SimpleNamespace(positions=positions, cuts=lambda layers: cuts, shrink_cache=False)
    state = State(method, SimpleNamespace(decoder=decoder, renumbers=True, rotary=rotary))
    state.like = torch.zeros(1, 1, 0)
    return state, asked


def segment_of(start, lengths, *, hides=False, columns=True, cut=True):
    """A segment whose rows have so many tokens; its padding is hidden, or it is said to have none."""
    longest = max(lengths)
    valid = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None] if hides else None
    slots = torch.arange(longest).expand(len(lengths), -1) if columns else None
    text = [torch.arange(longest - length, longest) for length in lengths]
    return Segment(start, longest, [[] for _ in lengths], text, valid, slots, cut)


def check(found, wanted):
    """Equal, as words or as numbers."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert type(found[name]) is type(value)
        if isinstance(value, str):
            assert found[name] == value
        else:
            torch.testing.assert_close(found[name], value)


def test_hooks_come_once_and_go():
    state, _ = state_of()
    layers, told = state.layers, []
    watch = Watch(
        state,
        lambda number, layer, args, kwargs: told.append((number, layer, args, kwargs)),
        lambda number, attn, args, kwargs, output: told.append((number, attn, args, kwargs, output)),
    )
    assert not watch.resting

    def run():
        del told[:]
        for layer in layers:
            layer("states", given=1)
        return sorted((entry for entry in told), key=lambda entry: (entry[0], len(entry)))

    wanted = []
    for number, layer in enumerate(layers):
        wanted.append((number, layer, ("states",), {"given": 1}))
        if number in (1, 2, 3):  # what the cuts look at
            wanted.append((number, layer.self_attn, ("states",), {}, "states"))
    assert run() == []
    for _ in range(2):
        watch.begin()
        watch.begin()
        assert run() == wanted
        watch.rest()
        assert watch.resting
        assert run() == []
    watch.begin()
    assert not watch.resting
    watch.remove()
    assert run() == []


BATCHES = {  # segments of a run: which hide padding, and which were cut
    "no prompt with a picture": [],
    "nothing is padded": [
        segment_of(0, (7, 7), columns=False, cut=False),
        segment_of(2, (5, 5)),
        segment_of(4, (3, 3)),
    ],
    "the last one is padded": [
        segment_of(0, (7, 7), columns=False, cut=False),
        segment_of(2, (5, 5)),
        segment_of(4, (3, 2), hides=True),
    ],
    "cut before layer 0": [segment_of(0, (4, 6), hides=True)],
    "columns are hidden": [
        segment_of(0, (7, 5), hides=True, columns=False, cut=False),
        segment_of(2, (7, 4), hides=True, columns=False),
    ],
}


@pytest.mark.parametrize("batch", BATCHES)
def test_each_step_gives_every_layer_what_it_needs_and_nothing_else(batch, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 1)
    own = {"attention_mask": "own", "position_ids": "own", "position_embeddings": "own"}
    for kernel, positions, padded in product(
        ("sdpa", "eager", "flash_attention_2"), ("original", "compact"), (True, False)
    ):
        state, _ = state_of(kernel, positions)
        state.segments, state.padded = BATCHES[batch], padded
        watch = Watch(state, lambda *_: pytest.fail("a hook on a layer"), lambda *_: pytest.fail("on its attention"))
        watch.begin()
        masked = kernel != "sdpa" or padded or any(segment.valid is not None for segment in state.segments)
        for state.step in (1, 2, 3):
            watch.step()

            def mask(segment, step=state.step, kernel=kernel, state=state):
                return segment_mask(kernel, state.like, segment.valid, segment.length + step)

            for number, layer in enumerate(state.layers):
                wanted = dict(own)
                segment = state.at(number) if state.segments else None
                if segment and segment.cut and (masked or positions == "compact"):
                    wanted |= {"attention_mask": mask(segment), "position_ids": None}
                    if positions == "compact" and segment.columns is not None:
                        wanted["position_embeddings"] = state.adapter.rotary(None, segment.positions(state.step))
                check(layer(**own), wanted)
            wanted = dict(own)
            if state.segments and masked and not kernel.startswith("flash"):
                wanted["attention_mask"] = mask(state.segments[0])
            check(state.decoder(**own), wanted)
        watch.remove()
        assert state.decoder(**own) == own
        assert all(layer(**own) == own for layer in state.layers)


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flash_attention_2"])
@pytest.mark.parametrize("hides", [True, False])
def test_masks_are_made_for_some_steps_at_once(kernel, hides, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "segment_mask", lambda *given: asked.append(given) or segment_mask(*given))
    monkeypatch.setattr(module, "ROOM", 2)
    state, _ = state_of(kernel)
    watch, both = Watch(state, None, None), [segment_of(0, (6, 4), hides=hides), segment_of(2, (3, 5), hides=hides)]

    def made(step):
        state.step = step
        for segment in both:
            wanted = segment_mask(kernel, state.like, segment.valid, segment.length + step)
            torch.testing.assert_close(watch.mask(segment), wanted)
        return len(asked) // 2

    once = kernel != "eager" and not hides  # the kernel does without
    assert [made(step) for step in (1, 2, 3, 4, 6, 7)] == ([1] * 6 if once else [1, 1, 1, 2, 2, 3])
    assert made(2) == len(asked) // 2 == (1 if once else 3)  # a step taken back
    watch.remove()
    made(1)
    assert len(asked) == (4 if once else 8)  # for another prompt


@pytest.mark.parametrize("kind", ["default", "dynamic", None])
def test_rotary_tables_are_made_for_some_steps_at_once(kind, monkeypatch):
    """Where the kind of embedding allows: others may heed the last position."""
    monkeypatch.setattr(module, "ROOM", 2)
    state, asked = state_of(kind=kind)
    watch, both = Watch(state, None, None), [segment_of(0, (6, 4)), segment_of(2, (3, 5))]

    def made(step):
        state.step = step
        before = len(asked)
        found = [watch.rotary(segment) for segment in both]
        count = len(asked) - before
        for segment, tables in zip(both, found, strict=True):
            torch.testing.assert_close(tables, state.adapter.rotary(None, segment.positions(step)))
        return count // 2

    ahead = kind == "default"
    assert [made(step) for step in (1, 1, 2, 3, 4, 6, 7)] == ([1, 0, 0, 0, 1, 0, 1] if ahead else [1, 0, 1, 1, 1, 1, 1])
    assert [made(step) for step in (6, 7, 8)] == ([1, 0, 0] if ahead else [1, 1, 1])  # a step taken back
    watch.remove()
    assert made(8) == 1
