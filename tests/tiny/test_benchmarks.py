"""The written files: deterministic, complete, balanced, and true to the scenes they show."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from checker import expected, expected_of_clip
from PIL import Image

from tiny.benchmarks import WRITERS, ensure, write
from tiny.drawn import world
from tiny.layouts.lots import Lots

SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "data"
    assert ensure(folder, "default") == folder
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_files_every_time(tmp_path):
    write(tmp_path / "one", "ci")
    write(tmp_path / "two", "ci")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) > 100


def test_halves_share_no_picture(tmp_path):
    write(tmp_path / "scored", "ci", "scored")
    write(tmp_path / "heldout", "ci", "heldout")
    pictures = [
        {digest for name, digest in digests(tmp_path / half).items() if name.endswith((".jpg", ".png", ".mp4", ".avi"))}
        for half in ("scored", "heldout")
    ]
    assert pictures[0]
    assert not pictures[0] & pictures[1]


def test_benchmarks_share_no_scene():
    seeds = [
        Lots(name, number, 480, half).seed(k)
        for number, name in enumerate(WRITERS)
        for half in ("scored", "heldout")
        for k in (0, 10**7 - 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 10**9  # training stays below


def test_ensure_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not written here"):
        ensure(tmp_path, "ci")
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_ensure_names_unknown_sizes_and_halves(tmp_path):
    with pytest.raises(ValueError, match=r"'huge'.*ci, default, full"):
        ensure(tmp_path / "a", "huge")
    with pytest.raises(ValueError, match=r"'third'.*scored, heldout"):
        ensure(tmp_path / "b", "ci", "third")


def test_gqa_answers_are_what_the_picture_shows(root):
    """Picture and answer come from one scene: the file is the scene's drawing, and an independent reader agrees."""
    questions = json.loads((root / "gqa/data/testdev_balanced_questions.json").read_text())
    lots = Lots("gqa", list(WRITERS).index("gqa"), 96, "scored")
    drawn = {}
    for scene, _ in zip(lots.scenes(), range(200), strict=False):
        drawn[np.asarray(world.draw(scene)).shape, str(scene.seed)] = scene
    checked = 0
    for record in questions.values():
        picture = np.asarray(Image.open(root / "gqa/data/images" / f"{record['imageId']}.jpg"), np.float32)
        nearest = min(
            (scene for (shape, _), scene in drawn.items() if shape == picture.shape),
            key=lambda scene: float(np.abs(np.asarray(world.draw(scene), np.float32) - picture).mean()),
        )
        assert expected(nearest, record["question"]) == record["answer"]
        checked += 1
    assert checked == 96


def test_pope_is_balanced_and_true_to_its_labels(root):
    asked = lines(root / "pope/llava_pope_test.jsonl")
    labels = {c: lines(root / f"pope/coco/coco_pope_{c}.json") for c in ("adversarial", "popular", "random")}
    assert len(labels["random"]) < len(labels["popular"]) == len(labels["adversarial"])
    for category, rows in labels.items():
        assert {row["label"] for row in rows} == {"yes", "no"}
        assert abs(Counter(row["label"] for row in rows)["yes"] * 2 - len(rows)) <= 2
        mine = [row for row in asked if row["category"] == category]
        assert [(row["image"], row["text"].removesuffix(SHORT)) for row in mine] == [
            (r["image"], r["text"]) for r in rows
        ]


