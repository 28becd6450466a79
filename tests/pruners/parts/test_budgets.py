"""Published budgets, as they were observed in the authors' code on 576 tokens and 32 layers."""

import pytest

import pruners


@pytest.mark.parametrize(
    ("keep", "after", "own", "mean"),
    [
        (192, [309, 204, 113], 192.03, 206.5),
        (128, [312, 117, 39], 128.63, 145.375),
        (64, [82, 32, 18], 64.8, 82.25),
    ],
)
def test_sparsevlm(keep, after, own, mean):
    method = pruners.make("sparsevlm", keep=keep)
    assert [cut.layer for cut in method.cuts(32)] == [3, 7, 16]
    assert method.counts(32, 576) == after
    assert method.own_count(32, 576) == pytest.approx(own, abs=0.05)
    assert method.mean_count(32, 576) == pytest.approx(mean, abs=0.05)


def test_himap():
    method = pruners.make("himap", keep=128)
    assert [cut.layer for cut in method.cuts(32)] == [2, 8]
    assert method.counts(32, 576) == [115, 90]
    assert method.own_count(32, 576) == method.mean_count(32, 576) == pytest.approx(125.0625)


@pytest.mark.parametrize(("keep", "mean"), [(64, 96.0), (128, 156.0)])
def test_tokencarve(keep, mean):
    assert pruners.make("tokencarve", keep=keep).mean_count(32, 576) == mean


def test_illava():
    method = pruners.make("illava", keep=76)
    assert method.tower_count(576) == 284  # the share that the authors leave of SigLIP's tokens, 361 of 729
    assert method.vision_layers(24) == (5, 6, 7, 8)
    assert method.mean_count(32, 576) == 128.0
    assert pruners.make("illava", keep=300).tower_count(576) == 300
    assert pruners.make("illava", keep=1.0).tower_count(576) == 576


@pytest.mark.parametrize("name", ["vispruner", "visionzip"])
def test_before_the_decoder_every_layer_has_the_budget(name):
    assert pruners.make(name, keep=128).mean_count(32, 576) == 128.0


@pytest.mark.parametrize("layers", [32, 40, 12])
@pytest.mark.parametrize("name", pruners.names())
def test_matched_budgets(name, layers):
    tokens, mean = (576, 300) if layers > 12 else (144, 80)
    method = pruners.find(name).matched(mean=mean, tokens=tokens, layers=layers)
    assert method.mean_count(layers, tokens) == pytest.approx(mean, abs=1.5)


@pytest.mark.parametrize("name", [name for name in pruners.names() if name != "pyramiddrop"])  # its keep is the mean
def test_any_depth_and_any_count(name):
    for layers in (4, 12, 28, 80):
        for tokens in (1, 36, 144, 2056):
            for keep in (1, 7, 0.1, 1.0):
                counts = pruners.make(name, keep=keep).counts(layers, tokens)
                assert all(a >= b for a, b in zip([tokens, *counts], counts, strict=False)), (layers, tokens, keep)
    assert pruners.make(name, keep=1.0).counts(32, 144)[-1] == 144


def test_budgets_can_be_matched():
    assert pruners.find("fastv").matched(mean=128).keep == 98
    assert pruners.find("pyramiddrop").matched(mean=128).keep == 128
    pyramid = pruners.make("pyramiddrop", keep=128)
    assert pyramid.counts(32, 576) == [184, 92, 46]
    assert pyramid.mean_count(32, 576) == 128
    released = pruners.make("pyramiddrop", ratios=(0.32, 0.16, 0.08))
    assert released.counts(32, 576) == [184, 92, 46]
    assert [cut.layer for cut in released.cuts(32)] == [2, 10, 20]
    assert pruners.make("fastv", keep=128).mean_count(32, 576) == 156
    assert pruners.make("pyramiddrop", keep=0.5).mean_count(32, 576) == pytest.approx(288, abs=0.5)
    with pytest.raises(ValueError, match="cannot keep 20 of 576"):
        pruners.make("pyramiddrop", keep=20).counts(32, 576)
    for name in pruners.names():
        if name != "d2pruner":
            matched = pruners.find(name).matched(mean=300)
            assert matched.mean_count(32, 576) == pytest.approx(300, abs=4), name
