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
    ("name", "kernel", "batch", "options"),
    [
        ("fastv", "sdpa", 2, {}),  # a padded batch
        ("fastv", "eager", 1, {}),  # its mask has as many columns as the prompt
        ("fastv", "sdpa", 1, {"cache_implementation": "static"}),
        ("sparsevlm", "sdpa", 1, {}),  # other positions
    ],
)
def test_they_stay_where_they_are_needed(get, requests, name, kernel, batch, options):
    adapter = get("llava", kernel)
    hooks = counter(adapter)
    encoded = adapter.encode(requests[:batch])
    with pruners.make(name, keep=0.3)(adapter, DEBIAS, encoded.sizes):
        ids(adapter, encoded, **options)
        assert hooks() >= len(adapter.decoder.layers)


def test_a_mask_that_ranks_anew_keeps_them(get, requests):
    adapter = get("llava")
    hooks = counter(adapter)
    encoded = adapter.encode(requests[:1])
    with pruners.make("fastv", keep=0.3, mode="mask")(adapter, DEBIAS, encoded.sizes):
        ids(adapter, encoded)
        assert hooks() == len(adapter.decoder.layers) + 1
