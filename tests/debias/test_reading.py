"""How attention is read: which heads count, in which arms and at which cuts."""

import pytest
import torch

from debias import Debias, Padding, Reading, Span, Trend, rescore, using


@pytest.mark.parametrize("heads", [1, 3, 0.5, 1.0, 99, None])
@pytest.mark.parametrize("seed", range(3))
def test_chosen_heads_are_those_that_give_the_picture_most(heads, seed):
    weights = torch.rand(8, 3, 5, generator=torch.Generator().manual_seed(seed))
    count = 8 if heads is None else min(8, heads if isinstance(heads, int) else int(8 * heads))
    ranked = sorted(range(8), key=lambda head: (-float(weights[head].sum()), head))
    expected = weights[sorted(ranked[:count])]
    assert torch.equal(Reading(heads=heads).chosen(weights), expected)
    assert Reading(heads=heads).count(8) == count


def test_of_equal_heads_the_earlier_count():
    weights = torch.ones(4, 1, 2) * torch.tensor([1.0, 2.0, 2.0, 2.0])[:, None, None]
    assert torch.equal(Reading(heads=2).chosen(weights), weights[1:3])


@pytest.mark.parametrize("heads", [0, -1, 0.0, 1.5, True, "all"])
def test_a_number_of_heads_that_cannot_be_is_refused(heads):
    with pytest.raises(ValueError, match="give a number of heads"):
        Reading(heads=heads)


def test_a_reading_belongs_to_the_arms_that_take_position_out():
    reading = Reading(rope=False)
    debias = Debias(padding=Padding(), reading=reading)
    assert debias.arm == "both"
    assert [debias.with_arm(arm).reading for arm in ("none", "trend", "padding", "both")] == [
        None,
        reading,
        None,
        reading,
    ]
    assert debias.with_arm("trend").arm == "trend"
    assert debias.reads(0) == reading
    assert debias.reads(1) == Reading()  # the first cut alone
    always = Debias(reading=reading, stages="all")
    assert [always.reads(stage) for stage in (-1, 0, 1)] == [Reading(), reading, reading]  # below 0 lies the tower
    score = torch.rand(4)
    assert Debias(reading=reading)(score, Span(0, (2, 2))) is score  # nothing is divided


def test_what_cannot_read_otherwise_says_so():
    with (
        using(Debias(Trend.exponential(0.1), reading=Reading(heads=2)), [Span(0, (2, 2))]),
        pytest.raises(ValueError, match="patched code makes its attention itself"),
    ):
        rescore(torch.rand(4), method="fastv")
    with pytest.raises(ValueError, match="leave out reading"):
        Debias(release=Debias.paper("fastv", arm="none", as_released=True).release, reading=Reading())