def test_mme_has_a_yes_and_a_no_for_every_picture(root):
    base = root / "MME/MME_Benchmark_release_version"
    categories = {path.name for path in base.iterdir()}
    assert len(categories) == 14
    for category in categories:
        for words in (base / category).rglob("*.txt"):
            found = [line.split("\t") for line in words.read_text().splitlines()]
            assert sorted(answer for _, answer in found) == ["No", "Yes"]
            assert all(text.endswith(" Please answer yes or no.") for text, _ in found)
    asked = lines(root / "MME/llava_mme.jsonl")
    assert all((base / row["image"]).is_file() for row in asked)
    assert Counter(Counter(row["question_id"] for row in asked).values()) == {2: len(asked) // 2}


@pytest.mark.parametrize("name", ["mmbench/mmbench_dev_20230712.tsv", "mmbench_cn/mmbench_dev_cn_20231003.tsv"])
def test_mmbench_rotates_every_option_through_every_letter(root, name):
    csv.field_size_limit(10**7)
    with (root / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    for group in groups.values():
        options = [row[letter] for row in group[:1] for letter in "ABCD" if row[letter]]
        assert len(group) == len(options) == len(set(options))
        assert sorted(row["answer"] for row in group) == list("ABCD"[: len(options)])
        assert len({row[row["answer"]] for row in group}) == 1
    first = Counter(row["answer"] for row in rows if int(row["index"]) < 1_000_000)
    assert max(first.values()) <= len(groups) / 2  # no letter that a blind guess could live on


def test_vqa_records_hold_ten_answers_that_agree_mostly(root):
    annotations = json.loads((root / "vqav2/v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    for record in annotations:
        answers = [entry["answer"] for entry in record["answers"]]
        assert len(answers) == 10
        assert answers.count(record["multiple_choice_answer"]) >= 7
    kinds = Counter(record["answer_type"] for record in annotations)
    assert set(kinds) == {"yes/no", "number", "other"}
    assert {len(entry["answers"]) for entry in json.loads((root / "vizwiz/val.json").read_text())} == {10}


def test_vizwiz_asks_what_cannot_be_seen(root):
    entries = json.loads((root / "vizwiz/val.json").read_text())
    assert 0.1 < sum(not entry["answerable"] for entry in entries) / len(entries) < 0.4


def test_scienceqa_mixes_pictures_and_text_alone(root):
    asked = json.loads((root / "scienceqa/llava_test_CQM-A.json").read_text())
    problems = json.loads((root / "scienceqa/problems.json").read_text())
    for record in asked:
        question = record["conversations"][0]["value"]
        assert ("image" in record) == question.startswith("<image>\n")
        problem = problems[record["id"]]
        assert record["conversations"][1]["value"] == "ABCDE"[problem["answer"]]
        if "image" not in record:
            words = problem["question"].removeprefix("What colour is the ").rstrip("?")
            assert f"The {words} is {problem['choices'][problem['answer']]}." in problem["hint"]
    assert 0 < sum("image" not in record for record in asked) < len(asked) / 2


@pytest.mark.parametrize(("name", "videos"), [("TGIF", "mp4"), ("MSVD", "videos"), ("MSRVTT", "videos/all")])
def test_videos_decode_to_the_clip_and_its_answers(root, name, videos):
    folder = root / "GPT_Zero_Shot_QA" / f"{name}_Zero_Shot_QA"
    asked = json.loads((folder / "test_q.json").read_text())
    answers = json.loads((folder / "test_a.json").read_text())
    assert [q["question_id"] for q in asked] == [a["question_id"] for a in answers]
    number = list(WRITERS).index(name.lower())
    for question, answer in list(zip(asked, answers, strict=True))[:12]:
        path = next((folder / videos).glob(question["video_name"] + ".*"))
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        chosen = [frames[k] for k in np.linspace(0, len(frames) - 1, 8, dtype=int)]
        position = int("".join(c for c in question["video_name"].split("_10_")[0] if c.isdigit())) - 1
        clip = world.clip(Lots(name, number, 96, "scored").seed(position))
        for decoded, drawn in zip(chosen, world.draw_clip(clip), strict=True):
            assert np.abs(decoded.astype(float) - np.asarray(drawn, float)).mean() < 8
        assert expected_of_clip(clip, question["question"]) == answer["answer"]


def test_refcoco_boxes_lie_in_their_pictures(root):
    files = sorted(path.name for path in (root / "refcoco").glob("*.jsonl"))
    assert len(files) == 8
    for name in files:
        for record in lines(root / "refcoco" / name):
            x1, y1, x2, y2 = record["bbox"]
            assert 0 <= x1 < x2 <= record["width"]
            assert 0 <= y1 < y2 <= record["height"]
            assert Image.open(root / record["image"]).size == (record["width"], record["height"])
