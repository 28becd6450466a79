from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scoring.box import find_box, from_pixels, iou, tidy, to_pixels


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("left cat[[10,20,300,400]]", (10, 20, 300, 400)),
        ("[.5,.5,1,1.] and [0,0,1,1]", (0.5, 0.5, 1, 1)),
        ("[1,2,3] then [1, 2, 3, 4]", (1, 2, 3, 4)),
        ("[-1, 2, 3, 4]", (-1, 2, 3, 4)),
        ("1, 2, 3, 4", None),
        ("(1, 2, 3, 4)", None),
        ("[1, 2, three, 4]", None),
        ("[nan, inf, 1, 2]", None),
        ("[1,2,3,4,5]", None),
        ("", None),
    ],
)
def test_the_first_box_in_an_answer(answer, box):
    assert find_box(answer) == box


def test_fractions_and_thousandths_tell_themselves_apart():
    assert to_pixels((0.1, 0.2, 0.5, 0.6), (200, 100), "original") == pytest.approx((20, 20, 100, 60))
    assert to_pixels((100, 200, 500, 600), (200, 100), "original") == pytest.approx((20, 20, 100, 60))
    # A sum of 3.8 is still fractions, one of exactly 4 is thousandths.
    assert to_pixels((0.9, 0.9, 1, 1), (10, 10), "original") == pytest.approx((9, 9, 10, 10))
    assert to_pixels((1, 1, 1, 1), (1000, 1000), "original") == pytest.approx((1, 1, 1, 1))


def test_the_padded_square():
    # 200 x 100 is padded with 50 rows above and below: the lower half of the square's middle band is the lower half.
    assert to_pixels((0, 0.25, 1, 0.75), (200, 100), "square") == pytest.approx((0, 0, 200, 100))
    assert to_pixels((0.5, 0.5, 1, 1), (200, 100), "square") == pytest.approx((100, 50, 200, 100))
    # 101 x 200: the offset is a whole number, (200 - 101) // 2 = 49.
    assert to_pixels((0.5, 0, 1, 1), (101, 200), "square") == pytest.approx((51, 0, 101, 200))
    # Inside the picture on both sides: 50 and 25 pixels of border come off either corner.
    assert to_pixels((0.3, 0, 0.5, 1), (100, 200), "square") == pytest.approx((10, 0, 50, 200))
    assert to_pixels((0, 0.5, 1, 0.6), (100, 50), "square") == pytest.approx((0, 25, 100, 35))
    with pytest.raises(ValueError, match="expected the frame original or square, found 'round'"):
        to_pixels((0, 0, 1, 1), (1, 1), "round")


@pytest.mark.parametrize("frame", ["square", "original"])
@pytest.mark.parametrize("size", [(100, 60), (60, 100), (80, 80)])
def test_a_box_comes_back_from_its_words(frame, size):
    box = (10, 12, 40, 50)
    assert to_pixels(from_pixels(box, size, frame), size, frame) == pytest.approx(box)


def test_corners_are_put_in_order_and_inside():
    assert tidy((9, 8, -1, 20), 10, 10) == (0, 8, 9, 10)


def test_iou():
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == iou((1, 1, 3, 3), (0, 0, 2, 2)) == pytest.approx(1 / 7)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((0, 0, 2, 2), (0, 3, 2, 5)) == iou((0, 0, 2, 2), (3, 0, 5, 2)) == 0  # side by side
    assert iou((0, 0, 4, 2), (1, 0, 3, 2)) == 0.5  # one inside the other
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert iou((0, 0, 4, 2), (0, 0, 4, 2)) == iou((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5)) == 1


boxes = st.tuples(*[st.floats(-2, 3)] * 4)


@given(boxes, boxes, st.integers(1, 50), st.integers(1, 50), st.sampled_from(["original", "square"]))
def test_iou_is_bounded_and_symmetric(a, b, width, height, frame):
    a, b = to_pixels(a, (width, height), frame), to_pixels(b, (width, height), frame)
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert iou(a, b) == iou(b, a)


NUMBERS = st.sampled_from(["0", "7", "0.25", ".5", "1.", "-3", "+4", "", ".", "1e3", "--1", "0.1.2", " 12 ", "1 2"])
PIECES = st.lists(NUMBERS, min_size=3, max_size=5).map(lambda numbers: f"[{','.join(numbers)}]")


def by_hand(text):
    """Brackets that hold four numbers, each a sign and digits with at most one point, found from the left."""
    for start in (at for at, sign in enumerate(text) if sign == "["):
        end = text.find("]", start)
        parts = [part.strip() for part in text[start + 1 : end].split(",")] if end >= 0 else []
        digits = [part.removeprefix(part[0]) if part[:1] in ("+", "-") and part else part for part in parts]
        if len(parts) == 4 and all(d.replace(".", "", 1).isdecimal() for d in digits):
            return tuple(float(part) for part in parts)
    return None


@given(st.lists(PIECES | st.text(alphabet="[]0123456789.,- ", max_size=12), max_size=4).map("".join))
def test_the_first_box_is_the_one_found_by_hand(text):
    assert find_box(text) == by_hand(text)
