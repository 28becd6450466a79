from __future__ import annotations

import random

import pytest

from eval.benchmarks import get
from eval.benchmarks.pope import asked, parsed

SUFFIX = "\nAnswer the question using a single word or phrase."
STARTS = {"adversarial": 1, "random": 10000001, "popular": 20000001}


def write(folder, per_category=6, wording="Is there a {} in the image?", extra=0):
    """Questions as LLaVA numbers them, labels as POPE does: from 1 in every file, and here in another order."""
    questions = []
    for category in ("adversarial", "popular", "random"):
        labels = []
        for number in range(per_category):
            name = f"COCO_val2014_{number // 2:012d}.jpg"
            thing = f"{category} thing {number}"
            questions.append({"question_id": STARTS[category] + number, "image": name, "category": category,
                              "text": wording.format(thing) + SUFFIX})  # fmt: skip
            labels.append({"question_id": number + 1, "image": name, "text": wording.format(thing),
                           "label": "yes" if number % 2 == 0 else "no"})  # fmt: skip
        for number in range(extra if category == "random" else 0):
            labels.append(
                {"question_id": 9, "image": "z", "text": f"Is there a z{number} in the image?", "label": "no"}
            )
        folder.lines(f"pope/coco/coco_pope_{category}.json", labels[::-1])
    folder.lines("pope/llava_pope_test.jsonl", questions)
    return folder


def right(sample):
    return {"yes": "Yes", "no": "No"}[sample.target]


def test_labels_are_joined_not_zipped(folder, answered):
    samples = get("pope").load(write(folder).root)
    assert len(samples) == 18
    assert samples[0].id == 1
    assert samples[0].target == "yes"
    assert samples[0].text == "Is there a adversarial thing 0 in the image?" + SUFFIX
    assert samples[0].group == "COCO_val2014_000000000000.jpg"
    assert samples[0].root == folder / "pope/val2014"
    score = get("pope").score(answered(samples, right), samples)
    assert score.value == 100
    assert score.n == 18
    assert score.missing == score.unparsed == 0
    assert score.parts["random/yes_ratio"] == 50
    assert set(score.items.values()) == {1.0}


def test_its_own_folder_is_a_data_root_too(folder):
    write(folder)
    assert len(get("pope").load(folder / "pope")) == 18


def test_f1_by_hand(folder, answered):
    samples = get("pope").load(write(folder).root)
    # Always yes: precision 1/2, recall 1, F1 2/3 in all three categories.
    score = get("pope").score(answered(samples, "Yes, there is"), samples)
    assert score.value == pytest.approx(200 / 3)
    assert score.parts["popular/precision"] == 50
    assert score.parts["popular/recall"] == 100
    assert score.parts["popular/accuracy"] == 50
    assert score.parts["popular/yes_ratio"] == 100
    # Always no: nothing predicted positive is F1 0, not a division by zero.
    assert get("pope").score(answered(samples, "no"), samples).value == 0
    # Two categories perfect, one always no: the mean of the three F1, not a pooled F1.
    score = get("pope").score(answered(samples, lambda s: "no" if s.category == "random" else right(s)), samples)
    assert score.value == pytest.approx(200 / 3)


def test_missing_answers_are_wrong_and_counted(folder, answered):
    samples = get("pope").load(write(folder).root)
    rows = list(answered(samples, right))[:-2]
    score = get("pope").score(rows, samples)
    assert score.missing == 2
    assert score.n == 18
    assert sum(score.items.values()) == 16
    # One positive missed and one negative taken for positive: F1 = 2*2 / (2*2 + 2).
    assert score.parts["random/f1"] == pytest.approx(100 * 4 / 6)


def test_order_of_rows_does_not_matter(folder, answered):
    samples = get("pope").load(write(folder).root)
    rows = list(answered(samples, lambda s: "no" if s.id % 3 else "yes"))
    shuffled = random.Random(0).sample(rows, len(rows))
    assert get("pope").score(rows, samples) == get("pope").score(shuffled, samples)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("No", "no"), ("no", "no"), ("No, there is", "no"), ("There is not. Yes", "no"), ("Yes. No", "yes"),
        ("", "yes"), ("NO", "yes"), ("Nope", "yes"), ("no\nreally", "yes"), ("no,", "no"), ("not", "no"),
        ("Not", "yes"), ("I see no dog", "no"), ("no.", "no"), ("There isn't", "yes"),
    ],
)  # fmt: skip
def test_the_parser(answer, expected):
    assert parsed(answer) == expected


def test_answers_without_either_word_are_counted(folder, answered):
    samples = get("pope").load(write(folder).root)
    score = get("pope").score(answered(samples, ""), samples)
    assert score.unparsed == 18
    assert score.value == pytest.approx(200 / 3)  # the official parser takes them for yes


def test_the_old_spelling_joins_with_the_new(folder):
    assert asked("Is there a dog in the imange?") == asked("Is there a dog in the image?") == "dog"
    assert asked("Is there an  Apple pie in the image ?") == "apple pie"
    assert asked("Is this an imange?\nSay so.") == asked("is this an image?\nNo.\nMore") == "is this an image?"
    samples = get("pope").load(write(folder, wording="Is there a {} in the imange?").root)
    assert samples[0].text.startswith("Is there a adversarial thing 0 in the imange?")


def test_newer_labels_are_refused(folder):
    write(folder, extra=90)
    with pytest.raises(
        ValueError,
        match=r"pope/coco/coco_pope_random.json: 90 labels belong to no question.*; "
        r"expected the labels of POPE commit e3e39262, which LLaVA's questions were made from \(random: 2,910\)$",
    ):
        get("pope").load(folder.root)


def test_a_question_without_a_label(folder):
    write(folder)
    folder.lines("pope/coco/coco_pope_popular.json", [
        {"question_id": 1, "image": "other.jpg", "text": "Is there a cat in the image?", "label": "no"}])  # fmt: skip
    with pytest.raises(ValueError, match=r"llava_pope_test.jsonl, line 7: question 20000001 .* has no label"):
        get("pope").load(folder.root)


def test_an_answer_to_another_question(folder, answered):
    samples = get("pope").load(write(folder).root)
    rows = [*answered(samples, "yes"), {"question_id": 42, "prompt": "?", "text": "yes"}]
    with pytest.raises(ValueError, match=r"question '42', none of the data's 18 questions"):
        get("pope").score(rows, samples)
    with pytest.raises(ValueError, match="question '1' is answered twice"):
        get("pope").score([*rows[:-1], rows[0]], samples)


def test_check_reports_every_fault(folder):
    write(folder)
    path = folder / "pope/llava_pope_test.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:-4]
    lines[3] = lines[3].replace('"image"', '"picture"')
    lines[5] = lines[4]
    path.write_text("\n".join(lines))
    for number in range(2):
        folder.picture(f"pope/val2014/COCO_val2014_{number:012d}.jpg")
    found = [str(fault) for fault in get("pope").check(folder.root)]
    assert sum("line 3: expected JSON" in fault for fault in found) == 1
    assert sum("line 4: expected 'image' (a string)" in fault for fault in found) == 1
    assert sum("asks question '5' twice" in fault for fault in found) == 1
    assert sum("000000000002.jpg" in fault and "no such file" in fault for fault in found) == 1
    assert sum("official set 8,910" in fault for fault in found) == 1
