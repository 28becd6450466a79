"""Each method on a whole model, against its algorithm written out layer by layer: same tokens, same next-token logits.

Nothing here uses the mechanism: attention is spelled out, every layer runs on the shortened sequence, batch of one.
"""

import pytest
import torch
from spelled import LAYERS, START, TOKENS, Decoder, Tower, after, check, native, without
from torch.nn.functional import cosine_similarity, normalize

import pruners
from pruners.parts.mis import MIS
from pruners.parts.scores import Scores
from pruners.prior import Prior


@torch.no_grad()
def test_himap(llava, prompt):
    run = Decoder(llava, prompt)
    h, positions, kept = run.embedded, torch.arange(len(run.embedded)), [torch.arange(TOKENS)]
    weights = None
    for i in range(LAYERS):
        left = len(kept[-1])
        if i in (2, 3):
            mean = weights.mean(0)
            rows = mean[START + left :] if i == 2 else mean[START : START + left]
            score = rows.sum(0)[START : START + left]
            keep = score.topk({2: 12, 3: 5}[i]).indices.sort().values
            rows = without(h, keep, left)
            h, positions = h[rows], positions[rows]
            kept.append(kept[-1][keep])
        h, weights = run.layer(i, h, positions)
    pruner = pruners.make("himap", keeps=(12, 5), second=3)
    check(llava, prompt, pruner, [k.tolist() for k in kept[1:]], run.logits(h))


@torch.no_grad()
@pytest.mark.parametrize("rank", ["both", "information", "attention"])
@pytest.mark.parametrize("keep", [9, 10])
def test_tokencarve(llava, prompt, keep, rank):
    run = Decoder(llava, prompt)
    h, positions, weights = run.embedded, torch.arange(len(run.embedded)), None
    for i in range(LAYERS):
        if i == 2:
            visual = h[START : START + TOKENS]
            attention = weights.mean(0)[-1, START : START + TOKENS]
            u, s, _ = torch.linalg.svd(visual, full_matrices=False)
            content, points = (u * s).abs().sum(1), torch.arange(TOKENS, 0, -1).float()
            score = torch.zeros(TOKENS)
            score[attention.argsort(descending=True, stable=True)] += 0.4 * points
            score[content.argsort(descending=True, stable=True)] += 0.6 * points
            score = {"both": score, "information": content, "attention": attention}[rank]
            best = score.sort(descending=True, stable=True).indices[: int(keep / 2 * 3)]
            half = len(best) // 2
            a, b = best[:half], best[half:]
            unit = normalize(visual, dim=-1)
            value, match = (unit[b] @ unit[a].T).max(-1)
            order = value.argsort(descending=True)
            merged = min(half, int(keep / 2))
            source, target = b[order[:merged]], a[match[order[:merged]]]
            visual = visual.clone().scatter_reduce_(
                0, target[:, None].expand(-1, visual.shape[1]), visual[source], "mean", include_self=True
            )
            kept = torch.cat([a, b[order[merged:]]]).sort().values
            h = torch.cat([h[:START], visual, h[START + TOKENS :]])
            rows = without(h, kept)
            h, positions = h[rows], positions[rows]
        h, weights = run.layer(i, h, positions)
    pruner = pruners.make("tokencarve", keep=keep, weight=0.4, rank=rank)
    trace = check(llava, prompt, pruner, [kept.tolist()], run.logits(h))
    assert trace.counts[0]["after"] == [keep]


@torch.no_grad()
def test_sparsevlm(llava, prompt):
    run = Decoder(llava, prompt)
    h, n, weights = run.embedded, TOKENS, None
    visual, text = h[START : START + n], h[START + n :]
    share = (visual @ text.T).softmax(-1).mean(0)
    words = (share > share.mean()).nonzero()[:, 0]
    assert 0 < len(words) < len(text)
    raster, own, kept = torch.arange(TOKENS), torch.ones(TOKENS, dtype=torch.bool), []
    for i in range(LAYERS):
        if i in (3, 5):  # the layers before these have decided
            score = weights.mean(0)[START + n + words, START : START + n].mean(0)
            keep = score.topk({3: 12, 5: 4}[i]).indices.sort().values
            out = torch.tensor([j for j in range(n) if j not in keep.tolist()])
            recycled = out[score[out].topk(int(0.3 * len(out)) + 1).indices]
            count = int(len(recycled) / 10) + 1
            centres, means = cluster(h[START + recycled], count)
            h = torch.cat([h[:START], h[START + keep], means, h[START + n :]])
            raster = torch.cat([raster[keep], raster[recycled[centres]]])
            own = torch.cat([own[keep], torch.zeros(count, dtype=torch.bool)])
            kept.append(raster[own].tolist())
            n = len(keep) + count
        h, weights = run.layer(i, h, torch.arange(len(h)))
    pruner = pruners.make("sparsevlm", keeps=(12, 4), layers=(3, 5))
    trace = check(llava, prompt, pruner, kept, run.logits(h))
    assert trace.counts[0]["after"][-1] == n
    assert trace.counts[0]["after"] == pruner.counts(LAYERS, TOKENS)
    booked = [36, 36, 13, 13] + [n] * 4
    assert trace.counts[0]["own"] == sum(booked) / LAYERS


