import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.methods.vispruner import important_and_distinct


def by_hand(features, attention, keep, ratio, valid=None, step=8):
    """Section 1.3 of the study, on lists; one image."""
    n = len(attention)
    unit = torch.nn.functional.normalize(features, dim=-1)
    likeness = (unit @ unit.T).tolist()
    order = sorted((i for i in range(n) if valid is None or valid[i]), key=lambda i: (-attention[i].item(), i))
    total = min(keep, len(order))
    important = int(total * ratio)
    kept, rest = order[:important], order[important:]
    while total > important and len(rest) > total - important:
        a, b = rest[0::2], rest[1::2]
        drop = min(step, len(rest) - (total - important), len(a))
        a = sorted(a, key=lambda i: -max(likeness[i][j] for j in b))[drop:]
        rest = a + b
    kept = kept + (rest if total > important else [])
    fill = [i for i in range(n) if valid is not None and not valid[i]]
    return sorted(kept + fill[: keep - len(kept)])


def example(n, seed, channels=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, generator=generator), torch.rand(n, generator=generator)


@settings(max_examples=30)
@given(n=st.integers(1, 70), seed=st.integers(0, 10**6), data=st.data())
def test_equals_the_definition_for_every_budget(n, seed, data):
    features, attention = example(n, seed)
    keep = data.draw(st.integers(1, n))
    ratio = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    kept = important_and_distinct(features[None], attention[None], keep, ratio)[0]
    assert kept.tolist() == by_hand(features, attention, keep, ratio)
    assert len(kept) == keep


@settings(max_examples=25)
@given(n=st.integers(2, 60), seed=st.integers(0, 10**6), data=st.data())
def test_padding_is_in_no_half(n, seed, data):
    features, attention = example(n, seed)
    valid = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    keep = data.draw(st.integers(1, n))
    kept = important_and_distinct(features[None], attention[None], keep, 0.5, valid[None])[0]
    assert kept.tolist() == by_hand(features, attention, keep, 0.5, valid)
    assert valid[kept].sum() == min(keep, int(valid.sum()))


@pytest.mark.parametrize(("keep", "ratio"), [(64, 0.75), (128, 0.5)])
def test_published_settings_on_576_patches(keep, ratio):
    features, attention = example(576, keep)
    kept = important_and_distinct(features[None], attention[None], keep, ratio)[0]
    assert kept.tolist() == by_hand(features, attention, keep, ratio)


def test_a_batch_equals_its_images():
    images = [example(50, seed) for seed in range(4)]
    features, attention = (torch.stack(part) for part in zip(*images, strict=True))
    valid = torch.ones(4, 50, dtype=torch.bool)
    valid[1, :20] = valid[3, 45:] = False
    kept = important_and_distinct(features, attention, 30, 0.5, valid)
    for i, (f, a) in enumerate(images):
        assert kept[i].tolist() == by_hand(f, a, 30, 0.5, valid[i])
