import torch

import pruners
from debias import Debias, Padding
from pruners.methods.sparsevlm import raters, recycle, recycled

generator = torch.Generator().manual_seed(0)


def test_raters_get_more_than_the_mean_share():
    visual, text = torch.randn(30, 8, generator=generator), torch.randn(6, 8, generator=generator)
    share = torch.zeros(6)
    for v in visual:
        weights = torch.stack([(v @ t).exp() for t in text])
        share += weights / weights.sum() / 30
    assert raters(visual, text).tolist() == [s > share.mean() for s in share]


def test_every_word_rates_when_all_are_equal():
    assert raters(torch.randn(5, 4), torch.ones(3, 4)).all()
    assert raters(torch.randn(5, 4), torch.ones(1, 4)).all()


def test_a_word_of_the_mean_share_does_not_rate():
    looked_at = [0, 0, 1, 2]  # each patch at one of four words alone
    assert raters(200 * torch.eye(4)[looked_at], torch.eye(4)).tolist() == [True, False, False, False]


def test_published_schedules():
    """(tokens before, kept) -> (recycled, clusters), as the study observed them."""
    assert [recycled(n - k) for n, k in [(576, 303), (312, 110), (117, 36)]] == [(82, 9), (61, 7), (25, 3)]
    assert [recycled(n - k) for n, k in [(576, 300), (309, 200), (204, 110)]] == [(83, 9), (33, 4), (29, 3)]
    assert [recycled(n - k) for n, k in [(576, 66), (82, 30), (32, 17)]] == [(154, 16), (16, 2), (5, 1)]
    assert recycled(0) == (0, 0)


def test_recycles_the_best_of_the_dropped():
    states, score = torch.randn(40, 8, generator=generator), torch.rand(40, generator=generator)
    kept = score.topk(10).indices.sort().values
    centres, means = recycle(states, score, kept)
    pool = [i for i in score.argsort(descending=True).tolist() if i not in kept.tolist()][:10]
    assert recycled(30) == (10, 2)
    assert len(centres) == len(means) == 2
    assert set(centres.tolist()) <= set(pool)
    other = states.clone()
    other[[i for i in range(40) if i not in pool]] = 0
    assert torch.equal(recycle(other, score, kept)[1], means)


def test_recycling_follows_the_debias(get, requests):
    """Recycled padding is what the release leaves in; the debias can be told to."""
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    centres = {}
    for wanted in (True, False):
        debias = Debias(padding=Padding(), recycle=wanted)
        with pruners.make("sparsevlm", keeps=(8,), layers=(2,))(adapter, debias, encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        assert valid[trace.kept[0][0]].all()
        centres[wanted] = trace.merged[0][0]
    assert valid[centres[True]].all()
    assert centres[True].tolist() != centres[False].tolist()
