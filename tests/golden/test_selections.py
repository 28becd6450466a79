"""Selections against numbers of the authors' own functions (record_selections.py), on the same drawn features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from toy import draw

from pruners.cut import top
from pruners.greedy import determinantal, farthest, likeness
from pruners.methods.cdpruner import conditional
from pruners.methods.holov import HoloV
from pruners.methods.prumerge import gathered, outliers
from pruners.methods.vscan import averaged
from pruners.regions import evenly, regions

THEIRS = load_file(Path(__file__).with_name("selections.safetensors"))


@pytest.mark.parametrize("seed", [1, 2])
def test_divprune_chooses_the_same_tokens_in_the_same_order(seed):
    wanted = THEIRS[f"divprune.{seed}"].tolist()
    assert farthest(1 - likeness(draw("features", seed, 576, 24)), len(wanted)).tolist() == wanted


@pytest.mark.parametrize("seed", [1, 2])
def test_cdpruner_chooses_the_same_tokens(seed):
    """The authors turn CLIP's likeness round, whose patches show the opposite of what they are asked for."""
    wanted = THEIRS[f"cdpruner.{seed}"].tolist()
    pictures, words = (normalize(draw(*part), dim=-1) for part in (("pictures", seed, 576, 16), ("words", seed, 3, 16)))
    kernel = conditional(draw("features", seed, 576, 640), -(pictures @ words.T).mean(-1))
    assert determinantal(kernel, len(wanted)).sort().values.tolist() == wanted


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_vscan_scans_and_merges_the_same(seed):
    kept, merged = THEIRS[f"vscan.{seed}"].long(), THEIRS[f"vscan.{seed}.merged"]
    features, attention = draw("features", seed, 576, 8), draw("attention", seed, 24, 1, 4, 576).mean(2)[:, 0]
    xy = torch.cartesian_prod(torch.arange(24), torch.arange(24)).flip(-1)
    narrow = evenly(attention[5], regions(xy, 4), len(kept) // 2, torch.zeros(576, dtype=torch.bool))
    wide = top(attention[-2].index_fill(0, narrow, -torch.inf), len(kept) - len(narrow))
    assert torch.cat([wide, narrow]).sort().values.tolist() == kept.tolist()
    torch.testing.assert_close(averaged(features, kept), merged, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_holov_shares_and_chooses_the_same(seed):
    wanted, method = THEIRS[f"holov.{seed}"].tolist(), HoloV()
    features, attention = draw("features", seed, 576, 48), draw("attention", seed, 576).mul(3).exp()
    patches = SimpleNamespace(attention=attention[None], features=features)
    view = SimpleNamespace(vision=patches, valid=None, count=len(wanted))
    view.raw = method.score(view)
    assert method.select(view.raw, view).tolist() == wanted


def test_prumerge_merges_the_same():
    """The authors list tokens by attention, and add one more: the sum of all others by attention."""
    features, keys, attention = (THEIRS[f"prumerge.{part}"] for part in ("features", "keys", "attention"))
    wanted = THEIRS["prumerge.merged"]
    kept = attention.argsort(descending=True)[: len(wanted) - 1]
    torch.testing.assert_close(gathered(features, keys, attention, kept, 32), wanted[:-1], atol=1e-5, rtol=0)
    assert [int(outliers(attention**power)) for power in (1, 4, 8)] == THEIRS["prumerge.outliers"].tolist()
