import math

import pytest
import torch

from pruners.parts.scores import Scores, entropy

generator = torch.Generator().manual_seed(0)
DEEP = torch.rand(20, generator=generator) / 20
SHALLOW = torch.rand(20, generator=generator) / 20
EPS = 1e-7


def unit(x):
    return (x - x.min()) / (x.max() - x.min())


def standard(x):
    return (x - x.mean()) / ((x - x.mean()) ** 2).mean().sqrt()


def heat(x):
    p = (x / x.sum()).tolist()
    return -sum(a * math.log(a) for a in p)


EXPECTED = {
    "raw": DEEP,
    "ratio": DEEP / (SHALLOW + EPS),
    "subtract": DEEP - SHALLOW,
    "zscore": standard(DEEP) - standard(SHALLOW),
    "weighted": 0.5 * unit(DEEP) + 0.5 * unit(SHALLOW),
    "residual": DEEP - 0.5 * (SHALLOW - SHALLOW.mean()),
    "prior": DEEP / (SHALLOW + EPS),
    "entropy_ratio": DEEP
    / (SHALLOW ** (heat(SHALLOW) / heat(DEEP)) / (SHALLOW ** (heat(SHALLOW) / heat(DEEP))).sum() + EPS),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_arithmetic(kind):
    got = Scores(kind)(DEEP, SHALLOW, SHALLOW)
    torch.testing.assert_close(got, EXPECTED[kind], rtol=1e-4, atol=1e-5)
    assert Scores(kind).looks_back == (kind not in ("raw", "prior"))


@pytest.mark.parametrize("kind", ["ratio", "subtract", "zscore", "residual", "prior"])
def test_a_flat_reference_leaves_the_ranking(kind):
    flat = torch.full_like(DEEP, 0.05)
    assert torch.equal(Scores(kind)(DEEP, flat, flat).argsort(), DEEP.argsort())


def test_weight_of_the_deep_layer():
    assert torch.equal(Scores("weighted", weight=1.0)(DEEP, SHALLOW).argsort(), DEEP.argsort())
    assert torch.equal(Scores("weighted", weight=0.0)(DEEP, SHALLOW).argsort(), SHALLOW.argsort())


def test_entropy_of_uniform_attention():
    assert entropy(torch.full((256,), 0.001)).item() == pytest.approx(math.log(256), rel=1e-5)


def test_zeros_do_not_make_nan():
    zeros = torch.zeros(5)
    for kind in EXPECTED:
        assert Scores(kind)(zeros, zeros, zeros).isfinite().all(), kind


@pytest.mark.parametrize(("kind", "word"), [("prior", "prior"), ("ratio", "shallow"), ("nonsense", "unknown")])
def test_what_is_missing_is_named(kind, word):
    shallow = DEEP if kind == "nonsense" else None
    with pytest.raises(ValueError, match=word):
        Scores(kind)(DEEP, shallow)
