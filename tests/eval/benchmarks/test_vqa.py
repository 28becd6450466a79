"""VQAv2, VizWiz and TextVQA."""

from __future__ import annotations

import pytest

from eval.benchmarks import get

SHORT = "\nAnswer the question using a single word or phrase."
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


# VQAv2 ----------------------------------------------------------------------------------------------------


def vqav2_val(folder):
    folder.json(
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        {
            "questions": [
                {"image_id": 42, "question": "Is it red?", "question_id": 42000},
                {"image_id": 42, "question": "How many?", "question_id": 42001},
                {"image_id": 7, "question": "What is it?", "question_id": 7000},
            ]
        },
    )
    people = {42000: ["yes"] * 10, 42001: ["2"] * 3 + ["3"] * 7, 7000: ["a dog"] * 9 + ["dog"]}
    kinds = {42000: "yes/no", 42001: "number", 7000: "other"}
    folder.json(
        "vqav2/v2_mscoco_val2014_annotations.json",
        {
            "annotations": [
                {
                    "question_id": id,
                    "image_id": 1,
                    "question_type": "x",
                    "answer_type": kinds[id],
                    "multiple_choice_answer": "x",
                    "answers": [
                        {"answer": text, "answer_confidence": "yes", "answer_id": n + 1} for n, text in enumerate(texts)
                    ],
                }
                for id, texts in reversed(people.items())
            ]
        },
    )


def vqav2_test(folder):
    folder.lines(
        "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        [
            {
                "question_id": id,
                "image": "COCO_test2015_000000000011.jpg",
                "text": "What?" + SHORT,
                "category": "default",
            }
            for id in (11000, 11001)
        ],
    )


def test_vqav2_val2014(folder, answered):
    vqav2_val(folder)
    samples = get("vqav2").load(folder.root)
    assert samples[0].text == "Is it red?" + SHORT
    assert samples[0].image == folder / "vqav2/val2014/COCO_val2014_000000000042.jpg"
    assert samples[0].group == samples[1].group
    assert samples[0].root == folder / "vqav2/val2014"
    assert get("vqav2").sizes(samples) == [("vqav2 val2014", 3, 214_354)]
    score = get("vqav2").score(answered(samples, {"42000": "yes", "42001": "two", "7000": "the dog"}), samples)
    assert score.name == "vqav2_val"  # never the name of the official number
    assert score.parts == pytest.approx({"number": 90, "other": 100, "yes/no": 100})
    assert score.value == pytest.approx(290 / 3)


def test_vqav2_test_dev_has_no_answers(folder, answered):
    vqav2_test(folder)
    samples = get("vqav2").load(folder.root)
    assert samples[0].id == 11000
    assert samples[0].image == folder / "vqav2/test2015/COCO_test2015_000000000011.jpg"
    with pytest.raises(
        ValueError,
        match=r"'11000' is not public; export the answers and upload them to EvalAI challenge 830, or score val2014 "
        r"\(split val2014\)$",
    ):
        get("vqav2").score(answered(samples, "x"), samples)
    vqav2_val(folder)
    assert len(get("vqav2").load(folder.root)) == 3  # where both are, the one that can be scored
    assert len(get("vqav2").load(folder.root, split="test-dev")) == 2
    with pytest.raises(ValueError, match="splits test-dev and val2014, not 'train'"):
        get("vqav2").load(folder.root, split="train")


def test_answers_to_another_split_stop(folder):
    vqav2_val(folder)
    samples = get("vqav2").load(folder.root)
    with pytest.raises(ValueError, match="vqav2: the answers hold question '11000', none of the data's 3 questions"):
        get("vqav2").score([{"question_id": 11000, "text": "x"}], samples)


