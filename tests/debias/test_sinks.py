"""Padding told by the hidden state: which tokens are attention sinks. What methods do with them: pruners/parts."""

import pytest
import torch

from debias import Debias, Padding, Span
from debias.padding import sinks


@pytest.mark.parametrize("seed", range(4))
def test_sinks_match_the_rule_number_by_number(seed):
    generator = torch.Generator().manual_seed(seed)
    states, first = torch.randn(30, 16, generator=generator), torch.randn(16, generator=generator)
    first[3], states[4, 3], states[5, 7], states[6, 3] = 40.0, -50.0, 60.0, 0.5
    expected = []
    for state in states.tolist():
        huge = [[abs(x) >= 3 * (sum(y * y for y in one) / 16) ** 0.5 for x in one] for one in (state, first.tolist())]
        expected.append(any(a and b for a, b in zip(*huge, strict=True)))
    assert sinks(states, first, 3.0).tolist() == expected
    assert expected[4]
    assert not expected[5]  # huge, but at another place than the first token
    assert not expected[6]


def test_a_number_at_the_threshold_is_huge():
    state = torch.tensor([2.0, 0.0, 0.0, 0.0])  # twice its own root mean square
    assert sinks(state[None], state, 2.0).tolist() == [True]
    assert sinks(state[None], state, 2.01).tolist() == [False]


def test_sinks_are_told_by_the_caller_and_by_nobody_else():
    span, score = Span(0, (2, 2), size=(8, 8)), torch.tensor([0.1, 0.9, 0.2, 0.3])
    padding = Padding.sink()
    assert padding == Padding(20.0, "sink")
    assert not padding.placed
    assert Padding().placed
    with torch.device("meta"):
        mask = padding.whole(span)
    assert mask.tolist() == [True] * 4
    assert mask.dtype == torch.bool
    with pytest.raises(ValueError, match="silencing sinks takes hidden states, which are not at hand here"):
        Debias(padding=padding)(score, span)
    valid = torch.tensor([True, False, True, True])
    assert Debias(padding=padding)(score, span, valid=valid).argmin() == 1
    assert torch.equal(Debias(padding=Padding())(score, span, valid=valid), score)  # others ask nobody


@pytest.mark.parametrize("threshold", [0.5, 1.0, -3.0, float("nan")])
def test_a_threshold_that_cannot_be_is_refused(threshold):
    with pytest.raises(ValueError, match="a sink's threshold is above 1"):
        Padding.sink(threshold)
    assert Padding.sink(1.5).threshold == 1.5
