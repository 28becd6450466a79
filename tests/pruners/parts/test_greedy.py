"""Greedy choices against the same walks written out on lists."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.methods.cdpruner import conditional
from pruners.parts.greedy import determinantal, farthest, likeness


def distances(n, seed):
    """Symmetric whole numbers, so that ties are common."""
    drawn = torch.randint(0, 9, (n, n), generator=torch.Generator().manual_seed(seed)).float()
    return (drawn + drawn.T).fill_diagonal_(0)


def walk(distance, count, among):
    """Max-min diversity as the paper tells it, one token after the other."""
    distance, order = distance.tolist(), []
    for _ in range(count):
        left = [i for i in among if i not in order]
        near = {i: min([distance[i][j] for j in order or among if j != i], default=float("inf")) for i in left}
        order.append(max(left, key=lambda i: (near[i], -i)))
    return order


@settings(max_examples=60)
@given(n=st.integers(1, 30), seed=st.integers(0, 10**6), data=st.data())
def test_farthest_equals_the_walk(n, seed, data):
    distance = distances(n, seed)
    share = data.draw(st.sampled_from([None, 0.2, 0.7]))
    among = None
    if share is not None:
        among = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share
    there = list(range(n)) if among is None else among.nonzero()[:, 0].tolist()
    count = data.draw(st.integers(0, len(there)))
    assert farthest(distance, count, among).tolist() == walk(distance, count, there)


@settings(max_examples=30)
@given(n=st.integers(2, 9), seed=st.integers(0, 10**6), data=st.data())
def test_farthest_is_at_most_twice_as_near_as_the_best_set(n, seed, data):
    """The known bound of the greedy choice, wherever distances obey the triangle inequality."""
    places = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double()
    distance, count = torch.cdist(places, places), data.draw(st.integers(2, n))

    def least(chosen):
        return min(distance[i, j].item() for i, j in itertools.combinations(chosen, 2))

    best = max(least(some) for some in itertools.combinations(range(n), count))
    assert 2 * least(farthest(distance, count).tolist()) >= best - 1e-6


def volumes(kernel, count, among):
    """The greedy determinantal choice by determinants of whole submatrices."""
    order = []
    for _ in range(count):
        left = [i for i in among if i not in order]
        grown = {i: torch.linalg.slogdet(kernel[[*order, i]][:, [*order, i]])[1].item() for i in left}
        order.append(max(left, key=lambda i: (grown[i], -i)))
    return order


@settings(max_examples=40)
@given(n=st.integers(1, 24), seed=st.integers(0, 10**6), data=st.data())
def test_determinantal_equals_the_choice_by_determinants(n, seed, data):
    generator = torch.Generator().manual_seed(seed)
    features, relevance = torch.randn(n, 2 * n, generator=generator), torch.rand(n, generator=generator) + 0.1
    kernel = likeness(features.double()) * relevance[:, None] * relevance
    share = data.draw(st.sampled_from([0.3, 1.0]))
    among = torch.rand(n, generator=generator) < share
    there = among.nonzero()[:, 0].tolist()
    count = data.draw(st.integers(0, len(there)))
    assert determinantal(kernel, count, among).tolist() == volumes(kernel, count, there)


def test_a_spanned_space_is_followed_by_the_own_entries():
    """Of tokens in a plane two add something. Rounding must not choose the others: the larger goes first, then the
    earlier."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(30, 2, generator=generator)
    relevance = torch.randint(1, 4, (30,), generator=generator).float()
    order = determinantal(conditional(features, relevance), 20).tolist()
    share = (relevance - 1) / 2
    rest = [i for i in range(30) if i not in order[:2]]
    assert order[2:] == sorted(rest, key=lambda i: (-share[i].item(), i))[:18]


def test_what_is_left_out_moves_no_choice():
    features = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    relevance = torch.rand(40, generator=torch.Generator().manual_seed(1))
    among = torch.arange(40) % 3 > 0
    relevance[~among] = 7.0
    alone = among.nonzero()[:, 0]
    some = alone[farthest(1 - likeness(features[alone]), 12)]
    assert farthest(1 - likeness(features), 12, among).tolist() == some.tolist()
    some = alone[determinantal(conditional(features[alone], relevance[alone]), 12)]
    assert determinantal(conditional(features, relevance, among), 12, among).tolist() == some.tolist()
