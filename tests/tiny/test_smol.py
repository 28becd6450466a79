"""`smol` without its language model: the world on a longer field, the lessons, the LoRAs, and interrupted training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny.drawn.drawing import draw
from tiny.drawn.scenes import COLOURS
from tiny.smol import model as smol
from tiny.smol import train as smol_train
from tiny.smol.lessons import IGNORE, SKILLS, bare
from tiny.smol.world import CELLS, FORMATS, GROUPS, PATCH, PATCHES, VISUAL, smol_scene, targets, words
from tiny.training import learning, lessons, sight


def test_scenes_have_every_aspect_ratio_and_two_to_eight_things():
    seen = [smol_scene(seed) for seed in range(400)]
    assert {(s.cols, s.rows) for s in seen} == set(FORMATS)
    assert {len(s.things) for s in seen} == set(range(2, 9))
    assert all(max(s.size) == PATCHES * PATCH for s in seen)


def test_a_patch_is_named_after_the_colour_that_is_drawn_there():
    """Read off the picture: where the names say a colour of a square, most pixels have it; elsewhere none has."""
    checked = 0
    for seed in range(60):
        scene = smol_scene(seed)
        target = targets(scene).reshape(PATCHES, PATCHES, -1)
        square = sight.pixels(draw(scene)) * sight.STD[:, None, None] + sight.MEAN[:, None, None]
        pixels = (square * 255).permute(1, 2, 0).reshape(PATCHES, PATCH, PATCHES, PATCH, 3).permute(0, 2, 1, 3, 4)
        for row, column in np.argwhere(target[..., 0] > 0):
            size, colour, shape = (list(GROUPS.values())[k][target[row, column, k]] for k in range(3))
            if shape in ("square", "circle") and size == "small":
                near = (pixels[row, column] - torch.tensor(COLOURS[colour], dtype=torch.float32)).abs().amax(-1) <= 12
                assert near.float().mean() > 0.45, (seed, row, column, colour)
                checked += 1
        heads = target[..., 3].sum()
        assert heads == len(scene.things)
    assert checked > 20


def test_words_of_a_patch_tell_its_thing_or_its_ground():
    scene = smol_scene(7)
    named = [words(t) for t in targets(scene)]
    things = {(t.size, t.colour, t.shape) for t in scene.things}
    assert {tuple(w) for w in named if len(w) > 1} == things
    cover = sum(4 if t.size == "big" else 1 for t in scene.things)
    assert sum(len(w) > 1 for w in named) == cover
    assert sum(w == ["border"] for w in named) == VISUAL - scene.cols * scene.rows * VISUAL // CELLS**2
    assert {w[0] for w in named if len(w) == 1} <= {scene.background, "border"}


def test_a_question_in_a_packed_row_is_answered_as_if_it_were_asked_alone(toy):
    """Against the whole model's own forward pass, one question at a time."""
    student = smol_train.SmolStudent(fast=False)
    lesson = student.teacher.lesson(77, 2, 5)
    alone = []
    with torch.no_grad():
        packed, _ = student.answers(lesson)
        for seed in (77, 78):
            scene = smol_scene(seed)
            turns = bare(lessons.turns(scene, 5, dict.fromkeys(SKILLS, 1.0), SKILLS))
            assert len(turns) > 1
            for question, answer, _ in turns:
                head = student.teacher.opening + [smol.number(student.tokens, smol.IMAGE)] * VISUAL
                ids, labels = student.teacher.turn(question, answer)
                out = student.model(input_ids=torch.tensor([head + ids]), pixel_values=sight.pixels(draw(scene))[None])
                wanted = sum(label != IGNORE for label in labels)
                alone.append(out.logits[0, -wanted - 1 : -1])
    assert torch.allclose(packed, torch.cat(alone), atol=1e-4)


