from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scoring.normalise import (
    CONTRACTIONS,
    NUMBERS,
    PUNCTUATION,
    m4c,
    m4c_accuracy,
    process_digit_article,
    process_punctuation,
    soft_accuracy,
    vqa_official_accuracy,
)


def test_the_tables_are_whole():
    assert len(CONTRACTIONS) == 120
    assert len(NUMBERS) == 12
    assert len(set(PUNCTUATION)) == len(PUNCTUATION) == 21
    assert not set(PUNCTUATION) & set(".:'$%&*#~^|")
    # Every value is its key with apostrophes put in, moved or taken out.
    assert all(key.replace("'", "") == value.replace("'", "") for key, value in CONTRACTIONS.items())
    assert {key for key, value in CONTRACTIONS.items() if key == value} == {"let's", "she's"}
    assert CONTRACTIONS["somebody'd"] == "somebodyd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("coca-cola", "coca cola"), ("10:30", "10:30"), ("u.s.a.", "usa"), ("3.5", "3.5"), ("1,000", "1000"),
        ("1,000-2", "10002"), (".5", ".5"), ("no.", "no"), ("$5.00", "$5.00"),
        # Decided against the original: the dash with a space beside it goes, so all dashes go.
        ("a -b-c", "a bc"), ("red/blue", "red blue"), ("red/ blue/green", "red bluegreen"),
        ("", ""), ("what?", "what "),
    ],
)  # fmt: skip
def test_punctuation(text, expected):
    assert process_punctuation(text) == expected


def test_at_most_32_periods_go():
    assert process_punctuation("." * 40) == "." * 8


def test_a_period_before_a_digit_stays_whatever_stands_before_it():
    # The official look-behind never applies: "a.5" keeps its period although no digit stands before it.
    assert process_punctuation("a.5 b.c 1.x") == "a.5 bc 1x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Two dogs", "2 dogs"), ("none", "0"), ("eleven", "eleven"), ("dont", "don't"),
        ("An apple a day", "apple day"),
        ("none zero one two three four five six seven eight nine ten", "0 0 1 2 3 4 5 6 7 8 9 10"),
        ("Im", "im"), ("somebody'd", "somebodyd"), ("'ows'at", "'ow's'at"), ("  x \n y ", "x y"),
    ],
)  # fmt: skip
def test_words(text, expected):
    assert process_digit_article(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Coca-Cola, please?", "coca cola please"), ("dog's", "dog 's"), ("1,000", "1000"), ("a", ""),
        ("line\none\ttwo", "line 1 2"), (" No. ", "no"), ("isnt", "isn't"), ("U.S.A.", "usa"), ("let's", "let 's"),
        ("what?here", "whathere"), ("red,blue", "redblue"), ("x\t-b-c", "x bc"), ("x\n-b-c", "x bc"),
    ],
)  # fmt: skip
def test_m4c(text, expected):
    assert m4c(text) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (10, 1)])
def test_soft_accuracy(count, expected):
    humans = ["yes"] * count + [f"other {index}" for index in range(10 - count)]
    assert soft_accuracy("yes", humans) == pytest.approx(expected)


def test_the_official_variant_normalises_only_where_humans_differ():
    assert vqa_official_accuracy("Yes", ["yes"] * 10) == 0  # capitals count
    assert vqa_official_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1
    assert vqa_official_accuracy("the dog", ["dog"] * 10) == 0
    assert vqa_official_accuracy("the dog", ["dog"] * 5 + ["cat"] * 5) == 1
    assert vqa_official_accuracy(" yes\n", ["yes"] * 10) == 1
    assert vqa_official_accuracy("a\nb\tc", ["a b c"] * 10) == vqa_official_accuracy("a b c", ["a\nb\tc"] * 10) == 1
    # No 's step here, unlike m4c.
    assert vqa_official_accuracy("dog 's", ["dog's"] * 5 + ["cat"] * 5) == 0
    assert m4c_accuracy("dog 's", ["dog's"] * 5 + ["cat"] * 5) == 1
    assert m4c_accuracy("Yes", ["yes"] * 10) == 1


@given(st.text(max_size=60), st.lists(st.sampled_from(["yes", "no", "the dog", "2", "two."]), min_size=10, max_size=10))
def test_bounds_and_order(answer, humans):
    for accuracy in (m4c_accuracy, vqa_official_accuracy):
        value = accuracy(answer, humans)
        assert 0 <= value <= 1
        assert accuracy(answer, humans[::-1]) == pytest.approx(value)


@given(st.text(max_size=60))
def test_normalised_text_has_single_spaces(text):
    assert m4c(text) == " ".join(m4c(text).split())
