"""Methods that comparisons contain today, each on a whole model against its algorithm written out: same tokens, same
next-token logits. See test_algorithms.py for the others."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled import LAYERS, START, TOKENS, Decoder, Tower, after, check, without
from torch.nn.functional import cosine_similarity, normalize

import pruners
from debias import Debias, Padding, Reading, Trend
from pruners.methods.cdpruner import conditional
from pruners.methods.dart import least_alike
from pruners.methods.holov import variety
from pruners.methods.prumerge import gathered, outliers
from pruners.methods.vscan import averaged
from pruners.parts.greedy import likeness
from pruners.parts.regions import evenly, regions, shared


def rest_of(run, h):
    """Next-token logits of what enters layer 0, numbered from 0."""
    for i in range(LAYERS):
        h, _ = run.layer(i, h, torch.arange(len(h)))
    return run.logits(h)


@torch.no_grad()
def test_divprune(llava, prompt):
    run = Decoder(llava, prompt)
    visual = run.embedded[START : START + TOKENS]
    apart = [[1 - cosine_similarity(a, b, dim=0).item() for b in visual] for a in visual]
    kept = [max(range(TOKENS), key=lambda i: min(apart[i][j] for j in range(TOKENS) if j != i))]
    while len(kept) < 13:
        left = [i for i in range(TOKENS) if i not in kept]
        kept.append(max(left, key=lambda i: min(apart[i][j] for j in kept)))
    h = run.embedded[without(run.embedded, sorted(kept))]
    check(llava, prompt, pruners.make("divprune", keep=13), [kept], rest_of(run, h))


@torch.no_grad()
@pytest.mark.parametrize("relevance", ["tokens", "none"])
def test_cdpruner(llava, prompt, relevance):
    run = Decoder(llava, prompt)
    visual, text = run.embedded[START : START + TOKENS].double(), run.embedded[START + TOKENS :].double()
    unit = normalize(visual, dim=-1)
    share = torch.ones(TOKENS).double()
    if relevance == "tokens":
        fits = (unit @ normalize(text, dim=-1).T).mean(1)
        share = (fits - fits.min()) / (fits.max() - fits.min())
    kernel, kept = (unit @ unit.T) * share[:, None] * share, []
    while len(kept) < 13:
        left = [i for i in range(TOKENS) if i not in kept]
        kept.append(max(left, key=lambda i: torch.linalg.det(kernel[[*kept, i]][:, [*kept, i]]).item()))
    h = run.embedded[without(run.embedded, sorted(kept))]
    check(llava, prompt, pruners.make("cdpruner", keep=13, relevance=relevance), [kept], rest_of(run, h))


def test_relevance_runs_from_0_to_1_over_the_tokens_that_take_part():
    generator = torch.Generator().manual_seed(0)
    features, relevance = torch.randn(6, 4, generator=generator), torch.tensor([-9.0, 0.2, 0.5, 0.4, 0.3, 7.0])
    alike = likeness(features.double())
    for among, share in ((torch.arange(6) % 5 > 0, (relevance.double() - 0.2) / 0.3), (None, (relevance + 9) / 16)):
        wanted = alike * share[:, None] * share
        torch.testing.assert_close(conditional(features, relevance, among), wanted.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(conditional(features, torch.ones(6)), alike)


def shares(likeness, count, free):
    """DART's choice on lists."""
    free, taken, pivots = set(free), [], len(likeness)
    for number, row in enumerate(likeness):
        for _ in range(count // pivots + (number < count % pivots)):
            least = min(free, key=lambda i, row=row: (row[i], i))
            free.remove(least)
            taken.append(least)
    return taken


@settings(max_examples=40)
@given(n=st.integers(1, 30), pivots=st.integers(1, 9), seed=st.integers(0, 10**6), data=st.data())
def test_dart_takes_for_each_pivot_what_is_least_like_it(n, pivots, seed, data):
    generator = torch.Generator().manual_seed(seed)
    likeness = torch.randint(0, 6, (pivots, n), generator=generator).float()
    free = torch.rand(n, generator=generator) < 0.8
    among = free.nonzero()[:, 0].tolist()
    count = data.draw(st.integers(0, len(among)))
    assert least_alike(likeness, count, free).tolist() == shares(likeness.tolist(), count, among)


@torch.no_grad()
def test_dart(llava, prompt):
    run = Decoder(llava, prompt)
    h, positions, size = run.embedded, torch.arange(len(run.embedded)), None
    for i in range(LAYERS):
        if i == 3:
            visual, text = h[START : START + TOKENS], h[START + TOKENS :]
            pivots = size[START : START + TOKENS].argsort(descending=True)[:3].tolist()
            words = size[START + TOKENS :].argsort(descending=True)[:2].tolist()
            unit = normalize(visual, dim=-1)
            likeness = torch.stack([*unit[pivots], *normalize(text[words], dim=-1)]) @ unit.T
            kept = pivots + shares(likeness.tolist(), 10, [i for i in range(TOKENS) if i not in pivots])
            rows = without(h, sorted(kept))
            h, positions = h[rows], positions[rows]
        layer = run.text.layers[i]
        keys = layer.self_attn.k_proj(layer.input_layernorm(h)).view(len(h), -1, layer.self_attn.head_dim)
        size = run.rotate(keys.transpose(0, 1), positions).abs().sum((0, 2))
        h, _ = run.layer(i, h, positions)
    pruner = pruners.make("dart", keep=13, layer=3, image_pivots=3, text_pivots=2)
    check(llava, prompt, pruner, [kept], run.logits(h))


@torch.no_grad()
def test_the_size_of_keys_depends_on_their_position(llava, prompt):
    """The sum of absolute values that DART ranks by is not left alone by the rotary embedding, as a length would be."""
    run = Decoder(llava, prompt)
    key = torch.randn(1, 1, llava.model.language_model.layers[0].self_attn.head_dim)
    near, far = (run.rotate(key, torch.tensor([at])) for at in (0, 9))
    torch.testing.assert_close(near.norm(), far.norm())
    assert (near.abs().sum() - far.abs().sum()).abs() > 1e-3


@torch.no_grad()
def test_dart_reads_keys_before_their_rotation_where_a_reading_says_so(llava, prompt):
    run = Decoder(llava, prompt)
    h, _ = run.layer(0, run.embedded, torch.arange(len(run.embedded)))
    layer = run.text.layers[1]
    size = layer.self_attn.k_proj(layer.input_layernorm(h)).abs().sum(1)[START : START + TOKENS]
    with pruners.make("dart")(llava, Debias(reading=Reading(rope=False))) as trace:
        llava(**prompt)
    torch.testing.assert_close(trace.scores[0][0][0], size, rtol=1e-4, atol=1e-5)


def merged(features, keys, attention, kept, neighbours, among):
    """PruMerge's sums on lists."""
    found = []
    for i in kept:
        alike = {j: cosine_similarity(keys[i], keys[j], dim=0).item() for j in among if j != i}
        nearest = sorted(alike, key=lambda j, alike=alike: (-alike[j], j))[:neighbours]
        found.append(features[i] + sum((attention[j] * features[j] for j in nearest), torch.zeros_like(features[i])))
    return torch.stack(found)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 20), neighbours=st.integers(0, 25), seed=st.integers(0, 10**6), data=st.data())
