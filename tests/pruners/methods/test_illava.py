import pytest
import torch

import pruners
from debias import Debias, Padding
from pruners.methods.illava import merge_least

generator = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("keep", [1, 2, 7, 9, 10])
def test_the_least_attended_become_one(keep):
    states, score = torch.randn(10, 4, generator=generator), torch.rand(10, generator=generator)
    before = states.clone()
    kept, out, average = merge_least(states, score, keep)
    order = sorted(range(10), key=lambda j: -score[j].item())
    group = order[keep - 1 :]
    weights = list(range(1, len(group) + 1))
    merged = sum(w * states[j] for w, j in zip(weights, group, strict=True)) / sum(weights)
    assert kept.tolist() == sorted(order[:keep])
    assert average.tolist() == group[:1]
    torch.testing.assert_close(out[group[0]], merged)
    rest = torch.tensor([j for j in range(10) if j != group[0]])
    assert torch.equal(out[rest], states[rest])
    assert torch.equal(states, before)


def test_padding_weighs_nothing():
    states = torch.randn(10, 4, generator=generator)
    score = torch.arange(10, 0, -1).float()
    silenced = torch.arange(10) >= 7
    kept, out, average = merge_least(states, score, 5, silenced)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert average.tolist() == [4]
    torch.testing.assert_close(out[4], (states[4] + 2 * states[5] + 3 * states[6]) / 6)


def test_a_group_of_padding_alone_is_averaged_as_upstream_does():
    states = torch.randn(6, 4, generator=generator)
    score = torch.arange(6, 0, -1).float()
    silenced = torch.arange(6) >= 3
    _, out, _ = merge_least(states, score, 5, silenced)
    torch.testing.assert_close(out[4], (states[4] + 2 * states[5]) / 3)


def test_one_token_is_not_everything():
    """keep=1 is a count, keep=1.0 a share; Python calls them equal."""
    assert pruners.make("illava", keep=1).vision_layers(24) == (5, 6, 7, 8)
    assert pruners.make("illava", tower_keep=1).vision_layers(24) == (5, 6, 7, 8)
    assert pruners.make("illava", keep=1.0).vision_layers(24) == ()
    assert pruners.make("illava", tower_keep=1.0).vision_layers(24) == ()


@pytest.mark.parametrize("tower_keep", [1.0, 20])
def test_padding_in_the_average_can_be_left_as_upstream_has_it(tower_keep, get, requests, monkeypatch):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid, groups = Padding().valid(encoded.sizes[0], (6, 6)), {}

    def noting(states, score, keep, silenced=None):
        groups.setdefault(name, []).append(silenced)
        return merge_least(states, score, keep, silenced)

    monkeypatch.setattr("pruners.methods.illava.merge_least", noting)
    kept, logits = {}, {}
    for name in (True, False):
        pruner = pruners.make("illava", keep=10, layer=3, tower_keep=tower_keep, tower_layers=(0,), silence_merge=name)
        with pruner(adapter, Debias(padding=Padding()), encoded.sizes) as trace:
            logits[name] = adapter.model(**encoded.inputs).logits[0, -1]
        kept[name] = trace.kept[0][0]
    assert groups[False] == [None] * len(groups[True])
    assert torch.equal(groups[True][0], ~valid)
    assert kept[True].tolist() == kept[False].tolist()
    assert valid[kept[False]].sum() == min(len(kept[False]), int(valid.sum()))
    assert (logits[True] - logits[False]).abs().max() > 1e-3
