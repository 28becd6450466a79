"""FastV's published protocol: nothing is removed, every new token hides what it does not look at."""

import pytest
import torch

import pruners


@pytest.fixture(scope="module")
def llava(get):
    return get("llava")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("cached", ["dynamic", "static"])
def test_masking_ranks_by_every_new_token(kernel, cached, get, requests, run):
    """Against the protocol written out: nothing leaves the caches, each step hides what its token does not look at."""
    adapter, eager = get("llava", kernel), get("llava", "eager")
    encoded = adapter.encode(requests[:1])
    start, keep, layer = adapter.spans(encoded.inputs)[0][0].start, 6, 2
    options = {"cache_implementation": "static"} if cached == "static" else {}
    with pruners.make("fastv", keep=keep, layer=layer, mode="mask")(adapter) as trace:
        out = run(adapter, encoded, **options)
    length = encoded.inputs["input_ids"].shape[1]
    if cached == "dynamic":
        assert {held.keys.shape[2] for held in out.past_key_values.layers} == {length + 2}

    hidden = {}

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": hidden["mask"]}

    def rank(module, args, kwargs, output):
        weights = output[1][0].mean(0)[-1, start : start + 36]
        keep_columns = weights.topk(keep).indices + start
        queries, columns = output[1].shape[2:]
        causal = torch.arange(columns) <= torch.arange(columns - queries, columns)[:, None]
        allowed = causal.clone()
        allowed[:, start : start + 36] = False
        allowed[:, keep_columns] = causal[:, keep_columns]
        hidden["mask"] = torch.zeros(1, 1, queries, columns).masked_fill(~allowed, torch.finfo(torch.float32).min)
        hidden.setdefault("kept", keep_columns.sort().values - start)

    layers = eager.decoder.layers
    handles = [layers[layer - 1].self_attn.register_forward_hook(rank, with_kwargs=True)]
    handles += [held.register_forward_pre_hook(hide, with_kwargs=True) for held in layers[layer:]]
    expected = run(eager, encoded)
    for handle in handles:
        handle.remove()
    assert trace.kept[0][0].tolist() == hidden["kept"].tolist()
    for ours, theirs in zip(out.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_masking_and_gathering_agree_on_the_first_token(llava, requests, run):
    encoded = llava.encode(requests)
    first = []
    for mode in ("gather", "mask"):
        with pruners.make("fastv", keep=6, mode=mode)(llava):
            first.append(run(llava, encoded).logits[0])
    torch.testing.assert_close(*first, rtol=0, atol=1e-4)