def test_ten_answers_are_expected(folder):
    vqav2_val(folder)
    path = folder / "vqav2/v2_mscoco_val2014_annotations.json"
    path.write_text(
        path.read_text().replace('{"answer": "3", "answer_confidence": "yes", "answer_id": 10}', '"3", "3"')
    )
    with pytest.raises(ValueError, match=r"annotations.json, record 2: expected 10 human answers, found 11"):
        get("vqav2").load(folder.root)


# VizWiz ---------------------------------------------------------------------------------------------------


def vizwiz(folder):
    folder.lines(
        "vizwiz/llava_test.jsonl",
        [
            {
                "question_id": n,
                "image": f"VizWiz_test_{n:08d}.jpg",
                "text": "What?" + UNANSWERABLE + SHORT,
                "category": "default",
            }
            for n in range(2)
        ],
    )
    folder.json(
        "vizwiz/val.json",
        [
            {
                "image": "VizWiz_val_00000000.jpg",
                "question": "What flavour is this?",
                "answer_type": "other",
                "answerable": 1,
                "answers": [{"answer": "lime", "answer_confidence": "yes"}] * 10,
            },
            {
                "image": "VizWiz_val_00000001.jpg",
                "question": "Which?",
                "answer_type": "unanswerable",
                "answerable": 0,
                "answers": [{"answer": "unanswerable", "answer_confidence": "no"}] * 2
                + [{"answer": "blue", "answer_confidence": "yes"}] * 8,
            },
        ],
    )


def test_vizwiz(folder, answered):
    vizwiz(folder)
    samples = get("vizwiz").load(folder.root)  # val.json comes with the test download: alone it means nothing
    assert [sample.id for sample in samples] == [0, 1]
    assert samples[0].image == folder / "vizwiz/test/VizWiz_test_00000000.jpg"
    with pytest.raises(
        ValueError,
        match=r"not public; export the answers and upload them to EvalAI challenge 2185, or score val \(split val\)$",
    ):
        get("vizwiz").score([], samples)
    folder.picture("vizwiz/val/VizWiz_val_00000000.jpg")
    samples = get("vizwiz").load(folder.root)
    assert samples[0].text == "What flavour is this?" + UNANSWERABLE + SHORT
    assert samples == get("vizwiz").load(folder.root, split="val")
    assert samples[0].root == folder / "vizwiz/val"
    score = get("vizwiz").score(answered(samples, lambda s: "A Lime." if s is samples[0] else "Unanswerable"), samples)
    assert score.name == "vizwiz_val"
    assert score.value == pytest.approx(80)
    assert score.parts == pytest.approx({"other": 100, "unanswerable": 60, "said_unanswerable": 50})
    by_image = [{"image": sample.group, "answer": "lime"} for sample in samples]  # the form of an upload
    score = get("vizwiz").score(by_image, samples)
    assert (score.missing, score.parts["said_unanswerable"]) == (0, 0)
    named = [{"question_id": 5, **row} for row in by_image]  # whatever else numbers them
    assert get("vizwiz").score(named, samples) == score
    with pytest.raises(ValueError, match="splits test and val, not 'train'"):
        get("vizwiz").load(folder.root, split="train")


# TextVQA --------------------------------------------------------------------------------------------------


def textvqa(folder):
    questions = [
        ("0a1b", "What is the brand?", "ACME, COLA"),
        ("0a1b", "What Year is it?", ""),
        ("2c", "Who won?", "7"),
    ]
    folder.lines(
        "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        [
            {
                "question_id": image,
                "image": f"{image}.jpg",
                "category": "default",
                "text": f"{question}\nReference OCR token: {tokens}{SHORT}",
            }
            for image, question, tokens in questions
        ],
    )
    folder.json(
        "textvqa/TextVQA_0.5.1_val.json",
        {
            "dataset_type": "val",
            "data": [
                {
                    "question": question.upper(),
                    "image_id": image,
                    "question_id": 34600 + n,
                    "set_name": "val",
                    "answers": ["acme"] * 2 + ["1,000"] * 8,
                }
                for n, (image, question, _) in reversed(list(enumerate(questions)))
            ],
        },
    )
    return get("textvqa").load(folder.root)