def test_prumerge_adds_its_neighbours_to_a_token(n, neighbours, seed, data):
    generator = torch.Generator().manual_seed(seed)
    features, keys = (torch.randn(n, 5, generator=generator) for _ in range(2))
    attention, valid = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < 0.7
    kept = torch.randperm(n, generator=generator)[: data.draw(st.integers(1, n))].sort().values
    ours = gathered(features, keys, attention, kept, neighbours, valid)
    among = valid.nonzero()[:, 0].tolist()
    torch.testing.assert_close(ours, merged(features, keys, attention, kept.tolist(), neighbours, among))


def test_outliers_are_those_of_a_box_plot():
    numpy = pytest.importorskip("numpy")
    for seed in range(20):
        weights = torch.rand(97, generator=torch.Generator().manual_seed(seed)) ** 8
        low, high = numpy.percentile(weights.numpy(), [25, 75])
        assert int(outliers(weights)) == int((weights.numpy() > high + 1.5 * (high - low)).sum())


def test_an_outlier_lies_above_the_fence_and_not_on_it():
    for highest, number in ((7.0, 0), (8.0, 1)):  # quartiles 2 and 4
        assert int(outliers(torch.tensor([3.0, 1.0, highest, 2.0, 4.0]))) == number


def test_outliers_are_counted_in_the_picture_alone():
    attention = torch.tensor([[1.0] * 8 + [9.0] * 2 + [9.0] * 8])
    view = SimpleNamespace(vision=SimpleNamespace(attention=attention), count=12, valid=torch.arange(18) < 10)
    adaptive = pruners.make("prumerge", adaptive=True)
    assert adaptive.select(attention[0] - torch.arange(18) / 100, view).tolist() == [8, 9]
    view.valid = None
    assert len(adaptive.select(attention[0], view)) == 1


