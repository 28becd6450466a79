"""GQA."""

from __future__ import annotations

import pytest

from eval.benchmarks import get
from eval.benchmarks.gqa import parsed
from eval.reading.sample import Sample

SHORT = "\nAnswer the question using a single word or phrase."


def gqa(folder, truth=None):
    known = {
        "201": {
            "question": "Is the sky cloudy?",
            "answer": "yes",
            "isBalanced": True,
            "imageId": "n1",
            "types": {"structural": "verify", "semantic": "global", "detailed": "weather"},
            "semantic": [
                {"operation": "select", "argument": "sky", "dependencies": []},
                {"operation": "verify color", "argument": "grey", "dependencies": [0]},
                {"operation": "exist", "argument": "?", "dependencies": [1]},
            ],
            "groups": {"global": "weather", "local": "a"},
        },
        "202": {
            "question": "What colour is the kite?",
            "answer": "red",
            "isBalanced": True,
            "imageId": "n1",
            "types": {"structural": "query", "semantic": "attr", "detailed": "color"},
            "semantic": [
                {"operation": "select", "argument": "kite", "dependencies": []},
                {"operation": "query", "argument": "name", "dependencies": [0]},
            ],
            "groups": {"global": "color", "local": "b"},
        },
        "203": {
            "question": "Who?",
            "answer": "boy",
            "isBalanced": True,
            "imageId": "n2",
            "types": {"structural": "query", "semantic": "obj"},
            "groups": {"global": None},
        },
    }
    folder.json("gqa/data/testdev_balanced_questions.json", {**known, **(truth or {})})
    folder.lines(
        "gqa/llava_gqa_testdev_balanced.jsonl",
        [
            {"question_id": id, "image": f"{q['imageId']}.jpg", "text": q["question"] + SHORT, "category": "default"}
            for id, q in known.items()
        ],
    )
    return get("gqa").load(folder.root)


def test_gqa(folder, answered):
    samples = gqa(folder)
    assert samples[0].id == "201"  # a string, as in the file
    assert samples[0].group == "n1.jpg"
    rows = list(answered(samples, {"201": "Yes.", "202": "Red...", "203": "the boy"}))
    rows[0]["question_id"] = 201  # another script's number for the same question
    score = get("gqa").score(rows, samples)
    assert score.value == pytest.approx(200 / 3)  # no articles are dropped: "the boy" is wrong
    assert score.parts["binary"] == 100
    assert score.parts["open"] == 50
    assert score.parts["structural/query"] == 50
    assert score.parts["semantic/global"] == 100
    assert score.parts["words/05"] == 100
    assert score.parts["words/01"] == 0
    assert score.parts["steps/02"] == 100  # exist and query: name are no steps
    assert score.parts["steps/01"] == 100
    assert score.parts["distribution"] == 0


def test_gqa_keeps_what_its_parts_are_of_and_the_boxes_of_our_own_data(folder):
    kept = {"types": {"structural": "query"}, "semantic": [], "groups": {"global": None}, "boxes": [[0, 0, 9, 9]]}
    samples = gqa(folder, {"201": {"question": "Is it?", "answer": "no", "imageId": "n1", **kept}})
    assert samples[0].meta == {"question": "Is it?", **kept}


def test_gqa_asks_what_is_balanced_or_does_not_say(folder):
    samples = gqa(folder, {"202": {"answer": "red", "isBalanced": False}, "203": {"answer": "boy"}})
    assert [sample.id for sample in samples] == ["201", "203"]
    assert samples[0].root == folder / "gqa/data/images"


def test_gqa_parts_are_of_what_the_questions_say(folder, answered):
    named = {"question": "Who is it?", "answer": "boy", "imageId": "n2",
             "semantic": [{"operation": "choose name", "argument": "a"}, "?", {"operation": "select"}]}  # fmt: skip
    score = get("gqa").score(answered(gqa(folder, {"203": named}), "boy"), gqa(folder, {"203": named}))
    assert sorted(score.parts) == ["binary", "distribution", "open", "semantic/attr", "semantic/global", "steps/01",
                                   "steps/02", "structural/query", "structural/verify", "words/03", "words/04",
                                   "words/05"]  # fmt: skip
    assert score.parts["steps/01"] == 50  # to choose a name is no step; the kite's question has one, and is wrong
    bare = [Sample("1", "?", target="a")]
    assert get("gqa").score([{"question_id": "1", "text": "A."}], bare).parts == {}


def test_gqa_takes_off_full_stops_and_nothing_else():
    assert [parsed(answer) for answer in ("Max..", "MAX", ".a", "a. ", "a.b")] == ["max", "max", ".a", "a. ", "a.b"]


def test_gqa_distribution_by_hand(folder, answered):
    samples = gqa(folder)
    score = get("gqa").score(answered(samples, {"201": "no", "202": "red"}), samples)
    # weather: one "yes" expected, none said: (0 - 1)^2 / 1 = 1; colour: 0. Mean over two questions, / 100.
    assert score.parts["distribution"] == pytest.approx(0.005)
    assert score.missing == 1


def test_gqa_distribution_of_larger_groups(answered):
    asked = [("1", "yes", "weather"), ("2", "yes", "weather"), ("3", "no", "weather"), ("4", "red", "colour")]
    samples = [Sample(id, "?", target=answer, meta={"groups": {"global": group}}) for id, answer, group in asked]
    score = get("gqa").score(answered(samples, {"1": "no", "2": "no", "3": "no", "4": "red"}), samples)
    # weather, three questions: yes (0 - 2)^2 / 2 = 2, no (3 - 1)^2 / 1 = 4; colour, one: 0. (3 * 6 + 1 * 0) / 4 / 100.
    assert score.parts["distribution"] == pytest.approx(0.045)


def test_gqa_where_its_archive_unpacks_to(folder):
    samples = gqa(folder)
    (folder / "gqa/data/questions1.2").mkdir()
    name = "testdev_balanced_questions.json"
    (folder / "gqa/data" / name).rename(folder / "gqa/data/questions1.2" / name)
    assert get("gqa").load(folder.root) == samples


def test_gqa_versions_must_match(folder):
    gqa(folder)
    folder.json("gqa/data/testdev_balanced_questions.json", {"999": {"answer": "x"}})
    with pytest.raises(ValueError, match=r"jsonl, line 1: question '201' is not in .*testdev_balanced_questions.json"):
        get("gqa").load(folder.root)
    (folder / "gqa/data/testdev_balanced_questions.json").unlink()
    with pytest.raises(ValueError, match=r"gqa/data/testdev_balanced_questions.json: no such file"):
        get("gqa").load(folder.root)
