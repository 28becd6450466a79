from __future__ import annotations

import random

import pytest

from eval.benchmarks import get, mme

SHORT = "\nAnswer the question using a single word or phrase."


def mme_files(folder, nested=""):
    """One category of each of the two shapes, and one of cognition."""
    records = []
    base = f"MME/MME_Benchmark_release_version/{nested}"
    for category, pictures, texts in (
        ("count", "count/", "count/"),
        ("artwork", "artwork/images/", "artwork/questions_answers_YN/"),
        ("code_reasoning", "code_reasoning/", "code_reasoning/"),
    ):
        for number in range(2):
            name = f"{number:012d}.jpg"
            lines = []
            for question, truth in ((f"Are there {number} cats?", "Yes"), ("Are there  nine?", "No")):
                lines.append(f"{question} Please answer yes or no.\t{truth}\n")
                records.append(
                    {
                        "question_id": pictures + name,
                        "image": pictures + name,
                        "text": question + SHORT,
                        "category": category,
                    }
                )
            folder.text(f"{base}{texts}{number:012d}.txt", "".join(lines))
            folder.picture(f"{base}{pictures}{name}")
    folder.lines("MME/llava_mme.jsonl", records)
    return get("mme").load(folder.root)


def right(sample):
    return sample.target.title()


@pytest.mark.parametrize("nested", ["", "MME_Benchmark/"])
def test_mme_in_both_shapes(folder, answered, nested):
    samples = mme_files(folder, nested)
    assert len(samples) == 12
    assert samples[4].id == "artwork/images/000000000000.jpg"
    assert [sample.target for sample in samples[:2]] == ["yes", "no"]
    assert len({sample.key for sample in samples}) == 12
    assert len({sample.group for sample in samples}) == 6
    assert samples[0].root == folder / "MME/MME_Benchmark_release_version" / nested
    score = get("mme").score(answered(samples, right), samples)
    assert score.value == score.parts["perception"] == 400
    assert score.parts["cognition"] == 200
    assert score.parts["total"] == 600
    assert set(score.parts) == {"perception", "cognition", "total", "count", "artwork", "code_reasoning"}
    assert not [fault for fault in get("mme").check(folder.root) if not fault.warning]


def test_mme_accuracy_and_accuracy_plus_by_hand(folder, answered):
    samples = mme_files(folder)
    # Always yes: half of the questions, no picture wholly: 50 + 0 in each category.
    score = get("mme").score(answered(samples, "yes"), samples)
    assert score.parts["count"] == 50
    assert score.value == 100
    # One wrong answer in count: 3 of 4 questions and 1 of 2 pictures.
    score = get("mme").score(answered(samples, lambda s: "Yes" if s is samples[1] else right(s)), samples)
    assert score.parts["count"] == 75 + 50
    # One missing answer counts the same.
    rows = [row for row, sample in zip(answered(samples, right), samples, strict=True) if sample is not samples[1]]
    score = get("mme").score(rows, samples)
    assert score.parts["count"] == 75 + 50
    assert score.missing == 1
    random.Random(1).shuffle(rows)
    assert get("mme").score(rows, samples) == score


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Yes", "yes"),
        ("NO", "no"),
        ("Yes, it is", "yes"),
        ("no.", "no"),
        ("know", "no"),
        (" yes", "yes"),
        ("eyes", "yes"),
        ("I say yes", None),
        ("", None),
        ("maybe", None),
        ("\nno\n", "no"),
        ("not", "no"),
        ("noyes", "no"),
        ("o yes", None),
    ],
)
def test_mme_parser(answer, word):
    assert mme.parsed(answer) == word


def test_mme_answers_with_tabs_and_lines_shift_nothing(folder, answered):
    samples = mme_files(folder)
    score = get("mme").score(answered(samples, lambda s: f"{right(s)}\tor\nnot"), samples)
    assert score.value == 400


def test_mme_faults(folder):
    samples = mme_files(folder)
    with pytest.raises(ValueError, match=r"the answer for 'count/000000000000.jpg' has no prompt"):
        get("mme").score([{"question_id": samples[0].id, "text": "yes"}], samples)
    folder.text(
        "MME/MME_Benchmark_release_version/count/000000000001.txt", "Are there 1 cats? Please answer yes or no."
    )
    with pytest.raises(ValueError, match=r"count/000000000001.txt, line 1: expected a question, a tab, and Yes or No"):
        get("mme").load(folder.root)
    folder.text("MME/MME_Benchmark_release_version/count/000000000001.txt", "Are there 1 cats?\tMaybe")
    with pytest.raises(ValueError, match=r"000000000001.txt, line 1: expected a question, a tab, and Yes or No"):
        get("mme").load(folder.root)
    folder.text("MME/MME_Benchmark_release_version/count/000000000001.txt", "Other?\tYes\nElse?\tNo")
    with pytest.raises(ValueError, match=r"llava_mme.jsonl, line 3: 'Are there 1 cats\?' is not in"):
        get("mme").load(folder.root)
    folder.lines("MME/llava_mme.jsonl", [{"question_id": "cats/1.jpg", "image": "1.jpg", "text": "x"}])
    with pytest.raises(
        ValueError, match=r"expected a question_id that begins with a category of MME, found 'cats/1.jpg'"
    ):
        get("mme").load(folder.root)


PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


def test_mme_has_fourteen_categories_of_two_hundred_points(folder, answered):
    records = []
    for category in PERCEPTION + COGNITION:
        folder.text(f"MME/MME_Benchmark_release_version/{category}/1.txt", "Is it?\tYes\nIs it not?\tNo\n")
        records += [
            {"question_id": f"{category}/1.png", "image": f"{category}/1.png", "text": question + SHORT}
            for question in ("Is it?", "Is it not?")
        ]
    folder.lines("MME/llava_mme.jsonl", records)
    samples = get("mme").load(folder.root)
    score = get("mme").score(answered(samples, right), samples)
    assert score.value == 2000
    assert score.parts == {
        **{"perception": 2000, "cognition": 800, "total": 2800},
        **dict.fromkeys(PERCEPTION + COGNITION, 200),
    }
