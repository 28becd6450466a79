"""The padding masks against pixels that were counted and images that were resized."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from debias import Padding, Span
from debias.padding import RELEASED, canvas_fraction, fraction, sampled

SIDE = st.integers(1, 4000)
CELLS = st.sampled_from([1, 7, 16, 24, 27, 48])


def content(side: int, length: int) -> np.ndarray:
    """1 where the square shows the picture, pixel by pixel, along one axis."""
    line = np.zeros(side, dtype=np.int64)
    first = (side - length) // 2
    line[first : first + length] = 1
    return line


def counted(side: int, length: int, cells: int) -> np.ndarray:
    """Share of content in each cell: every pixel cut into `cells` slices, each cell being `side` slices."""
    return np.repeat(content(side, length), cells).reshape(cells, side).sum(1) / side


@given(SIDE, SIDE, CELLS, CELLS, st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9]))
@example(640, 427, 24, 24, 0.01)  # the lower border reaches 1.25 % into a row
@example(500, 375, 24, 24, 0.5)
@example(1, 4000, 24, 24, 0.5)  # no patch shows half a picture
@example(4000, 1, 24, 16, 0.5)
@settings(max_examples=150)
def test_area_is_the_counted_share(width, height, rows, columns, threshold):
    side = max(width, height)
    expected = 1 - np.outer(counted(side, height, rows), counted(side, width, columns))
    found = fraction((width, height), (rows, columns))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy().reshape(rows, columns), expected, atol=1e-6)
    valid = Padding(threshold).valid((width, height), (rows, columns))
    np.testing.assert_array_equal(valid.numpy().reshape(rows, columns), expected <= threshold + 1e-12)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([2, 3, 5, 8]))
@settings(max_examples=60)
def test_area_on_whole_images(width, height, cells):
    """In two dimensions at once, with nothing assumed about one axis being enough."""
    side = max(width, height)
    image = np.outer(content(side, height), content(side, width))
    fine = np.kron(image, np.ones((cells, cells), dtype=np.int64))
    share = fine.reshape(cells, side, cells, side).sum((1, 3)) / side**2
    np.testing.assert_allclose(fraction((width, height), (cells, cells)).reshape(cells, cells), 1 - share, atol=1e-6)


@given(SIDE, SIDE, CELLS, CELLS)
@example(640, 427, 24, 24)
@example(3, 2, 24, 24)  # the grid is finer than the image
@example(1, 242, 1, 27)  # the middle of column 13 lies half way
@settings(max_examples=150)
def test_bilinear_is_torch_interpolation(width, height, rows, columns):
    side = max(width, height)

    def resized(length: int, cells: int) -> torch.Tensor:
        line = torch.from_numpy(content(side, length)).double()[None, None]
        return F.interpolate(line, size=cells, mode="linear", align_corners=False)[0, 0]

    expected = resized(height, rows)[:, None] * resized(width, columns)
    found = Padding(rule="bilinear").valid((width, height), (rows, columns)).reshape(rows, columns)
    sure = (expected - 0.5).abs() > 1e-9  # half a pixel, to which torch's own rounding adds a little or not
    assert torch.equal(found[sure], expected[sure] >= 0.5)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (500, 333), (2, 2), (3, 2), (1000, 1)])
@pytest.mark.parametrize("cells", [5, 24])
def test_bilinear_shares_are_those_of_double_precision(size, cells):
    width, height = size
    side = max(size)
    image = torch.from_numpy(np.outer(content(side, height), content(side, width))).double()[None, None]
    expected = F.interpolate(image, size=(cells, cells), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(sampled(size, (cells, cells)).reshape(cells, cells), expected, rtol=0, atol=6e-8)


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([5, 24]))
@settings(max_examples=40)
def test_bilinear_on_whole_images(width, height, cells):
    side = max(width, height)
    image = torch.from_numpy(np.outer(content(side, height), content(side, width))).double()[None, None]
    expected = F.interpolate(image, size=(cells, cells), mode="bilinear", align_corners=False)[0, 0] >= 0.5
    assert torch.equal(Padding(rule="bilinear").valid((width, height), (cells, cells)).reshape(cells, cells), expected)


@pytest.mark.parametrize(
    ("size", "pyramiddrop", "sparsevlm"),
    [
        ((640, 360), 288, 336),
        ((640, 426), 336, 384),
        ((640, 512), 432, 480),
        ((640, 480), 432, 432),
        ((640, 427), 384, 384),
        ((500, 375), 432, 432),
        ((427, 640), 384, 384),
    ],
)
def test_released_rules_count_as_the_release_does(size, pyramiddrop, sparsevlm):
    assert int(RELEASED["pyramiddrop"].valid(size, (24, 24)).sum()) == pyramiddrop
    assert int(RELEASED["sparsevlm"].valid(size, (24, 24)).sum()) == sparsevlm


def test_an_even_border_differs_from_pixels_only_where_the_border_is_odd():
    assert int(Padding(0.01, "area").valid((640, 427), (24, 24)).sum()) == 360  # 213 rows of border: 106 and 107
    assert torch.equal(
        Padding(0.01, "area").valid((640, 426), (24, 24)), Padding(0.01, "even").valid((640, 426), (24, 24))
    )


def test_which_rows_go():
    valid = Padding().valid((640, 320), (4, 4)).reshape(4, 4)
    assert valid.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    upright = Padding().valid((320, 640), (4, 4)).reshape(4, 4)
    assert torch.equal(upright, valid.T)
    assert Padding().valid((336, 336), (24, 24)).all()


def test_half_is_not_more_than_half():
    # Border rows 0 and 3 are each exactly half covered.
    assert Padding(0.5).valid((8, 6), (4, 4)).all()
    assert int(Padding(0.49).valid((8, 6), (4, 4)).sum()) == 8


def test_a_span_and_its_size_agree_and_a_mask_is_the_callers_own():
    span = Span(35, (24, 24), size=(640, 360))
    mask = Padding().valid(span)
    assert torch.equal(mask, Padding().valid((640, 360), (24, 24)))
    assert torch.equal(mask, Padding().valid(((640, 360), (24, 24))))
    mask.fill_(True)
    Padding().valid((640, 360), (24, 24)).fill_(True)
    assert int(Padding().valid(span).sum()) == 336


def test_frames_specials_tiles_and_merged_tokens():
    frame = Padding().valid((640, 320), (4, 4))
    clip = Span(0, (4, 4), frames=3, size=(640, 320))
    assert torch.equal(Padding().valid(clip), frame.repeat(3))
    special = torch.zeros(51, dtype=torch.bool)
    special[::17] = True  # one token in front of every frame
    whole = Padding().valid(Span(0, (4, 4), frames=3, size=(640, 320), special=special))
    assert whole[::17].all()
    assert torch.equal(whole[~special], frame.repeat(3))
    tiles = Span(0, (2, 2), fraction=torch.tensor([0.0, 0.5, 0.51, 1.0, 0.2, 0.9]))
    assert len(tiles) == 6
    assert Padding().valid(tiles).tolist() == [True, True, False, False, True, False]
    assert Padding(0.1).valid(tiles).tolist() == [True, False, False, False, False, False]
    assert Padding(0.5, "bilinear").valid(tiles).tolist() == [True, True, False, False, True, False]
    left = tiles.at(torch.tensor([5, 0, -1]))
    assert Padding().valid(left).tolist() == [False, True, True]
    assert Padding().valid(Span(0, (3, 3))).all()  # no size: it was never padded


def test_a_layout_that_is_no_grid_is_refused():
    with pytest.raises(ValueError, match=r"20 tokens, 20 of them patches, is not 1 frame\(s\) of 4x4.*fraction"):
        Padding().valid(Span(0, (4, 4), size=(640, 320), length=20))


@given(st.data(), st.sampled_from([(672, 672), (336, 672), (1008, 336)]))
@settings(max_examples=100)
def test_canvas_fraction_is_the_counted_share(data, canvas):
    across, down = canvas
    grid = (down // 14, across // 14)
    wide, high = data.draw(st.integers(1, across)), data.draw(st.integers(1, down))
    image = np.zeros((down, across))
    top, left = (down - high) // 2, (across - wide) // 2
    image[top : top + high, left : left + wide] = 1
    share = image.reshape(grid[0], 14, grid[1], 14).mean((1, 3))
    np.testing.assert_allclose(canvas_fraction((wide, high), canvas, grid).reshape(grid), 1 - share, atol=1e-6)


@pytest.mark.parametrize("size", [(337, 1), (1, 673)])
def test_a_canvas_smaller_than_its_image_is_refused(size):
    with pytest.raises(ValueError, match=f"an image of {size[0]}x{size[1]} does not fit on a canvas of 336x672"):
        canvas_fraction(size, (336, 672), (48, 24))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 3), (1.5, 2), (3,), (1, 2, 3), None, "ab"])
def test_a_size_that_is_none_is_named(size):
    for attempt in (lambda: Padding().valid(size, (24, 24)), lambda: canvas_fraction(size, (336, 336), (24, 24))):
        with pytest.raises(ValueError, match="size"):
            attempt()
    if size is not None:
        with pytest.raises(ValueError, match="size"):
            Span(0, (24, 24), size=size)
    with pytest.raises(ValueError, match="grid"):
        Padding().valid((5, 5), size or (0, 0))


@pytest.mark.parametrize("bad", [(0, 5), (5, 0), (1.5, 2), (1, 2, 3)])
@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        (lambda bad: Span(0, bad), "grid (rows, columns)"),
        (lambda bad: Span(0, (2, 2), size=bad), "size (width, height)"),
        (lambda bad: Padding().valid(bad, (2, 2)), "size (width, height)"),
        (lambda bad: Padding().valid((5, 5), bad), "grid (rows, columns)"),
        (lambda bad: fraction(bad, (2, 2)), "size (width, height)"),
        (lambda bad: sampled((5, 5), bad), "grid (rows, columns)"),
        (lambda bad: canvas_fraction(bad, (28, 28), (2, 2)), "size (width, height)"),
        (lambda bad: canvas_fraction((5, 5), bad, (2, 2)), "canvas (width, height)"),
        (lambda bad: canvas_fraction((5, 5), (28, 28), bad), "grid (rows, columns)"),
    ],
)
def test_a_pair_that_is_none_is_called_by_its_name(attempt, what, bad):
    message = f"{what} must be two whole numbers of at least 1; got {bad!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attempt(bad)


def test_rules_and_thresholds_are_checked():
    with pytest.raises(
        ValueError, match=r"unknown padding rule 'areas'; known: area, even, bilinear, antialiased, cropped"
    ):
        Padding(rule="areas")
    with pytest.raises(ValueError, match=r"threshold must lie in 0..1; got 50"):
        Padding(50)


def test_released_thresholds():
    assert {name: (rule.threshold, rule.rule) for name, rule in RELEASED.items()} == {
        "fastv": (0.5, "even"),
        "himap": (0.5, "even"),
        "tokencarve": (0.5, "even"),
        "pyramiddrop": (0.01, "even"),
        "sparsevlm": (0.5, "bilinear"),
    }
