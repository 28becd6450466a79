import pytest
import torch

import pruners
from debias import Debias, Padding
from pruners.methods.visionzip import contextual

generator = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("rest", "count"), [(523, 10), (30, 10), (11, 10), (10, 10), (1, 1), (7, 0)])
def test_contextual_tokens(rest, count):
    features, keys = torch.randn(600, 6, generator=generator), torch.randn(600, 5, generator=generator)
    index = torch.randperm(600, generator=generator)[:rest].sort().values
    targets, out = contextual(features, keys, index, count)
    step = max(1, rest // max(count, 1))
    expected = index[::step][:count].tolist()
    assert targets.tolist() == expected
    joined = {t: [] for t in expected}
    unit = keys / keys.norm(dim=-1, keepdim=True)
    for i in index.tolist():
        if i not in joined and joined:
            joined[max(expected, key=lambda t, i=i: (unit[i] @ unit[t]).item())].append(i)
    for row, t in enumerate(expected):
        mean = torch.stack([features[i] for i in joined[t]]).mean(0) if joined[t] else torch.zeros(6)
        torch.testing.assert_close(out[row], features[t] + mean)


def test_contextual_tokens_are_made_of_the_picture(get, requests):
    """VisionZip: padding is no target while a valid patch is left out, and joins none."""
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    for keep in (1, 2, 9, 24, 25, 26, 27, 30, 35):
        with pruners.make("visionzip", keep=keep)(adapter, Debias(padding=Padding()), encoded.sizes) as trace:
            adapter.model(**encoded.inputs)
        kept = trace.kept[0][0]
        assert len(kept) == keep - 1
        assert valid[kept].sum() == min(keep - 1, int(valid.sum()))
        assert trace.counts[0]["after"] == [keep]