def test_textvqa(folder, answered):
    samples = textvqa(folder)
    assert samples[0].image == folder / "textvqa/train_images/0a1b.jpg"
    assert (samples[0].group, samples[0].root) == ("0a1b.jpg", folder / "textvqa/train_images")
    assert [sample.key for sample in samples] == ["0a1b: what is the brand?", "0a1b: what year is it?", "2c: who won?"]
    rows = list(answered(samples, {samples[0].key: "1,000", samples[1].key: "ACME?", samples[2].key: "1000"}))
    assert rows[0]["question_id"] == rows[1]["question_id"] == "0a1b"
    score = get("textvqa").score(rows, samples)
    assert list(score.items.values()) == pytest.approx([1, 0.6, 1])
    assert score.info == {"normaliser": "m4c", "with_ocr": True}
    assert score.name == "textvqa"


def test_textvqa_files_must_agree(folder):
    textvqa(folder)
    path = folder / "textvqa/TextVQA_0.5.1_val.json"
    path.write_text(path.read_text().replace("WHO WON?", "WHO LOST?"))
    with pytest.raises(
        ValueError, match=r"ocr.jsonl, line 3: '2c: who won\?' is not in .*TextVQA_0.5.1_val.json; expected"
    ):
        get("textvqa").load(folder.root)
    path.write_text(path.read_text().replace("WHAT YEAR IS IT?", "WHAT IS THE BRAND?"))
    with pytest.raises(ValueError, match=r"val.json, record 3: asks '0a1b: what is the brand\?' a second time"):
        get("textvqa").load(folder.root)


def test_textvqa_without_ocr(folder, answered):
    textvqa(folder)
    samples = get("textvqa").load(folder.root, ocr=False)
    assert samples[1].text == "What Year is it?" + SHORT
    score = get("textvqa").score(answered(samples, "1000"), samples)
    assert score.value == 100
    assert score.info["with_ocr"] is False
    rows = [*answered(samples[:1], "x"), *answered(get("textvqa").load(folder.root)[1:], "x")]
    assert get("textvqa").score(rows, samples).info["with_ocr"] == "some"
    assert get("textvqa").score([], samples).info["with_ocr"] is None


@pytest.mark.parametrize(
    "prompt",
    [
        "Who won?\nReference OCR token: 7" + SHORT,
        "Reference OCR token: 7\nWho won?" + SHORT,
        "Who won?" + SHORT,
        "OCR tokens: 7. Question: Who won? Short answer:",
    ],
)
def test_textvqa_finds_the_question_in_a_prompt(folder, prompt):
    samples = textvqa(folder)
    score = get("textvqa").score([{"question_id": "2c", "prompt": prompt, "text": "1000"}], samples)
    assert score.items["2c: who won?"] == 1
    assert score.missing == 2


def test_textvqa_prompts_that_hold_no_question(folder):
    samples = textvqa(folder)
    with pytest.raises(ValueError, match=r"textvqa: the answer for '2c': expected a question, .* found 'Who\\nwon"):
        get("textvqa").score([{"question_id": "2c", "prompt": "Who\nwon?\nin\n4 lines", "text": "x"}], samples)
    with pytest.raises(ValueError, match="textvqa: the answer for '2c': expected a question"):
        get("textvqa").score(
            [{"question_id": "2c", "prompt": "Who won?\nx\nReference OCR token: 7", "text": "x"}], samples
        )
    with pytest.raises(ValueError, match="textvqa: the answer for '2c' has no prompt"):
        get("textvqa").score([{"question_id": "2c", "text": "x"}], samples)
    with pytest.raises(ValueError, match=r"question '2c: who lost\?', none of"):
        get("textvqa").score([{"question_id": "2c", "prompt": "Who lost?\n.", "text": "x"}], samples)