def test_thin_lessons_leave_out_empty_patches_and_keep_positions(toy):
    student = smol_train.SmolStudent(fast=False)
    thin, whole = student.teacher.lesson(50, 3, 4, thin=2), student.teacher.lesson(50, 3, 4)
    assert thin.index.shape[1] < 60
    start = len(student.teacher.opening)
    for row in range(3):
        busy = np.flatnonzero(targets(smol_scene(50 + row))[:, 0])
        assert set(busy) <= set(thin.index[row].tolist())
    shown = thin.positions[:, start : start + thin.index.shape[1]]
    assert torch.equal(shown, start + thin.index)
    after = thin.positions[:, start + thin.index.shape[1] :]
    assert torch.equal(after, whole.positions[:, start + VISUAL :])


def test_merged_loras_compute_what_they_did_beside_the_weights(toy):
    torch.manual_seed(1)
    student = smol_train.SmolStudent(fast=False)
    for matrix in student.thin.parameters():
        matrix.data.normal_(0, 0.05)
    plain = smol.language_model().model
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = plain(input_ids=ids).last_hidden_state
        beside = student.decoder(input_ids=ids).last_hidden_state
        smol.merge(plain, smol.thin_matrices(student.added))
        merged = plain(input_ids=ids).last_hidden_state
    assert torch.allclose(merged, beside, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_training_that_is_interrupted_ends_in_the_same_bits(toy, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 130))  # every step seems to take so long that a checkpoint is due
    monkeypatch.setattr(learning.time, "time", lambda: next(clock))
    one, two = tmp_path / "one", tmp_path / "two"
    for run in (one, two):
        run.mkdir()
        student = smol_train.SmolStudent()
        bridged = {"tower": student.tower.state_dict(), "projector": student.projector.state_dict()}
        torch.save({**bridged, "spent": 0.0, "step": 1}, run / "bridge.pt")
    smol_train.tune(one, 4, "cpu", True)

    own = smol_train.lesson

    def stopped(teacher, curriculum, step, share):
        if step == 2:
            raise KeyboardInterrupt
        return own(teacher, curriculum, step, share)

    monkeypatch.setattr(smol_train, "lesson", stopped)
    with pytest.raises(KeyboardInterrupt):
        smol_train.tune(two, 4, "cpu", True)
    monkeypatch.setattr(smol_train, "lesson", own)
    smol_train.tune(two, 4, "cpu", True)

    ends = [torch.load(run / "tune.pt", weights_only=True) for run in (one, two)]
    assert ends[0]["step"] == ends[1]["step"] == 4
    assert ends[0]["curriculum"] == ends[1]["curriculum"]
    for part in ("projector", "lora"):
        assert ends[0][part].keys() == ends[1][part].keys()
        assert all(torch.equal(ends[0][part][key], ends[1][part][key]) for key in ends[0][part])
    first = smol_train.SmolStudent().thin.state_dict()
    assert any(not torch.equal(first[key], ends[0]["lora"][key]) for key in first)


def test_written_questions_are_read_by_the_evaluation_and_meet_the_plan(tmp_path):
    """On seeds that no study plans to use."""
    from eval import benchmarks
    from tiny.smol import data as smol_data

    smol_data.write(tmp_path, 2_300_000_000, 36, padded=30)
    samples = benchmarks.get("gqa").load(tmp_path)
    assert len(samples) == 36
    kinds = [sample.meta["types"]["detailed"] for sample in samples]
    assert [kinds.count(kind) for kind in SKILLS] == [6] * 6
    shapes = [smol_scene(int(sample.key)) for sample in samples]
    assert sum(scene.cols != scene.rows for scene in shapes) >= 30
    assert len({sample.group for sample in samples}) == 36
    with Image.open(samples[0].image) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(draw(shapes[0])))


