from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from eval.benchmarks import NAMES, get
from eval.cli import main
from eval.commands.score import as_json, as_text, score_file


def vizwiz(folder, answers):
    folder.mkdir()
    people = [{"answer": "lime", "answer_confidence": "yes"}] * 10
    (folder / "val.json").write_text(
        json.dumps([{"image": f"{n}.jpg", "question": "What?", "answers": people} for n in range(2)])
    )
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps({"question_id": id, "prompt": "?", "text": text}) + "\n" for id, text in answers)
    )
    return folder


def test_an_answer_file_is_scored_without_pictures(tmp_path):
    home = vizwiz(tmp_path / "vizwiz", [("0.jpg", "Lime")])
    for data in (tmp_path, home):
        score = score_file("vizwiz", home / "answers.jsonl", data)
        assert (score.name, score.value, score.missing) == ("vizwiz_val", 50, 1)
    head, counts, *rest = as_text(score).split("\n")
    assert (head, rest[-1][:17]) == (
        "vizwiz_val  50.00  (VQA accuracy; 1 of 2 unanswered, which count as wrong)",
        "  size: vizwiz va",
    )
    assert counts == "  2 questions, 1 without an answer, 0 not understood"
    assert "judged" not in as_text(score)
    assert "vizwiz val has 2 questions, the official set 4,319" in as_text(score)
    whole = replace(score, missing=0, unjudged=("1.jpg",), info={})
    assert as_text(whole).split("\n")[:3] == [
        "vizwiz_val  50.00  (VQA accuracy)",
        "  2 questions, 0 without an answer, 0 not understood",
        "  answers not judged, and left out: 1",
    ]


def test_an_error_names_the_answer_file(tmp_path):
    home = vizwiz(tmp_path / "vizwiz", [("0.jpg", "Lime"), ("7.jpg", "Lime")])
    with pytest.raises(ValueError, match=r"answers.jsonl: vizwiz: the answers hold question '7.jpg'"):
        score_file("vizwiz", [home / "answers.jsonl"], tmp_path)


def test_an_error_names_the_one_file_of_several_that_is_broken(tmp_path):
    home = vizwiz(tmp_path / "vizwiz", [("0.jpg", "Lime")])
    broken = home / "more.jsonl"
    broken.write_text('{"question_id": "1.jpg"}\n')
    with pytest.raises(ValueError, match=f"^{re.escape(str(broken))}, line 1: expected an answer row with a 'text'"):
        score_file("vizwiz", [home / "answers.jsonl", broken], tmp_path)


def test_pictures_that_came_with_the_questions_are_left_aside(tmp_path):
    known = {"index": "7", "question": "What?", "A": "red", "B": "blue", "answer": "A", "image": "no picture"}
    (tmp_path / "mmbench_dev_20230712.tsv").write_text("\t".join(known) + "\n" + "\t".join(known.values()) + "\n")
    (tmp_path / "answers.jsonl").write_text('{"question_id": 7, "text": "A"}\n')
    score = score_file("mmbench", tmp_path / "answers.jsonl", tmp_path)
    assert score.value == 100
    assert score.info == {
        "size": "mmbench has 1 questions, the official set 4,377; "
        "mmbench without rotations has 1 questions, the official set 1,176"
    }


