"""What a debias computes as released. The release itself is compared with in tests/golden/test_release.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from debias import Debias, Padding, Span, Trend, names
from debias.release import MASKS, RELEASES

GRID = (24, 24)


def pillow(size):
    """The 0/1 picture of what is no border, resized by Pillow itself."""
    side = max(size)
    mask = Image.new("L", (side, side), 0)
    mask.paste(Image.new("L", size, 1), ((side - size[0]) // 2, (side - size[1]) // 2))
    return torch.from_numpy(np.array(mask.resize(GRID, Image.Resampling.BILINEAR)) > 0).flatten()


def test_the_antialiased_rule_is_pillows():
    rule = Padding(0.5, "antialiased")
    sizes = [(640, height) for height in range(1, 641)] + [(height, 333) for height in range(1, 334, 7)]
    sizes += [(24, 12), (20, 20), (10, 24), (23, 5), (1, 1), (5000, 377), (377, 5000)]
    sizes += [(side, height) for side in (3, 5, 8, 16) for height in range(1, side)]  # fewer pixels than patches
    for size in sizes:
        assert torch.equal(rule.valid(size, GRID), pillow(size)), size
    sampled = Padding(0.5, "bilinear")
    differ = [
        height for height in range(1, 641) if not torch.equal(*(r.valid((640, height), GRID) for r in (rule, sampled)))
    ]
    assert len(differ) == 17
    assert (int(rule.valid((640, 400), GRID).sum()), int(sampled.valid((640, 400), GRID).sum())) == (336, 384)


@pytest.mark.parametrize(
    ("size", "lines"),
    [
        ((640, 480), 18),
        ((640, 360), 14),
        ((640, 426), 16),
        ((49, 49), 24),
        ((2400, 100), 2),
        ((2401, 100), 0),
        ((50, 1), 0),
    ],
)
def test_the_cropped_rule_cuts_whole_lines_from_both_sides(size, lines):
    for one in (size, size[::-1]):
        valid = Padding(0.5, "cropped").valid(one, GRID).view(GRID)
        valid = valid if one == size else valid.T
        assert int(valid.sum()) == 24 * lines
        assert valid[12 - lines // 2 : 12 + lines // 2].all()


def test_padding_is_multiplied_by_zero_and_weights_are_rounded_as_the_release_does():
    score = torch.rand(576, generator=torch.Generator().manual_seed(1)) + 0.1
    for method, weights in (("fastv", None), ("himap", torch.float16), ("sparsevlm", torch.float32)):
        for dtype in (torch.float32, torch.float16):
            both = Debias.paper(method, "gqa", as_released=True)
            raw, span = score.to(dtype), Span(35, GRID, size=(640, 360))
            weight = both.trend.weight(None, 576).to(weights or dtype)
            expected = raw * both.padding.valid((640, 360), GRID).to(dtype) * weight
            found = both(raw, span)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
            assert int((found == 0).sum()) == int((~both.padding.valid((640, 360), GRID)).sum())
            none = Debias.paper(method, "gqa", "paper", as_released=True)
            assert none(raw, span) is raw
            assert both(raw, span, stage=1) is raw
            some = torch.tensor([500, 3, 77])
            assert torch.equal(both(raw[some], Span(35, GRID, some, size=(24, 24))), raw[some] * weight[some])


def test_a_mask_that_leaves_nothing_leaves_nothing():
    span = Span(35, GRID, size=(3000, 100))
    before = Debias.paper("fastv", None, "before", as_released=True)
    assert not before(torch.ones(576), span).any()
    assert before.budget(128, span) == 0
    assert before.budget(128, Span(35, GRID, size=(1024, 200))) == 24 * 4
    assert before.budget(128, Span(35, GRID)) == 128, "a picture of unknown size has no mask"
    assert Debias.paper("himap", None, "before", as_released=True).budget(115, span) == 115
    assert Debias.paper("fastv", None, "before").budget(128, span) == 128


def test_what_the_release_does_not_run_is_refused():
    with pytest.raises(ValueError, match="the release does not run vispruner"):
        Debias.paper("vispruner", as_released=True)
    with pytest.raises(ValueError, match="the release does not run the arm trend"):
        Debias.paper("fastv", None, "trend", as_released=True)
    with pytest.raises(ValueError, match="first cut alone"):
        Debias(Trend.exponential(0.1), stages="all", release=RELEASES["fastv"])
    for trend in (Trend.online(), Trend.offset([0.1]), Trend.blank()):
        with pytest.raises(ValueError, match=f"^the authors' release has no {trend.kind} trend; give a trend fitted"):
            Debias(trend, release=RELEASES["fastv"])
    both = Debias.paper("fastv", as_released=True)
    assert both.acts(0) is True
    assert both.acts(0, "vision") is False  # the release leaves towers alone
    assert both.with_arm("none").release == RELEASES["fastv"]
    assert both.with_arm("both") == both
    with pytest.raises(ValueError, match="differ from arm to arm"):
        both.with_arm("padding")
    assert both.padding != MASKS["fastv", "padding"] == Debias.paper("fastv", arm="before", as_released=True).padding


def test_where_the_release_places_pictures_and_which_masks_it_has():
    assert {name: release.late for name, release in RELEASES.items()} == {
        "fastv": 1, "tokencarve": 1, "himap": 0, "pyramiddrop": 0, "sparsevlm": 0
    }  # fmt: skip
    masks = {(name, arm): Debias.paper(name, None, arm, as_released=True).padding for name, arm in MASKS}
    antialiased = Padding(0.5, "antialiased")
    assert masks == {
        ("fastv", "padding"): Padding(0.5, "cropped"),
        ("sparsevlm", "padding"): antialiased,
        ("sparsevlm", "both"): antialiased,
    }


def test_the_names_that_need_no_torch_are_those_of_the_release():
    assert sorted(names.RUN) == sorted(RELEASES)
