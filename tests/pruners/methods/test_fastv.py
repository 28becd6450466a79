"""FastV's published protocol: nothing is removed, every new token hides what it does not look at."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

import pruners
from pruners import Cut


@pytest.fixture(scope="module")
def llava(get):
    return get("llava")


@dataclass(frozen=True)
class Twice(pruners.find("fastv")):
    """The same at two layers."""

    mode: str = "mask"

    def cuts(self, layers):
        return [Cut(2, 9), Cut(5, 4)]


@pytest.mark.parametrize(
    ("kernel", "cached", "pruner"),
    [
        ("sdpa", "dynamic", pruners.make("fastv", keep=6, layer=2, mode="mask")),
        ("eager", "static", pruners.make("fastv", keep=6, layer=2, mode="mask")),
        ("sdpa", "static", Twice()),
        ("eager", "dynamic", Twice()),
    ],
)
def test_masking_ranks_by_every_new_token(kernel, cached, pruner, get, requests, run):
    """Against the protocol written out: nothing leaves the caches, each step hides what its token does not look at."""
    adapter, eager = get("llava", kernel), get("llava", "eager")
    encoded = adapter.encode(requests[:1])
    start = adapter.spans(encoded.inputs)[0][0].start
    options = {"cache_implementation": "static"} if cached == "static" else {}
    with pruner(adapter) as trace:
        out = run(adapter, encoded, **options)
    length = encoded.inputs["input_ids"].shape[1]
    if cached == "dynamic":
        assert {held.keys.shape[2] for held in out.past_key_values.layers} == {length + 2}

    masks, kept = [], []  # of the newest cut, and of each step and cut

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": masks[-1]}

    def rank(keep, module, args, kwargs, output):
        weights = output[1][0].mean(0)[-1, start : start + 36]
        keep_columns = weights.topk(keep).indices + start
        queries, columns = output[1].shape[2:]
        causal = torch.arange(columns) <= torch.arange(columns - queries, columns)[:, None]
        allowed = causal.clone()
        allowed[:, start : start + 36] = False
        allowed[:, keep_columns] = causal[:, keep_columns]
        masks.append(torch.zeros(1, 1, queries, columns).masked_fill(~allowed, torch.finfo(torch.float32).min))
        kept.append(keep_columns.sort().values - start)

    layers, cuts, handles = eager.decoder.layers, pruner.cuts(8), []
    for cut in cuts:
        ranking = partial(rank, cut.keep)
        handles.append(layers[cut.layer - 1].self_attn.register_forward_hook(ranking, with_kwargs=True))
    handles += [held.register_forward_pre_hook(hide, with_kwargs=True) for held in layers[cuts[0].layer :]]
    expected = run(eager, encoded)
    for handle in handles:
        handle.remove()
    assert [stage[0].tolist() for stage in trace.kept] == [own.tolist() for own in kept[: len(cuts)]]
    assert len({tuple(own.tolist()) for own in kept}) == 3 * len(cuts)  # every step looks at other tokens
    for ours, theirs in zip(out.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_masking_and_gathering_agree_on_the_first_token(llava, requests, run):
    encoded = llava.encode(requests)
    first = []
    for mode in ("gather", "mask"):
        with pruners.make("fastv", keep=6, mode=mode)(llava):
            first.append(run(llava, encoded).logits[0])
    torch.testing.assert_close(*first, rtol=0, atol=1e-4)
