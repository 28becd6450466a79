"""ToMe: the matching on lists, the whole tower written out, and what padding does."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled import TOKENS, Tower, after, check
from torch.nn.functional import cosine_similarity

import pruners
from debias import Debias, Padding
from pruners.methods.tome import matched, merged


def by_hand(keys, count, valid):
    """(which leave, what each joins) on lists."""
    seen = [i for i in range(len(keys)) if valid[i]]
    staying, leaving = seen[::2], seen[1::2]
    best = {i: max(staying, key=lambda j, i=i: (keys[i] @ keys[j]).item()) for i in leaving}
    order = [i for i in reversed(range(len(keys))) if not valid[i]]
    order += sorted(leaving, key=lambda i: (-(keys[i] @ keys[best[i]]).item(), i))
    return order[:count], [best.get(i) for i in order[:count]]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 25), seed=st.integers(0, 10**6), data=st.data())
def test_the_most_alike_leave_for_what_they_are_like(n, seed, data):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1)
    valid = torch.rand(n, generator=generator) < data.draw(st.sampled_from([0.2, 0.8, 1.0]))
    count = data.draw(st.integers(0, n // 2))
    leave, target = matched(keys, count, None if valid.all() else valid)
    wanted, joined = by_hand(keys, count, valid)
    assert leave.tolist() == wanted
    assert all(a == b for a, b in zip(target.tolist(), joined, strict=True) if b is not None)


def test_a_token_leaves_even_for_its_opposite():
    leave, target = matched(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1)
    assert (leave.tolist(), target.tolist()) == ([1], [0])


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 25), seed=st.integers(0, 10**6), data=st.data())
def test_merging_keeps_the_sum_of_what_shows_the_picture(n, seed, data):
    """Patches and their sum are divided among the tokens that are left, however many rounds that takes."""
    generator = torch.Generator().manual_seed(seed)
    states, size = torch.randn(n, 3, generator=generator), torch.randint(1, 4, (n,), generator=generator).float()
    keep = data.draw(st.integers(1, n))
    found, held, place = merged(states, torch.randn(n, 4, generator=generator), size, keep)
    assert len(found) == len(held) == keep
    assert torch.equal(place, place.unique())
    assert held.sum() == size.sum()
    torch.testing.assert_close((found * held[:, None]).sum(0), (states * size[:, None]).sum(0), rtol=1e-4, atol=1e-4)


def test_padding_leaves_first_and_weighs_nothing():
    generator = torch.Generator().manual_seed(3)
    states, keys = torch.randn(12, 3, generator=generator), torch.randn(12, 4, generator=generator)
    valid = torch.arange(12) % 3 > 0
    for keep in range(1, 13):
        found, held, place = merged(states, keys, torch.ones(12), keep, valid)
        shown = valid[place]
        assert shown.sum() == min(8, keep)
        assert place[~shown].tolist() == [0, 3, 6, 9][: max(0, keep - 8)]
        assert held[shown].sum() == 8
        mean = (found[shown] * held[shown, None]).sum(0) / 8
        torch.testing.assert_close(mean, states[valid].mean(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tome_is_its_tower_written_out(llava, prompt):
    tower = Tower(llava, prompt["pixel_values"])
    h, size, place, counts = tower.embedded, [1] * (1 + TOKENS), list(range(TOKENS)), [26, 16]
    assert len(tower.layers) == len(counts)
    for layer, count in zip(tower.layers, counts, strict=True):
        attn, x = layer.self_attn, layer.layer_norm1(h)
        q, k, v = (
            part(x).view(len(h), -1, attn.head_dim).transpose(0, 1) for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        logits = q @ k.transpose(1, 2) * attn.head_dim**-0.5
        weights = (logits + torch.tensor([math.log(s) for s in size])).softmax(-1)
        h = h + attn.out_proj((weights @ v).transpose(0, 1).flatten(1))
        key = k.mean(0)[1:]  # [CLS] is left alone
        even, odd = range(0, len(key), 2), range(1, len(key), 2)
        alike = {i: {j: cosine_similarity(key[i], key[j], dim=0).item() for j in even} for i in odd}
        best = {i: max(alike[i], key=alike[i].get) for i in odd}
        leave = sorted(odd, key=lambda i: -alike[i][best[i]])[: len(key) - count]
        groups = {i: [i, *(j for j in leave if best[j] == i)] for i in range(len(key)) if i not in leave}
        held = [1, *(sum(size[j + 1] for j in group) for group in groups.values())]
        sums = [sum(size[j + 1] * h[j + 1] for j in group) for group in groups.values()]
        h = torch.stack([h[0], *(total / n for total, n in zip(sums, held[1:], strict=True))])
        size, place = held, [place[i] for i in groups]
        h = h + layer.mlp(layer.layer_norm2(h))
    assert max(size) > 2
    trace = check(llava, prompt, pruners.make("tome", keep=16), [place, place], after(llava, prompt, h[1:]))
    assert trace.counts[0]["after"] == [16, 16]
    assert trace.counts[0]["mean"] == 16


@pytest.mark.parametrize("keep", [1, 3, 8, 35, 36])
def test_any_budget_is_met(keep, llava, prompt):
    with torch.no_grad(), pruners.make("tome", keep=keep)(llava) as trace:
        llava(**prompt)
    assert len(trace.kept[0][0]) == keep


def test_flash_attention_cannot_weigh_keys(get, monkeypatch):
    adapter = get("llava")
    monkeypatch.setattr(adapter.tower.module.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="flash attention cannot do: use attention='sdpa'"):
        pruners.make("tome").check(adapter)


def test_silenced_padding_takes_no_token_of_the_budget(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    with torch.no_grad(), pruners.make("tome", keep=10)(adapter, Debias(padding=Padding()), encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    assert valid[trace.kept[0][0]].all()