def cluster(x, count):
    """DPC-KNN with everything spelled out."""
    d = torch.stack([torch.stack([(a - b).norm() for b in x]) for a in x]) / x.shape[1] ** 0.5
    rho = (-(d.sort(-1).values[:, :count] ** 2).mean(-1)).exp()
    delta = torch.tensor(
        [min([d[i, j].item() for j in range(len(x)) if rho[j] > rho[i]], default=d.max().item()) for i in range(len(x))]
    )
    centres = (rho * delta).argsort(descending=True)[:count]
    label = d[:, centres].argmin(-1)
    label[centres] = torch.arange(count)
    return centres, torch.stack([x[label == c].mean(0) for c in range(count)])


@torch.no_grad()
def test_illava_in_the_decoder(llava, prompt):
    run = Decoder(llava, prompt)
    h, positions, weights = run.embedded, torch.arange(len(run.embedded)), None
    for i in range(LAYERS):
        if i == 3:
            score = weights.mean(0)[-1, START : START + TOKENS]
            order = score.argsort(descending=True)
            r = TOKENS - 10
            group, weight = order[TOKENS - r - 1 :], torch.arange(1, r + 2).float()
            h = h.clone()
            h[START + group[0]] = (weight[:, None] * h[START + group]).sum(0) / weight.sum()
            kept = order[: TOKENS - r].sort().values
            rows = without(h, kept)
            h, positions = h[rows], positions[rows]
        h, weights = run.layer(i, h, positions)
    pruner = pruners.make("illava", keep=10, layer=3, tower_keep=1.0)
    check(llava, prompt, pruner, [kept.tolist()], run.logits(h))


