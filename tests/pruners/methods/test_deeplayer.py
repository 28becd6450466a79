"""The ablation grid: score arithmetic x selection x arm is a loop over values."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch

import pruners
from debias import Debias, Padding, Trend
from pruners.parts.mis import MIS
from pruners.parts.scores import Kind, Scores
from pruners.prior import Prior

PRIOR = Prior(tuple((torch.rand(36, generator=torch.Generator().manual_seed(0)) / 36).tolist()), layer=2, model="tiny")
BOTH = Debias(Trend.exponential(0.01), Padding())


@pytest.fixture(scope="module")
def wide(get, requests):
    """A wide picture: a third of the 36 patches is padding."""
    adapter = get("llava")
    encoded = adapter.encode(requests[:1])
    valid = Padding().valid(encoded.sizes[0], (6, 6))
    assert 0 < valid.sum() < 36
    return adapter, encoded, valid


def run(wide, pruner, debias):
    adapter, encoded, _ = wide
    with pruner(adapter, debias, encoded.sizes) as trace:
        adapter.model(**encoded.inputs)
    return trace.kept[0][0], trace.scores[0][0]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_grid(wide, kind):
    _, _, valid = wide
    keep = int(valid.sum()) - 2
    for selection in ("topk", MIS(rule="union", theta=0.5)):
        found = []
        for arm in ("none", "trend", "padding", "both"):
            method = pruners.make("deeplayer", keep=keep, scores=kind, selection=selection, prior=PRIOR)
            kept, _ = run(wide, method, BOTH.with_arm(arm))
            assert len(kept) == keep
            assert torch.equal(kept, kept.sort().values)
            if arm in ("padding", "both"):
                assert valid[kept].all(), (selection, arm)
            found.append(kept.tolist())
        assert found[0] != found[2]  # this model does look at padding
    more, _ = run(wide, pruners.make("deeplayer", keep=keep + 5, scores=kind, prior=PRIOR), BOTH)
    padding = (~valid).nonzero()[:, 0]
    assert more.tolist() == sorted(valid.nonzero()[:, 0].tolist() + padding[:3].tolist())


def test_padding_takes_no_part_in_the_arithmetic(wide):
    """What is combined over the valid tokens alone is the arithmetic on a picture that has only these."""
    _, _, valid = wide
    method = pruners.make("deeplayer", keep=6, scores="raw", selection="topk")
    _, (deep, _) = run(wide, method, Debias())
    shallow = run(wide, pruners.make("deeplayer", keep=6, layer=1, selection="topk"), Debias())[1][0]
    expected = Scores("zscore")(deep[valid], shallow[valid])
    best = valid.nonzero()[:, 0][expected.topk(6).indices].sort().values
    scores = Scores("zscore", shallow=4)  # layer 4 of 32 is layer 1 of 8
    kept, _ = run(wide, pruners.make("deeplayer", keep=6, scores=scores, selection="topk"), BOTH.with_arm("padding"))
    assert kept.tolist() == best.tolist()


def test_a_prior_of_another_layer_is_refused_before_anything_runs():
    adapter = SimpleNamespace(decoder=SimpleNamespace(layers=range(8)))
    for name, fields in (("deeplayer", {"scores": "prior"}), ("d2pruner", {"layer": 3})):
        pruners.make(name, prior=PRIOR, **fields).check(adapter)
        with pytest.raises(ValueError, match="measured on the attention of layer 2"):
            pruners.make(name, prior=PRIOR, **{**fields, "layer": 4}).check(adapter)
    pruners.make("deeplayer", layer=4).check(adapter)


def test_names_stand_for_values(tmp_path):
    PRIOR.save(tmp_path / "prior.json")
    assert pruners.make("deeplayer", prior=str(tmp_path / "prior.json")).prior.digest == PRIOR.digest
    assert pruners.make("deeplayer", scores="ratio", selection="mis") == pruners.make(
        "deeplayer", scores=Scores("ratio"), selection=MIS()
    )
    with pytest.raises(ValueError, match="selection"):
        pruners.make("deeplayer", selection="best")
    with pytest.raises(ValueError, match="arithmetic"):
        pruners.make("deeplayer", scores="magic")
