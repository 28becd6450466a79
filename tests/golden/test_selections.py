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
from pruners.methods.cdpruner import conditional
from pruners.methods.dart import least_alike
from pruners.methods.holov import HoloV
from pruners.methods.prumerge import gathered, outliers
from pruners.methods.tome import merged
from pruners.methods.vidcom2 import shares
from pruners.methods.vscan import averaged
from pruners.parts.greedy import determinantal, farthest, likeness
from pruners.parts.regions import evenly, rank_within, regions

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


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tome_matches_and_merges_the_same(seed):
    """One matching. The authors then list what may leave before the rest, and deal anew by that order; ours keep the
    raster's."""
    wanted = THEIRS[f"tome.{seed}"]
    states, keys = draw("states", seed, 1, 65, 8)[0], draw("keys", seed, 1, 65, 12)[0]
    size = draw("sizes", seed, 1, 65, 1).abs().mul(2).floor().add(1)[0, 1:, 0]
    found, held, _ = merged(states[1:], keys[1:], size, len(wanted) - 1)
    ours = torch.cat([torch.cat([states[:1], found]), torch.cat([torch.ones(1), held])[:, None]], 1)
    torch.testing.assert_close(ours[ours[:, 0].argsort()], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("seed", "ratio"), [(1, 0.25), (2, 0.15)])
def test_vidcom2_shares_and_chooses_the_same(seed, ratio):
    """The authors round each frame's number by itself, so that the sum may be off by some; ours is exact."""
    scales, counts, kept = (THEIRS[f"vidcom2.{seed}.{part}"] for part in ("scales", "counts", "kept"))
    torch.testing.assert_close(ratio * shares(draw("frames", seed, 8).mul(0.02), 0.01).float(), scales)
    alike, frame = draw("alike", seed, 8, 196), torch.arange(8).repeat_interleave(196)
    ours = rank_within(-alike.flatten(), frame) < counts[frame]
    assert (ours.nonzero()[:, 0] % 196).tolist() == kept.tolist()


@pytest.mark.parametrize("seed", [1, 2])
def test_dart_chooses_the_same_from_pivot_to_pivot(seed):
    """The authors take pivots in the order of a set; ours in that of their size."""
    wanted, turns = THEIRS[f"dart.{seed}"].long() - 5, THEIRS[f"dart.{seed}.turns"].long()
    states, size = draw("states", seed, 1, 170, 24)[0], draw("keys", seed, 1, 170, 1, 16).abs().sum((0, 2, 3))
    image, text = top(size[5:149], 4), top(size[149:], 4) + 149
    assert sorted(turns.tolist()) == [*(image + 5).tolist(), *text.tolist()]
    unit = normalize(states, dim=-1)
    free = torch.ones(144, dtype=torch.bool).index_fill(0, image, False)
    more = least_alike(unit[turns] @ unit[5:149].T, len(wanted) - 4, free)
    assert torch.cat([image, more]).sort().values.tolist() == wanted.tolist()
