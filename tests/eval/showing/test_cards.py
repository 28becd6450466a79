"""What the report shows of a question: the right share, boxes in one unit, frames of clips."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from eval import benchmarks
from eval.reading.sample import make_row
from eval.scoring.box import from_pixels
from eval.scoring.results import Scored, results, scored
from eval.showing import cards, report


def test_the_share_that_differs_is_that_of_all_questions(answered):
    found = results(answered)
    shown = [card for one in found for card in cards.cards(one, answered.info(), 3, None)]
    said = report.shares(found, shown)
    assert said["of"] == sum(len(one.samples) for one in found)
    wrong = sum(value < 1 for one in found for value in one.arms["none"].score.items.values())
    assert said["differ"] == wrong  # arm both is always right
    assert (said["shown"], said["shown_differ"]) == (6, 6)
    assert any(not card["flip"] for card in shown if card["plain"])


def test_the_unpruned_model_is_no_arm_that_differs(answered):
    one = results(answered)[0]
    same = Scored(one.benchmark, one.samples, {"both": one.arms["both"], "unpruned": one.arms["none"]})
    assert cards.differing(same) == []
    assert cards.differing(one)


def card(world, name, texts, kept=None, tokens=36):
    benchmark = benchmarks.get(name)
    samples = benchmark.load(world)
    arms = {}
    for arm, text in texts.items():
        facts = {"arm": arm, "run": "r", **({} if kept is None else {"kept": [kept]})}
        arms[arm] = scored(benchmark, samples, [make_row(s, text, "m", facts) for s in samples], arm)
    info = {"settings": {}, "benchmarks": {name: {"data": str(world), "tokens": tokens}}}
    return cards.cards(Scored(benchmark, samples, arms), info, 1, None)[0], samples[0]


def test_boxes_are_drawn_and_said_in_one_unit(world):
    shown, sample = card(world, "refcoco", {"none": "no box", "both": "[0.25, 0.25, 0.75, 0.75]"})
    width, height = sample.meta["size"]
    scale = cards.THUMBNAIL / max(width, height)
    assert shown["expected"]["width"] == pytest.approx((sample.target[2] - sample.target[0]) * scale, abs=0.1)
    said = [float(word) for word in shown["truth"].strip("[]").split(",")]
    assert said == pytest.approx(from_pixels(sample.target, sample.meta["size"], sample.meta["frame"]), abs=0.005)
    none, both = shown["arms"]
    assert none["box"] is None
    inside = min(width, height) / max(width, height)  # a box is cut off at the picture's edge
    assert max(both["box"]["width"], both["box"]["height"]) == pytest.approx(cards.THUMBNAIL / 2, abs=0.2)
    assert min(both["box"]["width"], both["box"]["height"]) <= cards.THUMBNAIL * min(0.5, inside) + 0.2


def test_clips_show_their_frames_and_what_was_kept_of_each(world):
    shown, sample = card(world, "msvd", {"none": "a"}, kept="0-36,74-110")  # the first frame, and the third
    assert isinstance(sample.video, Path)
    picture = Image.open(io.BytesIO(base64.b64decode(shown["picture"].split(",")[1])))
    assert picture.size == shown["view"] == (288, 144)
    dark = shown["arms"][0]["dark"]
    assert "M0 0h" not in dark
    assert "M6 0h6v1H6z" in dark  # the second frame lies right of the first
    assert "M12 0h" not in dark
    assert "M0 6h6v1H0z" in dark  # the fifth lies below


def test_titles_and_settings_are_short():
    info = {"settings": {"method": "FastV(keep=0.2222222222222222, layer=2)", "models": {"image": "tiny-llava 3bf2"}}}
    assert report.title(info) == "FastV on tiny-llava"
    assert report.plain(info["settings"]["method"]) == "FastV(keep=0.222, layer=2)"
    assert report.plain({"a": 0.123456789}) == "a 0.123"