def test_the_command(tmp_path, capsys):
    home = vizwiz(tmp_path / "vizwiz", [("0.jpg", "Lime"), ("1.jpg", "lemon")])
    words = ["score", "vizwiz", "--answers", str(home / "answers.jsonl"), "--data", str(tmp_path)]
    assert main([*words, "--json", "--items", "--split", "val"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["value"] == 50
    assert found["items"] == {"0.jpg": 1.0, "1.jpg": 0.0}
    assert main([*words, "--json"]) == 0
    assert "items" not in json.loads(capsys.readouterr().out)
    assert main([*words, "--split", "test"]) == 1
    assert "llava_test.jsonl: no such file" in capsys.readouterr().err
    assert main([*words, "--frame", "square"]) == 1
    assert "vizwiz has no option 'frame'" in capsys.readouterr().err
    assert main(["score", "vizwitz", *words[2:]]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_benchmark(name, tmp_path):
    with pytest.raises(ValueError, match=rf"no files of {name.replace('+', '.')}; expected .* in {tmp_path}"):
        get(name).load(tmp_path)
    faults = get(name).check(tmp_path)
    assert len(faults) == 1
    assert "no files of" in str(faults[0])


def test_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown benchmark 'textvq' \(did you mean textvqa\?\)"):
        get("textvq")
    with pytest.raises(ValueError, match="unknown benchmark 'zzz'; known: vqav2, gqa"):
        get("zzz")
    assert [get(name).name for name in NAMES] == list(NAMES)


# As LLaVA's and Video-LLaVA's scripts ask them: questions of the official set, longest answer, conversation.
OFFICIAL = {
    "vqav2": (107_394, 128, "vicuna_v1"),
    "gqa": (12_578, 128, "vicuna_v1"),
    "vizwiz": (8_000, 128, "vicuna_v1"),
    "scienceqa": (2_017, 1024, "vicuna_v1"),
    "textvqa": (5_000, 128, "vicuna_v1"),
    "pope": (8_910, 128, "vicuna_v1"),
    "mme": (2_374, 128, "vicuna_v1"),
    "mmbench": (4_377, 1024, "vicuna_v1"),
    "mmbench_cn": (4_329, 1024, "vicuna_v1"),
    "mmvet": (218, 1024, "vicuna_v1"),
    "tgif": (25_751, 1024, "llava_v1"),
    "msvd": (13_157, 1024, "llava_v1"),
    "msrvtt": (72_821, 1024, "llava_v1"),
    "refcoco": (21_586, 100, "vicuna_v1"),
    "refcoco+": (21_373, 100, "vicuna_v1"),
    "refcocog": (14_498, 100, "vicuna_v1"),
}


@pytest.mark.parametrize("name", NAMES)
def test_how_it_is_asked(name):
    benchmark = get(name)
    assert benchmark.name == name
    assert (benchmark.expected_n, benchmark.max_new_tokens, benchmark.conversation) == OFFICIAL[name]
    assert benchmark.media == ("video" if benchmark.conversation == "llava_v1" else "image")


def test_what_the_numbers_are_called():
    """Words that stand beside a number in every table."""
    assert {name: get(name).metric for name in NAMES} == {
        "vqav2": "VQA accuracy",
        "gqa": "accuracy",
        "vizwiz": "VQA accuracy",
        "scienceqa": "accuracy on questions with a picture",
        "textvqa": "VQA accuracy (M4C)",
        "pope": "mean F1 of the three categories",
        "mme": "perception, the sum of accuracy and accuracy+ over its ten categories (at most 2000)",
        "mmbench": "circular accuracy",
        "mmbench_cn": "circular accuracy",
        "mmvet": "mean grade of a language model",
        **dict.fromkeys(("tgif", "msvd", "msrvtt"), "accuracy, yes / (yes + no) of a language model"),
        **dict.fromkeys(("refcoco", "refcoco+", "refcocog"), "accuracy at IoU >= 0.5, mean of the splits"),
    }


def test_the_folders_that_users_have():
    """LLaVA's and Video-LLaVA's layouts of playground/data/eval, and what people call them."""
    assert {name: get(name).folders for name in NAMES} == {
        **{name: (name,) for name in ("vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mmbench")},
        "mme": ("MME", "mme"),
        "mmbench_cn": ("mmbench_cn", "mmbench"),
        "mmvet": ("mm-vet", "mmvet"),
        **{
            name: (f"GPT_Zero_Shot_QA/{name.upper()}_Zero_Shot_QA", f"{name.upper()}_Zero_Shot_QA")
            for name in ("tgif", "msvd", "msrvtt")
        },
        **dict.fromkeys(("refcoco", "refcoco+", "refcocog"), ("refcoco", "data/refcoco")),
    }


def test_items_are_left_out_unless_they_are_asked_for(tmp_path):
    home = vizwiz(tmp_path / "vizwiz", [("0.jpg", "Lime")])
    score = score_file("vizwiz", home / "answers.jsonl", home)
    assert set(as_json(score, True)) - set(as_json(score)) == {"items", "groups"}
