"""Files that are not what they should be, and answers at the edges of the parsers."""

from __future__ import annotations

import json

import pytest

from eval.benchmarks import get, mmbench, mme, pope
from eval.benchmarks.judged import Judged
from eval.commands.score import score_file
from eval.reading.sample import Sample


@pytest.mark.parametrize(
    ("name", "file", "what"),
    [
        ("gqa", "gqa/data/testdev_balanced_questions.json", "question"),
        ("mmvet", "mm-vet/mm-vet.json", "question"),
        ("scienceqa", "scienceqa/problems.json", "problem"),
    ],
)
def test_a_truth_that_is_a_list_is_refused(folder, name, file, what):
    marks = {"gqa": "gqa/llava_gqa_testdev_balanced.jsonl", "mmvet": "mm-vet/llava-mm-vet.jsonl",
             "scienceqa": "scienceqa/llava_test_CQM-A.json"}  # fmt: skip
    folder.text(marks[name], "[]" if name == "scienceqa" else "")
    path = folder.json(file, ["a"])
    with pytest.raises(ValueError, match=f"{path}: expected an object from question id to {what}"):
        get(name).load(folder.root)


@pytest.mark.parametrize("name", ["mmvet", "scienceqa", "msvd", "pope"])
def test_hidden_answers_are_not_scored(name):
    hidden = [Sample(1, "?", target="a", meta={"needs": []}), Sample(2, "?", target=None, meta={"needs": []})]
    with pytest.raises(ValueError, match=f"{name}: the answer to question '2' is not public; $"):
        get(name).score([], hidden)


def test_a_judged_benchmark_says_what_a_verdict_is_worth():
    with pytest.raises(TypeError, match=r"^Judged does not say what a verdict is worth$"):
        Judged("some").grade({})


def mmbench_row(folder, **changes):
    row = {"index": "7", "question": "What?", "A": "red", "B": "blue", "answer": "A", "image": "AAAA", **changes}
    return folder.text("mmbench/mmbench_dev_20230712.tsv", "\t".join(row) + "\n" + "\t".join(row.values()) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"B": ""}, r"question 7: expected the options A and B, found \['A'\]"),
        ({"answer": "C"}, "question 7: expected an answer among A, B, found 'C'"),
        ({"image": "AA!AA"}, "question 7: expected a picture in base64, found 'AA!AA'"),
        ({"image": "8"}, "question 7: its picture is that of question 8, which comes later or never"),
    ],
)
def test_mmbench_rows_that_do_not_fit(folder, changes, message):
    mmbench_row(folder, **changes)
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        get("mmbench").load(folder.root)


def test_mmbench_parts_count_a_question_once():
    samples = [
        Sample(n, "?", group=group, category=group, target="A", meta={"level": "x", "choices": {"A": "red"}})
        for n, group in enumerate("aaab")
    ]
    rows = [{"question_id": n, "text": text} for n, text in enumerate(["A", "A", "A", "?"])]
    score = get("mmbench").score(rows, samples)
    assert score.parts == {"rows": 75, "questions": 2, "category/a": 100, "category/b": 0, "l2-category/x": 50}


def test_an_article_ends_the_search_for_letters():
    choices = {"A": "cat", "B": "bird"}
    assert mmbench.parsed("A dog beside (B) I think", choices) is None
    assert mmbench.parsed("A (B)", choices) == "A"


@pytest.mark.parametrize(
    ("answer", "known"), [("a no thing", "no"), ("y es", None), ("a  no", "no"), ("I know", None), ("know", "no")]
)
def test_mme_looks_at_four_characters(answer, known):
    assert mme.parsed(answer) == known


def test_pope_looks_at_the_first_sentence():
    assert pope.parsed("Yes. No. Sure.") == "yes"
    assert pope.parsed("No. Yes. Sure.") == "no"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"label": "maybe"}, "line 2: expected the label 'yes' or 'no', found 'maybe'"),
        ({}, "line 2: asks about 'dog' in a.jpg a second time; expected one label each"),
    ],
)
def test_pope_labels_that_do_not_fit(folder, second, message):
    label = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    folder.lines("pope/coco/coco_pope_adversarial.json", [label, {**label, **second}])
    folder.lines("pope/llava_pope_test.jsonl", [])
    with pytest.raises(ValueError, match=message):
        get("pope").load(folder.root)


def science(folder, ids=("5", "6"), **changes):
    said = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "A"}]
    asked = [{"id": "5", "conversations": said}, {"id": "6", "image": "6.png", "conversations": said}]
    folder.json("scienceqa/llava_test_CQM-A.json", asked)
    known = {"choices": ["red", "blue"], "answer": 0, "subject": "art", **changes}
    folder.json("scienceqa/problems.json", dict.fromkeys(ids, known))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("5",)}, "question '6' is not in .*problems.json; expected the same version in both"),
        ({"answer": 2}, r"problem '5': expected 1 to 5 choices and the answer among them, found 2: \['red', 'blue'\]"),
        ({"answer": -1}, "expected 1 to 5 choices and the answer among them, found -1"),
        ({"choices": list("abcdef")}, "expected 1 to 5 choices"),
    ],
)
def test_scienceqa_problems_that_do_not_fit(folder, changes, message):
    science(folder, **changes)
    with pytest.raises(ValueError, match=message):
        get("scienceqa").load(folder.root)


def test_a_file_with_answers_to_questions_without_a_picture_is_scored(folder):
    science(folder)
    rows = [{"question_id": id, "text": "A"} for id in ("5", "6")]
    score = score_file("scienceqa", folder.lines("answers.jsonl", rows), folder.root)
    assert (score.n, score.parts["overall"]) == (2, 100)
    assert get("scienceqa").sizes(get("scienceqa").load(folder.root, text_only=True)) == [
        ("scienceqa with pictures", 1, 2017)
    ]


def test_a_question_of_vqav2_without_an_answer_is_refused(folder):
    folder.json("vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
                {"questions": [{"image_id": 42, "question": "Is it red?", "question_id": 42000}]})  # fmt: skip
    folder.json(
        "vqav2/v2_mscoco_val2014_annotations.json",
        {"annotations": [{"question_id": 1, "answers": ["yes"] * 10, "answer_type": "yes/no"}]},
    )
    with pytest.raises(ValueError, match=r"question 42000 is not in .*annotations.json; expected the same version"):
        get("vqav2").load(folder.root, split="val2014")


@pytest.mark.parametrize(("name", "split", "n"), [("vizwiz", "test", 8000), ("vqav2", "test-dev", 107_394)])
def test_no_questions_are_those_of_the_official_split(name, split, n):
    assert get(name).sizes([]) == [(f"{name} {split}", 0, n)]


def test_the_command_prints_what_it_found(tmp_path, capsys):
    from eval.cli import main

    (tmp_path / "val.json").write_text(
        json.dumps([{"image": "0.jpg", "question": "What?", "answers": ["lime"] * 10, "answer_type": "other"}])
    )
    (tmp_path / "answers.jsonl").write_text('{"question_id": "0.jpg", "text": "Lime"}\n')
    assert main(["score", "vizwiz", "--answers", str(tmp_path / "answers.jsonl"), "--data", str(tmp_path)]) == 0
    assert "vizwiz_val  100.00" in capsys.readouterr().out
