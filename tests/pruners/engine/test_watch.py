"""While decoding, layers are called without hooks wherever the model does right by itself."""

import pytest
import torch

import pruners
from debias import Debias, Padding, Trend

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
