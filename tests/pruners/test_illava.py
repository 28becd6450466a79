import pytest
import torch

from pruners.illava import merge_least

generator = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("keep", [1, 2, 7, 9, 10])
def test_the_least_attended_become_one(keep):
    states, score = torch.randn(2, 10, 4, generator=generator), torch.rand(2, 10, generator=generator)
    kept, out, average = merge_least(states, score, keep)
    for i in range(2):
        order = sorted(range(10), key=lambda j: -score[i, j].item())
        group = order[keep - 1 :]
        weights = list(range(1, len(group) + 1))
        merged = sum(w * states[i, j] for w, j in zip(weights, group, strict=True)) / sum(weights)
        assert kept[i].tolist() == sorted(order[:keep])
        assert average[i] == group[0]
        torch.testing.assert_close(out[i, group[0]], merged)
        rest = torch.tensor([j for j in range(10) if j != group[0]])
        assert torch.equal(out[i, rest], states[i, rest])


def test_padding_weighs_nothing():
    states = torch.randn(1, 10, 4, generator=generator)
    score = torch.arange(10, 0, -1).float()[None]
    silenced = torch.arange(10)[None] >= 7
    kept, out, average = merge_least(states, score, 5, silenced)
    assert kept.tolist() == [[0, 1, 2, 3, 4]]
    assert average.tolist() == [4]
    torch.testing.assert_close(out[0, 4], (states[0, 4] + 2 * states[0, 5] + 3 * states[0, 6]) / 6)


def test_a_group_of_padding_alone_is_averaged_as_upstream_does():
    states = torch.randn(1, 6, 4, generator=generator)
    score = torch.arange(6, 0, -1).float()[None]
    silenced = torch.arange(6)[None] >= 3
    _, out, _ = merge_least(states, score, 5, silenced)
    torch.testing.assert_close(out[0, 4], (states[0, 4] + 2 * states[0, 5]) / 3)