def test_a_neighbour_that_points_the_other_way_comes_before_padding():
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    valid, attention = torch.tensor([True, False, True]), torch.ones(3)
    ours = gathered(torch.eye(3), keys, attention, torch.tensor([0]), 1, valid)
    assert ours.tolist() == [[1.0, 0.0, 1.0]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["prumerge", "prumergeplus"])
def test_prumerge(llava, prompt, name):
    h, weights, keys = Tower(llava, prompt["pixel_values"]).run()
    attention, features, keys = weights.mean(0)[0, 1:], h[1:], keys.transpose(0, 1).flatten(1)[1:]
    order = attention.argsort(descending=True).tolist()
    kept = order[:12]
    if name == "prumergeplus":  # 3 of 12, and 9 spread over the other 33
        left = sorted(set(range(TOKENS)) - set(order[:3]))
        kept = order[:3] + [left[(2 * i + 1) * 33 // 18] for i in range(9)]
    kept.sort()
    visual = merged(features, keys, attention, kept, 8, range(TOKENS))
    pruner = pruners.make(name, keep=12, neighbours=8)
    check(llava, prompt, pruner, [kept], after(llava, prompt, visual))


@torch.no_grad()
def test_adaptive_prumerge_keeps_the_outliers(llava, prompt):
    wanted, seed = 0, 0
    while wanted < 2:
        seed += 1
        drawn = torch.randn(1, 3, 84, 84, generator=torch.Generator().manual_seed(seed))
        attention = Tower(llava, drawn).run()[1].mean(0)[0, 1:]
        wanted = int(outliers(attention))
    prompt = {**prompt, "pixel_values": drawn}
    for name, count in (("prumerge", wanted), ("prumergeplus", 4 * wanted)):
        for keep in (1.0, 36, 2):
            with pruners.make(name, keep=keep, adaptive=True)(llava) as trace:
                llava(**prompt)
            assert len(trace.kept[0][0]) == (TOKENS if keep in (1.0, 36) else min(count, keep))
        with pruners.make(name, keep=35, adaptive=True)(llava) as trace:
            llava(**prompt)
        kept = trace.kept[0][0].tolist()
        assert len(kept) == min(count, 35)
        assert set(attention.topk(wanted).indices.tolist()) <= set(kept)


def test_prumergeplus_spreads_over_the_picture_alone(get, requests):
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    for keep in (1, 4, 20, 24, 25, 30, 35):
        with pruners.make("prumergeplus", keep=keep)(adapter, Debias(padding=Padding()), encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        kept = trace.kept[0][0]
        assert len(kept.unique()) == keep
        assert valid[kept].sum() == min(keep, int(valid.sum()))


@settings(max_examples=40)
@given(n=st.integers(1, 40), parts=st.integers(1, 6), seed=st.integers(0, 10**6), data=st.data())
def test_evenly_deals_to_the_parts_in_turn(n, parts, seed, data):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 9, (n,), generator=generator).float()
    region = torch.randint(0, parts, (n,), generator=generator)
    last = torch.rand(n, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))
    best = sorted(range(n), key=lambda i: (-score[i].item(), i))
    places, found = {}, dict.fromkeys(range(parts), 0)
    for i in best:
        if not last[i]:
            places[i] = found[int(region[i])]
            found[int(region[i])] += 1
    wanted = sorted(places, key=lambda i: (places[i], best.index(i))) + [i for i in best if last[i]]
    count = data.draw(st.integers(0, n))
    assert evenly(score, region, count, last).tolist() == wanted[:count]


def test_regions_are_squares_of_the_picture():
    xy = torch.cartesian_prod(torch.arange(6), torch.arange(6)).flip(-1)
    wanted = [[0, 0, 0, 1, 1, 1]] * 3 + [[2, 2, 2, 3, 3, 3]] * 3
    assert regions(xy, 2).view(6, 6).tolist() == wanted
    assert regions(xy + 5, 2).view(6, 6).tolist() == wanted
    assert regions(xy, 6).tolist() == list(range(36))


def test_averaged_tokens():
    generator = torch.Generator().manual_seed(0)
    features, kept = torch.randn(20, 5, generator=generator), torch.tensor([2, 7, 11])
    valid = torch.arange(20) % 4 > 0
    groups = {i: [features[i]] for i in kept.tolist()}
    for i in set(range(20)) - set(groups):
        if valid[i]:
            groups[max(groups, key=lambda k, i=i: cosine_similarity(features[i], features[k], dim=0))].append(
                features[i]
            )
    wanted = torch.stack([torch.stack(group).mean(0) for group in groups.values()])
    torch.testing.assert_close(averaged(features, kept, valid), wanted)


@torch.no_grad()
def test_vscan(llava, prompt):
    tower = Tower(llava, prompt["pixel_values"])
    h, weights, _ = tower.run()
    attention, features = weights.mean(0)[0, 1:], h[1:]
    shallow = tower.middle(tower.layers[0], tower.embedded)[1].mean(0)[0, 1:]
    pruner = pruners.make("vscan", keep=12, shallow=0, across=2)
    assert pruner.counts(LAYERS, TOKENS) == [18, 6]
    assert pruners.make("vscan", keep=2 / 75).counts(32, 25) == [1, 1]  # two thirds of a token are one, and one behind
    part = [i // 18 * 2 + i % 6 // 3 for i in range(TOKENS)]
    order = shallow.argsort(descending=True).tolist()
    place = {i: sum(part[j] == part[i] for j in order[: order.index(i)]) for i in order}
    narrow = sorted(order, key=lambda i: (place[i], order.index(i)))[:9]
    kept = sorted(narrow + [i for i in attention.argsort(descending=True).tolist() if i not in narrow][:9])
    states = averaged(features, torch.tensor(kept))
    run = Decoder(llava, prompt)
    projected = llava.model.multi_modal_projector(states)
    h, last = torch.cat([run.embedded[:START], projected, run.embedded[START + TOKENS :]]), None
    for i in range(LAYERS):
        if i == 4:
            stay = last.mean(0)[-1, START : START + 18].topk(6).indices.sort().values
            h = h[without(h, stay, 18)]
        h, last = run.layer(i, h, torch.arange(len(h)))
    trace = check(llava, prompt, pruner, [kept, [kept[i] for i in stay.tolist()]], run.logits(h))
    assert trace.counts[0]["own"] == 12.0


@torch.no_grad()
def test_a_trend_divides_what_vscan_reads_in_the_decoder_alone(llava, prompt):
    debias = Debias(Trend.exponential(0.05))
    with pruners.make("vscan", keep=12)(llava, debias) as trace:
        llava(**prompt)
    (before, after), (raw, divided) = trace.scores[0][0], trace.scores[1][0]
    assert torch.equal(before, after)
    torch.testing.assert_close(divided, raw * torch.exp(-0.05 * trace.kept[0][0]))


def test_a_method_of_tower_and_decoder_has_four_arms_and_needs_the_tower():
    assert pruners.find("vscan").arms() == ("none", "trend", "padding", "both")
    assert pruners.make("vscan").needs_tower()


def seats(weight, count):
    """Shares in whole numbers: rounded down, and one more for the heaviest."""
    found = [int(count * w / sum(weight)) for w in weight]
    for p in sorted(range(len(weight)), key=lambda p: -weight[p])[: count - sum(found)]:
        found[p] += 1
    return found


@settings(max_examples=40)
@given(n=st.integers(1, 40), parts=st.integers(1, 5), seed=st.integers(0, 10**6), data=st.data())
def test_shared_gives_each_part_what_its_weight_is_worth(n, parts, seed, data):
    generator = torch.Generator().manual_seed(seed)
    score, region = torch.rand(n, generator=generator), torch.randint(0, parts, (n,), generator=generator)
    weight = torch.rand(parts, generator=generator).double() + 0.1
    last = torch.rand(n, generator=generator) < data.draw(st.sampled_from([0.0, 0.4]))
    best = sorted(range(n), key=lambda i: (bool(last[i]), -score[i].item()))
    count = data.draw(st.integers(0, n))
    wanted = []
    for p, number in enumerate(seats(weight.tolist(), count)):
        wanted += [i for i in best if region[i] == p and not last[i]][:number]
    wanted += [i for i in best if i not in wanted][: count - len(wanted)]
    assert sorted(shared(score, region, weight, count, last).tolist()) == sorted(wanted)


def test_variety_is_the_variance_of_what_a_token_is_like():
    generator = torch.Generator().manual_seed(0)
    features, region = torch.randn(30, 6, generator=generator), torch.arange(30) % 4
    valid = torch.arange(30) % 7 > 0
    region[5] = 9  # alone in its part
    region[8] = region[22] = 8  # two in theirs
    found = variety(features, region, valid)
    for i in range(30):
        alike = [
            cosine_similarity(features[i], features[j], dim=0)
            for j in range(30)
            if j != i and region[j] == region[i] and valid[j]
        ]
        wanted = torch.stack(alike).var(correction=0) if alike else torch.tensor(0.0)
        torch.testing.assert_close(found[i], wanted, atol=1e-6, rtol=1e-4)


def test_a_mean_is_that_of_what_shows_the_picture():
    part = torch.tensor([3.0, 5.0])
    for valid, mean in ((None, 4.0), ([False, True], 5.0), ([False, False], 1e-12)):
        view = SimpleNamespace(valid=None if valid is None else torch.tensor(valid))
        assert float(pruners.make("holov")._mean(part, view)) == pytest.approx(mean)


@torch.no_grad()
def test_holov(llava, prompt):
    h, weights, _ = Tower(llava, prompt["pixel_values"]).run()
    attention, features = weights.mean(0)[0, 1:], h[1:]
    part = torch.arange(TOKENS) // 9
    spread = variety(features, part)
    score = attention / attention.mean() + 0.5 * spread / spread.mean()
    kept = []
    for p, number in enumerate(seats([score[part == p].mean().item() for p in range(4)], 13)):
        kept += score.masked_fill(part != p, -1).topk(number).indices.tolist()
    pruner = pruners.make("holov", keep=13, crops=4, diversity=0.5)
    check(llava, prompt, pruner, [kept], after(llava, prompt, features[sorted(kept)]))
