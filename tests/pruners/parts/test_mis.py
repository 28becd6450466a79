import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.parts.mis import MIS, independent


def among(edges):
    return lambda index: edges[index][:, index]


def walk(score, edges, keep, pivots, suppress, silenced):
    """One token after the other, as the papers tell it; silenced ones only when nothing else is left."""
    order = sorted(range(len(score)), key=lambda i: (bool(silenced[i]), -score[i].item(), i))
    kept = order[:pivots]
    for rounds in ("independent", "fill", "silenced"):
        for i in order:
            if len(kept) == keep or i in kept:
                continue
            against = kept if suppress else kept[pivots:]
            if rounds == "independent" and (silenced[i] or any(edges[i, j] for j in against)):
                continue
            if rounds == "fill" and silenced[i]:
                continue
            kept.append(i)
    return sorted(kept)


@settings(max_examples=40)
@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), density=st.floats(0, 1), data=st.data())
def test_equals_the_sequential_walk(n, seed, density, data):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(n, n, generator=generator).triu(1) > 1 - density
    edges = edges | edges.T
    edges.fill_diagonal_(False)
    score = torch.randint(0, 12, (n,), generator=generator).float()  # ties on purpose
    silenced = torch.rand(n, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))
    keep = data.draw(st.integers(1, n))
    ratio = data.draw(st.sampled_from([0.0, 0.7, 1.0]))
    suppress = data.draw(st.booleans())
    kept = MIS(r_pivot=ratio, suppress_pivots=suppress)(score, among(edges), keep, silenced)
    assert kept.tolist() == walk(score, edges, keep, max(1, int(ratio * keep)), suppress, silenced)


def test_graph_rules():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    xy = torch.tensor([[0, 0], [5, 5], [1, 1], [0, 1]])
    view = torch.tensor([0, 0, 0, 1])

    def edges(**fields):
        graph = MIS(**fields).graph(features, xy, view)
        assert torch.equal(graph, graph.T)
        return {tuple(sorted(pair)) for pair in graph.nonzero().tolist()}

    assert edges(rule="semantic") == {(0, 1)}
    assert edges(rule="union") == {(0, 1), (0, 2)}  # 3 is a neighbour in place, but of another picture
    assert edges(rule="fused") == set()
    assert edges(rule="fused", alpha=1.0) == {(0, 1)}
    assert edges(rule="fused", alpha=0.1) == {(0, 2)}


def test_the_graph_is_its_definition_pair_by_pair():
    """Along the axes, so that likenesses meet theta, and distances the radius, exactly."""
    generator = torch.Generator().manual_seed(3)
    features = torch.eye(2)[torch.randint(0, 2, (30,), generator=generator)]
    features = features * torch.randint(-3, 4, (30, 1), generator=generator)
    xy = torch.randint(0, 5, (30, 2), generator=generator)
    view = torch.randint(0, 2, (30,), generator=generator)
    unit = torch.nn.functional.normalize(features)
    for rule, theta, alpha, radius in [("semantic", 0.0, 0.5, 1.0), ("union", 0.0, 0.5, 2.0), ("fused", 0.5, 0.5, 3.0),
                                       ("fused", 0.25, 0.75, 1.0), ("union", 1.0, 0.5, 1.5)]:  # fmt: skip
        graph = MIS(rule=rule, theta=theta, alpha=alpha, radius=radius).graph(features, xy, view)
        for i in range(30):
            for j in range(30):
                alike = float(unit[i] @ unit[j])
                near = view[i] == view[j] and float((xy[i] - xy[j]).square().sum()) <= radius * radius
                edge = {
                    "semantic": alike > theta,
                    "union": near or alike > theta,
                    "fused": alpha * max(0.0, alike) + (1 - alpha) * near > theta,
                }[rule]
                assert bool(graph[i, j]) == (i != j and edge), (rule, i, j)


def test_fields_are_checked():
    with pytest.raises(ValueError, match=r"^unknown rule of MIS"):
        MIS(rule="none")
    with pytest.raises(ValueError, match=r"^r_pivot"):
        MIS(r_pivot=1.5)
    with pytest.raises(AttributeError):
        MIS().theta = 0.5
    assert MIS() == MIS(r_pivot=0.7, theta=0.8, alpha=0.5, rule="fused", suppress_pivots=True, radius=1.5)


def test_the_first_pivot_is_the_only_one_at_a_share_of_nothing():
    edges = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    score = torch.tensor([3.0, 2.0, 1.0])
    assert MIS(r_pivot=0.0)(score, among(edges), 2).tolist() == [0, 2]
    assert MIS(r_pivot=0.0, suppress_pivots=False)(score, among(edges), 2).tolist() == [0, 1]


def test_picks_are_independent_and_pivots_stay():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 4, generator=generator)
    place = torch.arange(100)
    xy = torch.stack([place % 10, place // 10], -1)
    score = torch.rand(100, generator=generator)
    method = MIS(rule="union", r_pivot=0.5)
    edges = method.graph(features, xy, torch.zeros(100, dtype=torch.long))
    kept = method(score, among(edges), 12)
    pivots = score.topk(6).indices
    assert len(kept) == 12
    assert torch.equal(kept, kept.sort().values)
    assert set(pivots.tolist()) <= set(kept.tolist())
    others = torch.tensor([i for i in kept.tolist() if i not in pivots.tolist()])
    assert not edges[others][:, others].any()
    assert not edges[others][:, pivots].any()


def test_a_chain_takes_every_other_node():
    n = 201  # the worst case of the parallel rounds: every decision waits for the one before
    edges = torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1) > 0
    picked, enough = independent(edges, torch.ones(n, dtype=torch.bool), n)
    assert picked.nonzero()[:, 0].tolist() == list(range(0, n, 2))
    assert not enough
    picked, enough = independent(edges, torch.ones(n, dtype=torch.bool), 5)
    assert picked.nonzero()[:5, 0].tolist() == list(range(0, 10, 2))
    assert enough
    assert picked.sum() < 10  # nobody waited for the rest
    picked, enough = independent(torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, dtype=torch.bool), 3)
    assert picked.all()
    assert enough


@pytest.mark.parametrize(("blocked", "asked"), [(0, [20]), (30, [20, 40]), (100, [20, 40, 80, 100])])
def test_only_the_best_are_compared_while_they_are_enough(blocked, asked):
    """Tokens 0..blocked all repeat each other."""
    edges = torch.zeros(100, 100, dtype=torch.bool)
    edges[:blocked, :blocked] = True
    edges.fill_diagonal_(False)
    score, sizes = torch.arange(100, 0, -1).float(), []

    def some(index):
        sizes.append(len(index))
        return edges[index][:, index]

    kept = MIS(r_pivot=0.5)(score, some, 10)
    assert sizes == asked
    assert kept.tolist() == walk(score, edges, 10, 5, True, torch.zeros(100, dtype=torch.bool))


@pytest.mark.long
def test_thousands_of_tokens_are_quick():
    generator = torch.Generator().manual_seed(0)
    n, keep = 3328, 332
    features, score = torch.randn(n, 64, generator=generator), torch.rand(n, generator=generator)
    place = torch.arange(n)
    xy, view = torch.stack([place % 16, place // 16], -1), place // 256
    method = MIS(rule="union", theta=0.3)
    start = time.perf_counter()
    kept = method(score, lambda some: method.graph(features[some], xy[some], view[some]), keep)
    assert len(kept) == keep
    assert time.perf_counter() - start < 20  # a loop over tokens and neighbours takes minutes
