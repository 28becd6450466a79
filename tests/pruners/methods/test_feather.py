"""FEATHER against its description, worked out token by token."""

import math

import pytest
import torch

import pruners
from debias import Debias, Padding, Reading
from pruners.cut import top
from pruners.methods.feather import spread
from pruners.models import Request


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_the_grid_is_every_nth_patch_of_every_nth_row(stride):
    places = torch.tensor([(x, y) for y in range(7) for x in range(8)] + [(-2, -2)])
    expected = [(x % stride, y % stride) == (stride // 2, stride // 2) and x >= 0 for x, y in places.tolist()]
    assert spread(places, stride).tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_what_goes_first_goes_before_every_score(seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 5, (20,), generator=generator).float()  # with ties
    first = torch.rand(20, generator=generator) < 0.3
    ranked = sorted(range(20), key=lambda token: (not first[token], -float(score[token]), token))
    for count in (0, 3, 11, 20):
        assert top(score, count, first).tolist() == sorted(ranked[:count])


def test_budgets_are_the_papers():
    """R = 0.75 on the 729 tokens of the paper's model: 182 + 81 tokens behind layer 8, a sixteenth behind layer 16."""
    method = pruners.make("feather", keep=0.25)
    assert [cut.layer for cut in method.cuts(32)] == [8, 16]
    assert method.counts(32, 729) == [182 + 81, 45]
    assert method.counts(32, 576) == [144 + 64, 36]
    # Layers behind a cut work on so much less: the paper counts 64 % fewer operations, with fewer tokens in the union.
    assert 1 - method.mean_count(32, 729) / 729 == pytest.approx(0.63, abs=0.01)


@pytest.mark.parametrize("padding", [None, Padding()])
def test_kept_sets_match_the_description(get, builders, padding):
    """Ranks before rotation, the grid besides at the first cut, the best alone at the second."""
    adapter = get("llava")
    encoded = adapter.encode([Request("What is it?", [builders.picture(90, 50)])])
    size = encoded.sizes[0]
    method, debias = pruners.make("feather", keep=0.25, stride=2), Debias(padding=padding)
    with method(adapter, debias, encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    first, second = (kept[0].tolist() for kept in trace.kept)
    layers = [cut.layer for cut in method.cuts(8)]
    plain = pruners.make("fastv", keep=1.0, layer=layers[0])
    with plain(adapter, Debias(reading=Reading(rope=False)), encoded.sizes) as probe:
        adapter.model(**encoded.inputs)
    score = probe.scores[0][0][0]
    valid = torch.ones(36, dtype=torch.bool) if padding is None else padding.valid(size, (6, 6))
    grid = [t for t in range(36) if t // 6 % 2 == t % 6 % 2 == 1 and valid[t]]
    ranked = sorted(range(36), key=lambda t: (not valid[t], -float(score[t]), t))
    count = int(36 * 0.25) + math.ceil(36 / 4)
    expected = (grid + [t for t in ranked if t not in grid])[:count]
    assert first == sorted(expected)
    later = trace.scores[1][0][1]
    best = sorted(range(len(later)), key=lambda t: -float(later[t]))[: int(36 / 16)]
    assert second == sorted(first[t] for t in best)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"stride": 0}, "stride=0"), ({"layers": (3,)}, "cuts before two layers"), ({"keep": -1}, "give a count")],
)
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        pruners.make("feather", **fields)
