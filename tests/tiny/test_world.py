"""The world is the same every time, its answers are right, and no blind strategy wins."""

from __future__ import annotations

import collections
import hashlib
import random

import numpy as np
import pytest
from checker import check

from tiny import prompts
from tiny.drawn import world
from tiny.drawn.scenes import FORMATS, LETTERS
from tiny.training.lessons import patch_words

SCENES = [world.scene(world.TEST + k) for k in range(300)]
CLIPS = [world.clip(world.TEST + k) for k in range(150)]
ASKED = [(scene, q) for scene in SCENES for q in world.questions(scene, 0, tuple(world.KINDS))]


def test_same_seed_same_world():
    assert world.scene(7) == world.scene(7) != world.scene(8)
    assert world.questions(world.scene(7), 1) == world.questions(world.scene(7), 1)
    assert world.clip(7) == world.clip(7)
    plain = repr([SCENES, CLIPS, [q for _, q in ASKED]]).encode()
    again = repr(
        [
            [world.scene(world.TEST + k) for k in range(300)],
            [world.clip(world.TEST + k) for k in range(150)],
            [q for s in SCENES for q in world.questions(s, 0, tuple(world.KINDS))],
        ]
    ).encode()
    assert hashlib.sha256(plain).hexdigest() == hashlib.sha256(again).hexdigest()


def test_pictures_are_reproducible_and_differ():
    first = [np.asarray(world.draw(scene)) for scene in SCENES[:20]]
    second = [np.asarray(world.draw(scene)) for scene in SCENES[:20]]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len({a.tobytes() for a in first}) == 20


def test_every_format_occurs_and_every_picture_has_a_long_side_of_96():
    assert {(s.cols, s.rows) for s in SCENES} == set(FORMATS)
    assert {max(world.draw(s).size) for s in SCENES} == {96}


def test_answers_are_right():
    assert {q.kind for _, q in ASKED} == set(world.KINDS)
    wrong = [(scene.seed, q) for scene, q in ASKED if not check(scene, q)]
    assert not wrong


def test_the_checker_notices_wrong_answers():
    changed = 0
    for scene, q in ASKED:
        other = {"yes": "no", "no": "yes", "left": "right", "right": "left"}.get(q.answer, "nothing")
        changed += check(scene, world.Question(q.kind, q.text, other))
    assert changed == 0


def test_options_hold_one_right_answer():
    offered = [(s, world.with_options(q, s, random.Random(k))) for k, (s, q) in enumerate(ASKED)]
    offered = [(s, q) for s, q in offered if q is not None]
    assert all(check(s, q) for s, q in offered)
    four = [q.letter for _, q in offered if len(q.options) == 4]
    counts = collections.Counter(four)
    assert set(counts) == set("ABCD")
    assert max(counts.values()) < 0.3 * len(four)


def test_clip_answers_are_right():
    asked = [(clip, q) for clip in CLIPS for q in world.clip_questions(clip, 0)]
    assert {q.kind for _, q in asked} == set(world.CLIP_KINDS)
    assert all(check(clip, q) for clip, q in asked)
    frames = world.draw_clip(CLIPS[0])
    assert len(frames) == 8
    assert {f.size for f in frames} == {(48, 48)}


@pytest.mark.parametrize("kind", ["exist", "relation", "compare"])
def test_yes_and_no_are_even(kind):
    answers = [q.answer for scene in SCENES for q in world.questions(scene, 1, (kind,), each=3) if q.kind == kind]
    assert 0.42 < answers.count("yes") / len(answers) < 0.58


@pytest.mark.parametrize(("kind", "most"), [("colour", 0.25), ("shape", 0.3), ("next_colour", 0.25), ("count", 0.5)])
def test_no_constant_answer_wins(kind, most):
    answers = collections.Counter(q.answer for _, q in ASKED if q.kind == kind)
    assert max(answers.values()) / sum(answers.values()) < most


def test_evidence_is_spread_over_the_picture():
    """In square pictures the things that colour is asked of stand in every row and column alike."""
    places = np.zeros((6, 6))
    for seed in range(600):
        scene = world.scene(seed, form=(6, 6))
        for q in world.questions(scene, 0, ("colour",)):
            x, y = q.boxes[0][:2]
            places[y // 16, x // 16] += 1
    rows, columns = places.sum(1) / places.sum(), places.sum(0) / places.sum()
    assert rows.min() > 0.11
    assert rows.max() < 0.23
    assert columns.min() > 0.11
    assert columns.max() < 0.23


def test_patch_words_say_what_the_picture_shows():
    scene = next(s for s in SCENES if s.cols > s.rows and s.signs and s.things)
    words = patch_words(scene)
    border = sum("<border>" in here for here in words)
    assert len(words) == 144
    assert border == 12 * (12 - 2 * scene.rows)
    printed = [w for here in words for w in here if len(w) == 1]
    assert sorted(printed) == sorted("".join(sign.text for sign in scene.signs))
    for thing in scene.things:
        cells = [here for here in words if f" {thing.colour}" in here and f" {thing.shape}" in here]
        assert len(cells) >= (4 if thing.size == "big" else 1)


def test_boxes_are_relative_to_the_padded_square():
    assert prompts.box_answer((16, 16, 30, 30), (96, 96)) == "[0.17, 0.17, 0.33, 0.33]"
    # a picture of 96 x 48 has 24 pixels of padding above it
    assert prompts.box_answer((8, 1, 15, 8), (96, 48)) == "[0.08, 0.25, 0.17, 0.33]"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown kind"):
        world.questions(SCENES[0], 0, ("smell",))
    from tiny.drawn.glyphs import glyph

    with pytest.raises(ValueError, match="capitals and digits"):
        glyph("ä")
    assert len({glyph(c).tobytes() for c in LETTERS}) == 26
