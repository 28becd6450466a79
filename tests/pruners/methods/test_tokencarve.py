import pytest
import torch

from pruners.methods.tokencarve import borda, carve, information

generator = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("tokens", "width"), [(20, 64), (64, 20), (1, 8), (30, 30)])
def test_information_is_the_row_norm_of_the_svd(tokens, width):
    states = torch.randn(tokens, width, generator=generator)
    u, s, _ = torch.linalg.svd(states, full_matrices=False)
    torch.testing.assert_close(information(states), (u * s).abs().sum(1), rtol=1e-4, atol=1e-4)


def test_borda_points():
    attention, content = torch.tensor([0.1, 0.9, 0.5]), torch.tensor([3.0, 1.0, 2.0])
    assert borda(attention, content, 1.0).tolist() == [1, 3, 2]
    assert borda(attention, content, 0.0).tolist() == [3, 1, 2]
    assert borda(attention, content, 0.25).tolist() == [2.5, 1.5, 2.0]


def by_hand(states, top, merges):
    """Section 2.1 e of the study, one pair after the other."""
    half = len(top) // 2
    upper, lower = top[:half].tolist(), top[half:].tolist()
    unit = states / states.norm(dim=-1, keepdim=True)
    best = {b: max(upper, key=lambda a, b=b: (unit[a] @ unit[b]).item()) for b in lower}
    order = sorted(lower, key=lambda b: -(unit[b] @ unit[best[b]]).item())
    out = states.clone()
    for a in upper:
        joined = [b for b in order[: min(half, merges)] if best[b] == a]
        out[a] = torch.stack([states[a], *(states[b] for b in joined)]).mean(0)
    return sorted(upper + order[min(half, merges) :]), out


@pytest.mark.parametrize("budget", [2, 15, 16, 17, 26])
def test_merge_equals_the_definition_and_meets_the_budget(budget):
    states = torch.randn(40, 8, generator=generator)
    top = torch.rand(40, generator=generator).topk(int(budget / 2 * 3)).indices
    kept, out = carve(states, top, len(top) - budget)
    expected, rows = by_hand(states, top, len(top) - budget)
    assert kept.tolist() == expected
    assert len(kept) == budget
    torch.testing.assert_close(out, rows)


def test_a_budget_of_one_merges_nothing():
    states = torch.randn(5, 4, generator=generator)
    kept, out = carve(states, torch.tensor([3]), 0)
    assert kept.tolist() == [3]
    assert out is states


def test_padding_leaves_first_and_leaves_nothing_behind():
    states = torch.randn(12, 8, generator=generator)
    top = torch.arange(12)
    silenced = top >= 8
    kept, out = carve(states, top, 4, silenced)
    assert kept.tolist() == list(range(8))
    assert torch.equal(out, states)
    kept, out = carve(states, top, 5, silenced)
    assert len(kept) == 7
    assert set(range(8)) - set(kept.tolist()) <= {6, 7}
    other = states.clone()
    other[8:] = 99.0
    assert torch.equal(carve(other, top, 5, silenced)[1][:8], out[:8])
