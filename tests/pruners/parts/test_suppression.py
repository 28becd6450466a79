"""Suppression in space, against one token after the other in plain Python."""

import math

import pytest
import torch

import pruners
from debias import Debias, Padding
from pruners.parts.suppression import Suppression


def slowly(score, features, places, pictures, count, among, radius, alike, strength):
    """The formula token by token, in float64."""
    tokens = [t for t in range(len(score)) if among[t]]
    low = min(score[t] for t in tokens)
    height = max(score[t] for t in tokens) - low
    left = {t: (score[t] - low) / height if height else 0.0 for t in tokens}
    order = []
    for _ in range(count):
        best = max(left, key=lambda t: (left[t], -t))
        order.append(best)
        del left[best]
        for other in left:
            pull = strength
            if alike:
                one, two = features[best], features[other]
                dot = sum(a * b for a, b in zip(one, two, strict=True))
                pull *= max(0.0, dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in two)))
            if radius is not None:
                square = sum((a - b) ** 2 for a, b in zip(places[best], places[other], strict=True))
                pull *= math.exp(-square / (2 * radius**2)) if pictures[best] == pictures[other] else 0.0
            left[other] *= 1 - pull
    return order


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "fields", [{}, {"radius": None}, {"alike": False, "radius": 1.5}, {"strength": 0.4}, {"strength": 0.0}]
)
def test_kept_tokens_match_the_formula(fields, seed):
    generator = torch.Generator().manual_seed(seed)
    n = 36
    score = torch.randn(n, generator=generator, dtype=torch.float64)  # of both signs: any score will do
    features = torch.randn(n, 5, generator=generator) + 0.5
    xy = torch.stack([torch.arange(n) % 6, torch.arange(n) % 18 // 6], 1)
    picture = torch.arange(n) // 18
    among = torch.rand(n, generator=generator) < 0.8
    method = Suppression(**fields)
    count = int(torch.randint(1, int(among.sum()) + 1, (1,), generator=generator))
    found = method(score, method.pull(features, xy, picture).double(), count, among)
    asked = {"radius": 2.0, "alike": True, "strength": 1.0, **fields}
    expected = slowly(
        score.tolist(), features.double().tolist(), xy.tolist(), picture.tolist(), count, among.tolist(), **asked
    )
    assert found.tolist() == expected


def test_without_strength_it_is_the_plain_order():
    score = torch.tensor([0.1, 0.3, 0.3, 0.0, 0.2])
    assert Suppression(strength=0.0)(score, torch.zeros(5, 5), 4).tolist() == [1, 2, 4, 0]


def test_copies_of_a_token_in_its_place_go_last():
    """Tokens 1 and 2 are the same, side by side: one of them is kept, and then what is worth less and stands alone."""
    score = torch.tensor([0.0, 1.0, 0.9, 0.3])
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    xy = torch.tensor([[0, 0], [4, 4], [4, 4], [9, 9]])
    method = Suppression()
    pull = method.pull(features, xy, torch.zeros(4, dtype=torch.long))
    assert method(score, pull, 2).tolist() == [1, 3]


@pytest.mark.parametrize("score", ["raw", "zscore", "ratio"])
def test_any_score_of_a_model_can_be_suppressed_and_padding_stays_last(get, requests, score):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    for keep in (8, int(valid.sum()) + 2):
        found = []
        for selection in ("topk", "suppression"):
            method = pruners.make("deeplayer", keep=keep, scores=score, selection=selection)
            with method(adapter, Debias(padding=Padding()), encoded.sizes) as trace:
                adapter.model(**encoded.inputs)
            found.append(trace.kept[0][0].tolist())
            assert len(found[-1]) == keep
            assert sum(valid[found[-1]].tolist()) == min(keep, int(valid.sum()))
        assert (found[0] == found[1]) == (keep > valid.sum())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"radius": 0.0}, "above 0, or None"),
        ({"radius": None, "alike": False}, "needs distance or likeness"),
        ({"strength": 1.5}, "share between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Suppression(**fields)
    with pytest.raises(ValueError, match="Suppression"):
        pruners.make("deeplayer", selection="nms")
