import pytest

from pruners.parts.schedule import budgets, depths

PUBLISHED = {64: (66, 30, 17), 128: (303, 110, 36), 192: (300, 200, 110)}


def test_named_budgets_are_met_exactly():
    for name, counts in PUBLISHED.items():
        assert budgets(name, 576, PUBLISHED) == counts
        assert budgets(name / 576, 576, PUBLISHED) == counts


def test_everything_is_everything():
    for tokens in (1, 7, 144, 576, 2056):
        assert budgets(1.0, tokens, PUBLISHED) == (tokens,) * 3
        assert budgets(tokens, tokens, PUBLISHED) == (tokens,) * 3
        assert budgets(10**6, tokens, PUBLISHED) == (tokens,) * 3


def test_other_token_counts_scale():
    assert budgets(32, 144, PUBLISHED) == (76, 28, 9)  # 128 of 576 is 32 of 144
    assert budgets(128 / 576, 144, PUBLISHED) == (76, 28, 9)
    assert budgets(1, 2056, PUBLISHED) == (1, 1, 1)
    for keep in range(1, 145):
        counts = budgets(keep, 144, PUBLISHED)
        assert 144 >= counts[0] >= counts[1] >= counts[2] >= 1


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(32, (3, 7, 16)), (40, (4, 9, 20)), (12, (1, 3, 6)), (4, (1, 2, 3)), (3, (1, 2)), (2, (1,))],
)
def test_layers_scale_with_depth(layers, expected):
    assert depths((3, 7, 16), layers) == expected
