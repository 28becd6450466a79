from __future__ import annotations

import json

import pytest

from eval.benchmarks import get, scienceqa

LETTER = "\nAnswer with the option's letter from the given choices directly."


def science(folder):
    problems, records = {}, []
    for number, (letter, picture) in enumerate([("B", True), ("A", False), ("C", True)]):
        id, hint = str(number + 5), "Context: A map.\n" if number else ""
        choices = ["red", "blue", "green"]
        problems[id] = {
            "question": "Which?",
            "choices": choices,
            "answer": "ABC".index(letter),
            "subject": "social science",
        }
        text = f"{hint}Which?\nA. red\nB. blue\nC. green"
        record = {
            "id": id,
            "conversations": [
                {"from": "human", "value": f"<image>\n{text}" if picture else text},
                {"from": "gpt", "value": letter},
            ],
        }
        records.append({**record, "image": f"{id}/image.png"} if picture else record)
    folder.json("scienceqa/llava_test_CQM-A.json", records)
    folder.json("scienceqa/problems.json", problems)
    folder.json("scienceqa/pid_splits.json", {"train": [], "val": [], "test": list(problems)})


def test_scienceqa(folder, answered):
    science(folder)
    samples = get("scienceqa").load(folder.root)
    assert [sample.id for sample in samples] == ["5", "7"]
    assert samples[0].text == "Which?\nA. red\nB. blue\nC. green" + LETTER
    assert samples[1].text.startswith("Context: A map.\nWhich?\n")
    assert samples[0].meta["prompt"] == "<image>\n" + samples[0].text
    assert samples[0].image == folder / "scienceqa/images/test/5/image.png"
    assert samples[0].root == folder / "scienceqa/images/test"
    score = get("scienceqa").score(answered(samples, {"5": "B", "7": "I do not know"}), samples)
    assert score.value == 50
    assert score.unparsed == 1
    assert score.parts == {"subject/social science": 50}
    assert get("scienceqa").max_new_tokens == 1024


def test_scienceqa_questions_without_a_picture_count_in_the_overall_accuracy_alone(folder, answered):
    science(folder)
    samples = get("scienceqa").load(folder.root, text_only=True)
    assert samples[1].image is None
    assert get("scienceqa").sizes(samples) == [("scienceqa with pictures", 2, 2017)]
    assert samples[1].meta["prompt"] == samples[1].text
    score = get("scienceqa").score(answered(samples, {"5": "B", "6": "C", "7": "C"}), samples)
    assert score.value == 100
    assert score.parts == pytest.approx({"subject/social science": 100, "overall": 200 / 3})
    # A missing answer about a picture stays in the denominator: the official script drops it.
    score = get("scienceqa").score(answered(samples, {"5": "B", "6": "A"}), samples)
    assert score.value == 50
    assert score.missing == 1
    # A run on the pictures alone has no overall accuracy, and misses nothing.
    score = get("scienceqa").score(answered(samples, {"5": "B", "7": "C"}), samples)
    assert (score.value, score.n, score.missing) == (100, 2, 0)
    assert "overall" not in score.parts


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. blue", "B"),
        ("B. ", "B"),
        ("The answer is B.", "B"),
        ("So... The answer is D, I think", "D"),
        ("B.", None),
        ("B)", None),
        ("b", None),
        ("B is the one", None),
        ("", None),
        ("F", None),
        ("AB", None),
        ("The answer is B", None),
        ("The answer is A. The answer is B.", None),
    ],
)
def test_scienceqa_parser(answer, letter):
    assert scienceqa.parsed(answer) == letter


def test_scienceqa_letters_beyond_the_choices_are_wrong(folder, answered):
    science(folder)
    samples = get("scienceqa").load(folder.root)
    for letter in ("E", "The answer is Z."):
        score = get("scienceqa").score(answered(samples, letter), samples)
        assert (score.value, score.unparsed) == (0, 0)


def test_scienceqa_files_must_agree(folder):
    science(folder)
    path = folder / "scienceqa/llava_test_CQM-A.json"
    path.write_text(path.read_text().replace('"gpt", "value": "C"', '"gpt", "value": "A"'))
    with pytest.raises(ValueError, match=r"record 3: question '7': the answer is 'A' here and 'C' in .*problems.json"):
        get("scienceqa").load(folder.root)
    records = json.loads(path.read_text())
    records[1]["conversations"].pop()
    path.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=r"record 2: question '6': expected a question and an answer in 'conversat"):
        get("scienceqa").load(folder.root)
    for turns in (["x", "y"], [{"from": "human", "value": "x"}, "y"]):
        records[1]["conversations"] = turns
        path.write_text(json.dumps(records))
        with pytest.raises(ValueError, match=r"record 2: question '6': expected a question and an answer in 'conv"):
            get("scienceqa").load(folder.root)