def mis_by_hand(score, features, keep, theta=0.8, alpha=0.5, pivots=0.7, side=6):
    order = score.argsort(descending=True).tolist()
    kept = order[: max(1, int(pivots * keep))]

    def alike(i, j):
        near = max(abs(i // side - j // side), abs(i % side - j % side)) <= 1
        likeness = cosine_similarity(features[i], features[j], dim=0).clamp_min(0).item()
        return alpha * likeness + (1 - alpha) * near > theta

    for allowed in (True, False):
        for i in order:
            if len(kept) < keep and i not in kept and (not allowed or not any(alike(i, j) for j in kept)):
                kept.append(i)
    return kept


@torch.no_grad()
@pytest.mark.parametrize(
    ("scores", "combine"),
    [
        ("raw", lambda deep, shallow: deep),
        ("ratio", lambda deep, shallow: deep / (shallow + 1e-7)),
        ("subtract", lambda deep, shallow: deep - shallow),
        (Scores("weighted", weight=0.3, shallow=8), None),
    ],
)
@pytest.mark.parametrize("selection", ["topk", "mis"])
def test_deeplayer(llava, prompt, scores, combine, selection):
    run = Decoder(llava, prompt)
    h, positions, seen = run.embedded, torch.arange(len(run.embedded)), []
    for i in range(LAYERS):
        if i == 3:  # 12 of 32 layers is 3 of 8
            if combine is None:  # layer 8 of 32 is layer 2 of 8: the attention of layer 1
                deep, shallow = ((a - a.min()) / (a.max() - a.min()) for a in (seen[2], seen[1]))
                score = 0.3 * deep + 0.7 * shallow
            else:
                score = combine(seen[2], seen[0])
            features = h[START : START + TOKENS]
            kept = score.topk(10).indices.tolist() if selection == "topk" else mis_by_hand(score, features, 10, 0.3)
            rows = without(h, sorted(kept))
            h, positions = h[rows], positions[rows]
        h, weights = run.layer(i, h, positions)
        seen.append(weights.mean(0)[-1, START : START + TOKENS])
    chosen = "topk" if selection == "topk" else MIS(theta=0.3)
    check(llava, prompt, pruners.make("deeplayer", keep=10, scores=scores, selection=chosen), [kept], run.logits(h))


@torch.no_grad()
def test_deeplayer_before_rotation(llava, prompt):
    run = Decoder(llava, prompt)
    h, positions = run.embedded, torch.arange(len(run.embedded))
    for i in range(2):
        h, _ = run.layer(i, h, positions)
    score = run.attention(2, h, positions, rotary=False)[0].mean(0)[-1, START : START + TOKENS]
    pruner = pruners.make("deeplayer", keep=10, layer=3, scores=Scores(rope=False), selection="topk")
    trace, _ = native(llava, prompt, pruner)
    torch.testing.assert_close(trace.scores[0][0][0], score, rtol=1e-4, atol=1e-6)
    assert trace.kept[0][0].tolist() == sorted(score.topk(10).indices.tolist())


@torch.no_grad()
def test_d2pruner(llava, prompt):
    run = Decoder(llava, prompt)
    prior = torch.rand(TOKENS, generator=torch.Generator().manual_seed(2)) / TOKENS
    h, positions, weights = run.embedded, torch.arange(len(run.embedded)), None
    for i in range(LAYERS):
        if i == 2:
            score = weights.mean(0)[-1, START : START + TOKENS] / (prior + 1e-7)
            kept = mis_by_hand(score, h[START : START + TOKENS], 10)
            rows = without(h, sorted(kept))
            h, positions = h[rows], positions[rows]
        h, weights = run.layer(i, h, positions)
    measured = Prior(tuple(prior.tolist()), layer=1, model="tiny")
    check(llava, prompt, pruners.make("d2pruner", keep=10, prior=measured), [kept], run.logits(h))


@torch.no_grad()
def test_vispruner(llava, prompt):
    h, weights, _ = Tower(llava, prompt["pixel_values"]).run()
    attention, features = weights.mean(0)[0, 1:], h[1:]
    unit = normalize(features, dim=-1)
    order = attention.argsort(descending=True).tolist()
    kept, rest = order[:6], order[6:]
    while len(rest) > 7:
        a, b = rest[0::2], rest[1::2]
        best = {i: max((unit[i] @ unit[j]).item() for j in b) for i in a}
        rest = sorted(a, key=lambda i: -best[i])[min(8, len(rest) - 7, len(a)) :] + b
    kept = sorted(kept + rest)
    assert len(kept) == 13
    check(llava, prompt, pruners.make("vispruner", keep=13), [kept], after(llava, prompt, features[kept]))


@torch.no_grad()
def test_visionzip(llava, prompt):
    h, weights, keys = Tower(llava, prompt["pixel_values"]).run()
    dominant = weights.sum(0)[0, 1:].topk(10).indices.sort().values + 1  # 11 of 13 with [CLS]
    rest = torch.tensor([i for i in range(1, TOKENS + 1) if i not in dominant.tolist()])
    metric = normalize(keys.mean(0), dim=-1)
    step = len(rest) // 2
    targets = rest[::step][:2]
    others = torch.tensor([i for i in rest.tolist() if i not in targets.tolist()])
    match = (metric[others] @ metric[targets].T).argmax(-1)
    gathered = torch.stack([h[t] + h[others[match == i]].mean(0) for i, t in enumerate(targets)])
    visual = torch.cat([h[:1], h[dominant], gathered])
    trace, ours = native(llava, prompt, pruners.make("visionzip", keep=13))
    assert sorted(trace.kept[0][0].tolist()) == sorted((torch.cat([dominant, targets]) - 1).tolist())
    assert trace.counts[0]["after"] == [13]
    torch.testing.assert_close(ours, after(llava, prompt, visual), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_illava_in_the_tower(llava, prompt):
    tower = Tower(llava, prompt["pixel_values"])
    h, left = tower.embedded, torch.arange(-1, TOKENS)
    for number, layer in enumerate(tower.layers):
        m, weights, _ = tower.middle(layer, h)
        if number in (0, 1):
            score = weights.mean((0, 1))[1:]
            r = {0: 8, 1: 8}[number]
            order = score.argsort(descending=True)
            group, weight = order[len(order) - r - 1 :] + 1, torch.arange(1, r + 2).float()
            m = m.clone()
            m[group[0]] = (weight[:, None] * m[group]).sum(0) / weight.sum()
            stay = torch.cat([torch.zeros(1, dtype=torch.long), order[: len(order) - r].sort().values + 1])
            m, left = m[stay], left[stay]
        h = m + layer.mlp(layer.layer_norm2(m))
    pruner = pruners.make("illava", keep=36, tower_keep=20, tower_layers=(0, 1))
    assert pruner.tower_count(TOKENS) == 36  # never fewer than the decoder keeps
    pruner = pruners.make("illava", keep=20, tower_keep=20, tower_layers=(0, 1))
    positions = torch.cat([torch.arange(START), START + left[1:], torch.arange(START + TOKENS, START + TOKENS + 7)])
    check(llava, prompt, pruner, [left[1:].tolist()] * 2, after(llava, prompt, h[1:], positions))
