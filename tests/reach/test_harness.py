"""The pruned model behind both harnesses: its settings, its questions, its answers."""

import json

import pytest
from PIL import Image

from eval.answering.store import decode
from eval.harnesses.pruned import Answer, Pruned, Rows, as_flag, decoding

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def pruned():
    return Pruned.from_text(method="fastv", keep=36, arm="padding", device="cpu")


def asked(pruned, photos, question=QUESTION):
    return [pruned.request([("image", str(photo)), ("text", question)]) for photo in photos]


def test_it_answers_as_the_library_does(pruned, photos, answers):
    texts, kept = answers(QUESTION)
    found = pruned(asked(pruned, photos), 5)
    assert [answer.text for answer in found] == texts
    assert [sorted(decode(answer.kept[0]["kept"][0])) for answer in found] == kept
    assert all(answer.kept[0]["counts"]["after"] == [36] for answer in found)


def test_the_unpruned_arm_prunes_nothing(photos):
    whole = Pruned.from_text(method="fastv", arm="unpruned", device="cpu")
    assert whole.debias is None
    assert whole(asked(whole, photos[:1]), 5)[0].kept == []


def test_the_arms_differ_in_what_they_keep(pruned, photos):
    biased = Pruned.from_text(method="fastv", keep=36, arm="none", device="cpu")
    a, b = pruned(asked(pruned, photos), 1), biased(asked(biased, photos), 1)
    assert [one.kept[0]["kept"] for one in a] != [one.kept[0]["kept"] for one in b]


def test_an_arm_is_chosen_for_the_method():
    assert Pruned.from_text(method="fastv", device="cpu").arm == "both"
    assert Pruned.from_text(method="vispruner", device="cpu").arm == "padding"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "fastw"}, "did you mean fastv"),
        ({"kep": 3}, "did you mean keep"),
        ({"layers": "2-3"}, "layers"),  # PyramidDrop's
        ({"arm": "debiased"}, "none, trend, padding, both"),
        ({"pretrained": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        Pruned.from_text(**{"method": "fastv", "device": "cpu", **settings})


def test_settings_of_several_numbers():
    found = Pruned.from_text(method="pyramiddrop", layers="1-2-3", keep=0.5, device="cpu", arm="none").chosen.pruner
    assert found.layers == (1, 2, 3)
    assert found.keep == 0.5
    assert as_flag("silence_pool", False) == ["--no-silence-pool"]
    assert as_flag("keeps", [8, 4]) == ["--keeps", "8", "4"]


def test_media_in_front_are_left_to_the_family_and_others_stay_in_place(pruned, photos):
    picture = Image.open(photos[0])
    front = pruned.request([("image", picture), ("text", QUESTION)])
    assert (front.text, len(front.images), front.video) == (QUESTION, 1, None)
    between = pruned.request([("text", "Is "), ("image", picture), ("text", " like "), ("image", photos[1])])
    assert between.text == "Is <image> like <image>"
    assert len(pruned([front, between], 1)) == 2
    clip = pruned.request([("video", [picture, picture]), ("text", QUESTION)])
    assert len(clip.video) == 2


def test_parts_that_make_no_question_are_refused(pruned):
    with pytest.raises(ValueError, match="audio"):
        pruned.request([("audio", "a.wav"), ("text", QUESTION)])
    with pytest.raises(ValueError, match="2 clips"):
        pruned.request([("video", []), ("video", [])])
    with pytest.raises(ValueError, match="no such file"):
        pruned.request([("image", "not/there.png")])
    with pytest.raises(ValueError, match="expected a picture or its path, found dict"):
        pruned.request([("image", {})])


def test_what_is_asked_of_generation():
    assert decoding({}) == {"max_new_tokens": 1024}
    assert decoding({"max_new_tokens": 16, "temperature": 0, "top_p": 0.9, "num_beams": 1}) == {"max_new_tokens": 16}
    assert decoding({"temperature": 0.2, "top_p": None}) == {"max_new_tokens": 1024, "temperature": 0.2}
    assert decoding({"num_beams": 3})["num_beams"] == 3


def test_beams_and_sampling_run(pruned, photos):
    one = asked(pruned, photos[:1])
    assert len(pruned(one, 3, num_beams=2)) == 1
    assert len(pruned(one, 3, temperature=0.7, top_p=0.9)) == 1


def test_a_batch_that_is_too_big_is_halved(pruned, photos, monkeypatch):
    import torch

    texts = [answer.text for answer in pruned(asked(pruned, photos * 2), 5)]
    real, sizes = pruned._generate, []

    def small(requests, config):
        sizes.append(len(requests))
        if len(requests) > 1:
            raise torch.OutOfMemoryError
        return real(requests, config)

    monkeypatch.setattr(pruned, "_generate", small)
    assert [answer.text for answer in pruned(asked(pruned, photos * 2), 5)] == texts
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_nan_is_no_answer(photos):
    import torch

    broken = Pruned.from_text(method="fastv", keep=36, arm="none", device="cpu")
    broken.model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        broken(asked(broken, photos[:1]), 2)


def test_rows_are_json_lines(tmp_path, monkeypatch):
    rows = Rows(tmp_path / "new" / "rows.jsonl")
    rows.add(Answer("red", [{"kept": ["0-3"]}]), doc_id=7)
    rows.add(Answer("blå", []), doc_id=8)
    lines = [json.loads(line) for line in rows.path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"doc_id": 7, "text": "red", "pictures": [{"kept": ["0-3"]}]},
        {"doc_id": 8, "text": "blå", "pictures": []},
    ]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Rows(tmp_path / "rows.jsonl").path.name == "rows.1.jsonl"