def test_an_expression_fits_its_box_alone_and_changes_no_question(tmp_path):
    from eval import benchmarks
    from tiny.smol import data as smol_data

    for name, boxes in (("plain", False), ("boxes", True), ("again", True)):
        smol_data.write(tmp_path / name, 2_300_000_000, 12, padded=8, boxes=boxes)
    plain, own, again = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("plain", "boxes", "again")
    )
    assert own == again
    assert {path: content for path, content in own.items() if path.parts[0] == "gqa"} == plain
    samples = benchmarks.get("refcoco").load(tmp_path / "boxes")
    assert 10 <= len(samples) <= 12
    for sample in samples:
        scene = smol_scene(int(sample.image.stem.removeprefix("s")))
        words = set(sample.text.rpartition(": the ")[2].removesuffix(" shape").split())
        meant = [t.box for t in scene.things if words <= {t.size, t.colour, t.shape}]
        assert meant == [tuple(sample.target)], (sample.text, scene.seed)
        assert sample.meta["size"] == scene.size


def test_accuracy_counts_right_answers_of_every_kind(toy, monkeypatch):
    student = smol_train.SmolStudent(fast=False)

    def answers(lesson, features):
        """Right about pictures as they are; about another picture always "red"."""
        wanted = lesson.labels[:, 1:][lesson.labels[:, 1:] != IGNORE]
        own = torch.equal(features, student.features(lesson.pictures))
        said = wanted if own else torch.full_like(wanted, student.teacher.ids("red")[0])
        return torch.nn.functional.one_hot(said, len(student.tokens)).float(), wanted

    monkeypatch.setattr(student, "answers", answers)
    found = smol_train.accuracy(student, 6)
    assert [found[name] for name in (*SKILLS, "all")] == [1.0] * 7
    assert found["blind"] == 0.0
    assert found["pictures"] == 6
    assert 24 <= found["questions"] <= 36


def test_smol_is_asked_questions_of_its_own_world(tmp_path, monkeypatch):
    from eval.core.embedded import EMBEDDED, data_of, world_of
    from tiny import benchmarks as tiny_benchmarks
    from tiny.smol import data as smol_data
    from tiny.smol.train import SEEDS

    monkeypatch.setattr(tiny_benchmarks, "_cache", lambda: tmp_path / "cache")
    folder = tmp_path / "copy of smol"
    folder.mkdir()
    (folder / "origin.json").write_text('{"world": "smol"}')
    assert world_of("smol").name == world_of(folder).name == "world of smol"
    assert world_of(folder).scene is smol_scene
    scored, heldout = (data_of(folder, "ci", half) for half in ("scored", "heldout"))
    assert scored != heldout
    assert scored == data_of("smol", "ci")
    lines = (scored / "gqa" / "llava_gqa_testdev_balanced.jsonl").read_text().splitlines()
    assert len(lines) == smol_data.SIZES["ci"]
    trained = max(seed for stage, seed in SEEDS.items() if stage != "check")
    assert min(smol_data.HALVES.values()) > trained + 10**8

    for other in (None, EMBEDDED["image"], tmp_path / "absent", "some/hub-id"):
        assert world_of(other).name == "tiny world"
    for told in ("[1]", "no JSON", '{"world": "another"}'):
        (folder / "origin.json").write_text(told)
        assert world_of(folder).name == "tiny world"


def test_the_table_of_ways_in_the_docs_is_that_of_the_run():
    root = Path(__file__).parents[2]
    told = json.loads((root / "assets" / "studies" / "smol-ways-results.json").read_text(encoding="utf-8"))
    lines = (root / "docs" / "smol.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.count(" | ") == 6]
    shown = {row.split(" | ")[0].removeprefix("| "): row.replace("**", "") for row in rows}
    for table in told["tables"]:
        for way, score, size, mark, *_, recall, _ in table["rows"]:
            assert f" {size or f'{score:.1f}'} | {recall} |" in shown[way], (table["title"], way)
            assert not mark or f"**{size}**" in "\n".join(rows)
    assert len(shown) == 19  # a head and eighteen ways
