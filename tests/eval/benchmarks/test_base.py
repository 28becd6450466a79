"""What all benchmarks share: loading, joining, refusing, and the mean."""

from __future__ import annotations

import re

import numpy as np
import pytest

from eval.benchmarks import get
from eval.benchmarks.base import Benchmark, all_right, mean, means, ratio
from eval.reading.sample import Sample


class Bare(Benchmark):
    """A benchmark that only says where its files are."""

    folders, marks = ("bare", "BARE"), ("*.jsonl", "*.tsv")


class Empty(Bare):
    def read(self, home, faults, media):
        yield from ()


class Spoken(Bare):
    """Two questions without pictures."""

    expected_n, metric = 2, "share"

    def read(self, home, faults, media):
        yield Sample(1, "?", target="a")
        yield Sample(2, "?", target="b")

    def item(self, sample, answer):
        return float(answer == sample.target)


@pytest.fixture
def bare(folder):
    folder.text("bare/a.jsonl", "{}\n")
    return folder.root


def test_what_a_benchmark_must_say_itself(bare):
    assert repr(Bare("bare")) == "<benchmark bare>"
    with pytest.raises(TypeError, match=r"^Bare does not say how it is read$"):
        Bare("bare").load(bare)
    with pytest.raises(TypeError, match=r"^Bare does not say how an answer is judged$"):
        Bare("bare").score([{"question_id": 1, "text": "a"}], [Sample(1, "?", target="a")])
    assert Bare("bare").parts([], np.ones(0), {}) == {}
    assert Bare("bare").info([], {}) == {}


def test_an_option_that_is_none_is_named(bare):
    with pytest.raises(ValueError, match=r"^bare has no option 'split'; it has none$"):
        Empty("bare").load(bare, split="val")
    with pytest.raises(ValueError, match=r"^vqav2 has no option 'splits' \(did you mean split\?\); it has split$"):
        get("vqav2").load(bare, splits="val")


def test_no_questions_are_an_error(bare, folder):
    with pytest.raises(ValueError, match=re.escape(f"{bare / 'bare'}: expected questions of bare, found none")):
        Empty("bare").load(bare)
    with pytest.raises(ValueError, match=r"^bare: no questions to score$"):
        Empty("bare").score([], [])
    folder.root.joinpath("bare", "a.jsonl").unlink()
    looked = ", ".join(str(bare / name) for name in ("bare", "BARE")) + f", {bare}"
    message = f"{bare}: no files of bare; expected *.jsonl or *.tsv in {looked}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Empty("bare").load(bare)


def test_groups_and_means_want_as_many_items_as_samples():
    samples = [Sample(n, "?", group="g") for n in range(3)]
    with pytest.raises(ValueError, match="zip"):
        all_right(samples, np.ones(2))
    with pytest.raises(ValueError, match="zip"):
        means(["a", "b"], [1.0])
    right, marks = all_right(samples, np.array([1.0, 0.5, 1.0]))
    assert (right.tolist(), marks.tolist()) == ([0.5] * 3, [1, 0, 0])
    half = mean(np.array([1.0, 0.0, 1.0]), np.array([True, True, False]))
    assert (half(np.ones(3)), half(np.array([3.0, 1.0, 9.0])), half(np.zeros(3))) == (50, 75, 0)


def test_a_folder_holds_a_benchmark_or_does_not(bare, tmp_path):
    assert Bare("bare").lies_in(bare) is True
    assert Bare("bare").lies_in(tmp_path / "elsewhere") is False


def test_questions_without_pictures_have_none_to_check(bare):
    assert Spoken("bare").check(bare) == []


def test_a_row_of_ours_is_joined_by_its_key_where_the_benchmark_is_its_own():
    spoken = Spoken("bare")
    samples = list(spoken.read(None, None, False))
    ours = {"question_id": 1, "text": "b", "metadata": {"benchmark": "bare", "key": "2"}}
    assert spoken.answers([ours], samples) == {"2": "b"}
    for metadata in ({"benchmark": "other", "key": "2"}, {"key": "2"}, {"benchmark": "bare"}, {}, None):
        assert spoken.answers([{**ours, "metadata": metadata}], samples) == {"1": "b"}


def test_a_question_of_llavas_files_in_full(folder):
    """Its picture must not leave the folder of pictures, and its group is its picture."""
    record = {"question_id": 3, "image": "3.jpg", "text": "What?", "category": "default"}
    folder.lines("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", [record])
    root = folder / "vqav2/test2015"
    assert get("vqav2").load(folder.root) == [
        Sample(3, "What?", root / "3.jpg", group="3.jpg", category="default", root=root)
    ]


def test_nothing_divided_by_nothing_is_zero():
    assert ratio(np.array([0.0, 3.0, 5.0]), np.array([0.0, 2.0, 0.0])).tolist() == [0, 1.5, 0]
