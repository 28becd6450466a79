"""score -> score: what is divided, what is silenced, and what is left alone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from debias import Debias, Padding, Span, Trend
from debias.core import Same, silence, slots_step

WIDE = Span(35, (24, 24), size=(640, 360))  # 336 of 576 patches show the picture
TREND = Trend.exponential(0.004)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def scores(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_identity_is_the_same_object():
    score = scores(576)
    assert Debias()(score, WIDE) is score
    assert Debias()(score, Span(0, (2, 2))) is score  # it does not even look
    both = Debias(TREND, Padding())
    assert both.with_arm("none")(score, WIDE) is score
    assert both(score, WIDE, stage=1) is score
    assert both(score, WIDE, stage=2, role="recycle") is score
    assert Debias(padding=Padding())(score, Span(0, (24, 24))) is score  # never padded
    assert Debias(padding=Padding())(score, Span(0, (24, 24), size=(640, 640))) is score  # nothing to silence
    assert Debias(TREND)(score, WIDE, role="vision") is score
    assert Debias(TREND, Padding(), recycle=False)(score, WIDE, role="recycle") is score
    assert Debias(TREND, Padding())(score[:0], WIDE.at(torch.tensor([], dtype=torch.long))).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(576,), (1, 576), (2, 3, 576)])
def test_dtypes_devices_and_shapes(dtype, device, shape):
    """Worked out in float32 (or better), handed back as it came; only the last axis counts."""
    score = scores(*shape, dtype=dtype).to(device)
    before = score.clone()
    weight = (-0.004 * torch.arange(576, dtype=torch.float64)).exp().float().to(device)
    wide = score if dtype == torch.float64 else score.float()
    expected = (wide * weight).to(dtype)
    divided = Debias(TREND)(score, WIDE)
    assert (divided.dtype, divided.device, divided.shape) == (score.dtype, score.device, score.shape)
    assert torch.equal(divided, expected)
    both = Debias(TREND, Padding())(score, WIDE)
    valid = Padding().valid(WIDE).to(device)
    assert (both.dtype, both.device, both.shape) == (score.dtype, score.device, score.shape)
    assert torch.equal(both[..., valid], expected[..., valid])
    assert (both[..., ~valid].amax(-1) < both[..., valid].amin(-1)).all()
    assert (both[..., ~valid].diff(dim=-1) < 0).all()  # no two alike, falling with the position
    assert torch.equal(score, before)


@given(st.integers(0, 10**6), st.sampled_from(DTYPES), st.sampled_from(["plus", "both signs", "minus", "zero", "huge"]))
@settings(max_examples=80)
def test_padding_is_never_preferred(seed, dtype, kind):
    """Whatever the scores are, and even when more tokens are kept than show the picture."""
    score = scores(576, seed=seed)
    score = {
        "plus": score * 1e-4,
        "both signs": score - 0.5,
        "minus": -score * 100 - 1,
        "zero": score * 0,
        "huge": (score - 0.5) * 6e4,
    }[kind].to(dtype)
    span = Span(0, (24, 24), size=(640, 100 + seed % 500))
    valid = Padding().valid(span)
    out = Debias(padding=Padding())(score, span)
    assert torch.equal(out[valid], score[valid])
    keep = int(valid.sum()) + 20
    kept = out.topk(min(keep, 576)).indices
    assert valid[kept[: int(valid.sum())]].all()
    silenced = (~valid).nonzero().flatten()
    assert kept[int(valid.sum()) :].tolist() == silenced[:20].tolist()  # then the first padding, in order


def test_silenced_scores_of_attention_are_next_to_nothing():
    """Attention is never negative; sums and means over it are the sums and means over the valid tokens."""
    score = scores(576) * 1e-3
    out = Debias(padding=Padding())(score, WIDE)
    valid = Padding().valid(WIDE)
    assert float(out[~valid].abs().max()) < 1e-37
    torch.testing.assert_close(out.sum(), score[valid].sum(), rtol=1e-6, atol=0)
    weighed = Debias(padding=Padding())(score, WIDE, role="weigh")
    assert (weighed[~valid] == 0).all()
    assert torch.equal(weighed[valid], score[valid])


def test_scores_that_are_already_excluded_stay_last():
    """Minus infinity in a valid place is as low as it gets: padding ends there too, never above."""
    score = scores(576)
    valid = Padding().valid(WIDE)
    score[valid.nonzero()[0]] = -float("inf")
    out = Debias(padding=Padding())(score, WIDE)
    assert (out[~valid] == -float("inf")).all()


@pytest.mark.parametrize(
    ("stage", "role", "trend", "padding", "both"),
    [
        (0, "select", True, True, True),
        (0, "recycle", True, True, True),
        (0, "weigh", True, True, True),
        (0, "vision", False, True, True),  # a tower looks both ways: there is no recency in it
        (-1, "select", True, True, True),
        (1, "select", False, False, False),
    ],
)
def test_what_acts_on_what(stage, role, trend, padding, both):
    for debias, acts in (
        (Debias(TREND), trend),
        (Debias(padding=Padding()), padding),
        (Debias(TREND, Padding()), both),
    ):
        assert debias.acts(stage, role) is acts
        assert replace(debias, recycle=False).acts(stage, role) is (acts and role != "recycle")
        assert replace(debias, stages="all").acts(stage, role) is (acts or stage > 0)
    assert Debias().acts(stage, role) is False
    assert Debias(TREND).acts() is True


def test_an_online_trend_is_the_line_through_what_is_shown():
    """Least squares on the logarithm, by numpy: all patches but padding and tokens that are no patch."""
    score = scores(14).double() + 0.5
    special = torch.tensor([False] * 7 + [True] + [False] * 6)
    fraction = torch.tensor([0.0] * 10 + [1.0] * 3 + [0.0])
    span = Span(0, (2, 7), fraction=fraction, special=special)
    for index in (None, torch.tensor([0, 3, -1, 7, 9, 11, 13])):
        places = list(range(14)) if index is None else index.tolist()
        x = [at for at in places if at not in (-1, 7, 10, 11, 12)]
        y = [float(score[slot].log()) for slot, at in enumerate(places) if at in x]
        rate = numpy.polyfit(x, y, 1)[0]
        out = Debias(Trend.online())(score[: len(places)], replace(span, fraction=None).at(index))
        both = Debias(Trend.online(), Padding())(score[: len(places)], span.at(index))
        for slot, at in enumerate(places):
            if at in x:
                assert float(both[slot]) == pytest.approx(float(score[slot]) * numpy.exp(-rate * at), rel=1e-9)
        x = [at for at in places if at not in (-1, 7)]
        y = [float(score[slot].log()) for slot, at in enumerate(places) if at in x]
        rate = numpy.polyfit(x, y, 1)[0]
        expected = score[: len(places)] * torch.tensor([numpy.exp(-rate * max(at, 0)) for at in places])
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=0)


def test_padding_stays_below_every_number_beside_one_that_is_none():
    score = torch.tensor([-5.0, float("nan"), 7.0, -2.0])
    out = silence(score, torch.tensor([True, True, False, True]), torch.arange(1, 5, dtype=torch.int32))
    assert out[2] == -float("inf")


def test_steps_in_sixteen_bits_use_half_of_the_patterns():
    steps = slots_step(40000, torch.float16, torch.device("cpu"))
    assert steps.tolist() == [min(n, 2**14 - 1) for n in range(1, 40002)]
    assert steps.dtype == torch.int16


def test_a_tensor_in_a_key_is_itself_alone():
    one = torch.zeros(3)
    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(one.clone())
    assert Same(one) != one


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_never_lifts_padding(dtype):
    score = scores(576, dtype=dtype)
    valid = Padding().valid(WIDE)
    score[valid.nonzero()[3]] = float("nan")
    out = Debias(padding=Padding())(score, WIDE)
    assert not out[~valid].isnan().any()
    assert (out[~valid] < 0).all()
    assert torch.equal(out[valid].isnan(), score[valid].isnan())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_spans_in_sixteen_bits(dtype):
    """3328 tokens of one image: more silenced ones than 16-bit floats have between two powers of two."""
    span = Span(0, (64, 52), size=(2000, 200))
    valid = Padding().valid(span)
    out = Debias(padding=Padding())(scores(3328, dtype=dtype), span)
    assert (out[~valid].diff() < 0).all()
    assert float(out[~valid].max()) < 0 <= float(out[valid].min())
    steps = torch.full((40000,), torch.iinfo(torch.int16).max // 2, dtype=torch.int16)
    beyond = silence(torch.zeros(40000, dtype=dtype), torch.zeros(40000, dtype=torch.bool), steps)
    assert torch.isfinite(beyond).all()
    assert (beyond < 0).all()


def test_a_picture_without_a_valid_patch_is_left_alone():
    score = scores(576)
    thin = Span(0, (24, 24), size=(4000, 3))
    assert not Padding().valid(thin).any()
    assert Debias(padding=Padding())(score, thin) is score
    assert torch.equal(Debias(TREND, Padding())(score, thin), Debias(TREND)(score, thin))


def test_tokens_left_after_a_cut_keep_their_original_positions():
    index = torch.tensor([3, 500, 300, 301, -1, 575])
    span = WIDE.at(index)
    score = torch.ones(6)
    out = Debias(TREND, Padding())(score, span)
    valid = Padding().valid(span)
    assert valid.tolist() == [False, False, True, True, True, False]
    torch.testing.assert_close(out[2:4], (-0.004 * torch.tensor([300.0, 301.0])).exp())
    assert out[4] == 1  # a merged token is nobody's patch
    assert out[0] > out[1] > out[5]
    assert (out[[0, 1, 5]] < 0).all()
    every = Debias(TREND, Padding(), stages="all")
    assert torch.equal(every(score, span, stage=2), out)


def test_stages_below_zero_lie_in_the_vision_tower():
    score = scores(576)
    debias = Debias(TREND, Padding())
    assert torch.equal(debias(score, WIDE, stage=-3, role="vision"), Debias(padding=Padding())(score, WIDE))
    assert torch.equal(debias(score, WIDE, stage=-3), debias(score, WIDE))


def test_released_settings():
    sparse = Debias.paper("SparseVLM", "pope")
    assert sparse.trend == Trend.published("sparsevlm", "pope")
    assert sparse.padding == Padding(0.5, "bilinear")
    assert (sparse.stages, sparse.recycle, sparse.arm) == ("first", False, "both")
    assert Debias.paper("pyramiddrop", "gqa").padding == Padding(0.01, "even")
    assert Debias.paper("fastv").trend == Trend.published("fastv")
    assert Debias.paper("himap").trend == Trend.published("himap")
    assert Debias.paper("fastv", arm="none") == Debias()
    assert Debias.paper("fastv", "gqa") is Debias.paper("FastV", "GQA")  # one object, one set of caches
    assert Debias.paper("vispruner", arm="padding") == Debias(padding=Padding())
    with pytest.raises(ValueError, match="no trend for 'vispruner'"):
        Debias.paper("vispruner", "gqa")
    with pytest.raises(ValueError, match=r"unknown arm 'full'; known: none, trend, padding, both"):
        Debias.paper("fastv", arm="full")
    with pytest.raises(ValueError, match="stages is 'first' or 'all'; got 'last'"):
        Debias(stages="last")


@pytest.mark.parametrize(
    ("arm", "name", "trend", "padding"),
    [
        ("none", "none", False, False),
        ("paper", "none", False, False),
        ("trend", "trend", True, False),
        ("padding", "padding", False, True),
        ("before", "padding", False, True),
        ("both", "both", True, True),
        ("after", "both", True, True),
    ],
)
def test_arms(arm, name, trend, padding):
    part = Debias(TREND, Padding(), stages="all", recycle=False).with_arm(arm)
    assert part.arm == name
    assert (part.trend is not None, part.padding is not None) == (trend, padding)
    assert (part.stages, part.recycle) == ("all", False)
    assert Debias.paper("himap", "gqa", arm).arm == name


def test_the_effective_budget():
    both = Debias(TREND, Padding())
    assert both.effective(WIDE, 128) == 128
    assert both.effective(WIDE, 400) == 336
    assert Debias(TREND).effective(WIDE, 400) == 400
    assert Debias(TREND).effective(WIDE, 4000) == 576
    assert both.effective(WIDE.at(torch.arange(130)), 128) == 10  # the first five rows are border
    assert both.effective(Span(0, (24, 24), size=(4000, 3)), 128) == 128  # nothing is silenced there


def test_merge_weights_leave_padding_out():
    debias = Debias(TREND, Padding())
    weights = torch.tensor([3.0, 2.0, 1.0])
    assert debias.merge_weights(weights, torch.tensor([0, 300, 301]), WIDE).tolist() == [0, 2, 1]
    assert debias.merge_weights(weights, torch.tensor([0, 1, 2]), WIDE).tolist() == [3, 2, 1]  # all padding
    left = WIDE.at(torch.tensor([300, 0, -1]))
    assert debias.merge_weights(weights, torch.tensor([1, 2, 0]), left).tolist() == [0, 2, 1]
    assert Debias(TREND).merge_weights(weights, torch.tensor([0, 1, 2]), WIDE) is weights
    assert debias.merge_weights(weights, torch.tensor([0, 1, 2]), WIDE, stage=1) is weights
    assert debias.merge_weights(weights, torch.tensor([0, 1, 2]), Span(0, (24, 24))) is weights


def test_bad_input_is_named():
    debias = Debias(TREND, Padding())
    with pytest.raises(ValueError, match=r"score has 100 entries in its last axis and the span has 576 visual tokens"):
        debias(scores(100), WIDE)
    with pytest.raises(ValueError, match=r"score has 576 entries .* span has 3 visual tokens"):
        debias(scores(576), WIDE.at(torch.tensor([1, 2, 3])))
    with pytest.raises(ValueError, match=r"floating point; got torch\.int64"):
        debias(torch.arange(576), WIDE)
    with pytest.raises(ValueError, match="unknown role 'rank'; known: select, recycle, vision, weigh"):
        debias(scores(576), WIDE, role="rank")
    with pytest.raises(ValueError, match="a span of 600 tokens, 600 of them patches, is not 1 frame"):
        debias(scores(600), Span(0, (24, 24), size=(640, 360), length=600))
    with pytest.raises(ValueError, match="fitted for 576 positions and is asked for 256"):
        Debias.paper("himap", "gqa")(scores(256), Span(0, (16, 16), size=(640, 360)))


def test_tensors_of_a_span_are_told_apart():
    """Two layouts whose tensors differ are two layouts, also when one takes the other's place in memory."""
    debias = Debias(padding=Padding())
    for n in range(50):
        share = torch.zeros(8)
        share[n % 8] = 1
        out = debias(torch.ones(8), Span(0, (2, 4), fraction=share))
        assert (out < 0).nonzero().flatten().tolist() == [n % 8]
        del share


def test_a_debias_is_a_value():
    debias = Debias.paper("fastv")
    assert debias == Debias.paper("fastv")
    assert hash(debias) == hash(replace(debias))
    with pytest.raises(AttributeError):
        debias.stages = "all"
    assert pickle.loads(pickle.dumps(debias)) == debias
    assert copy.deepcopy(debias) == debias
    assert "0.00301519760335" in repr(debias)
    assert "even" in repr(debias)
