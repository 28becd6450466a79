"""MM-Vet and the video benchmarks, with and without a judge."""

from __future__ import annotations

import pytest

from eval.benchmarks import get
from eval.benchmarks.judged import contained, contained_stems, exact, stem
from eval.benchmarks.video import CLIPS
from eval.scoring.judge import Verdict


class Scripted:
    """A judge that says what it is told to, by the answer it is shown."""

    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def grade(self, task, questions):
        self.asked += [(task, question.question, question.reference) for question in questions]
        return [Verdict(self.replies[question.prediction], "", "scripted") for question in questions]


# MM-Vet ---------------------------------------------------------------------------------------------------


def mmvet(folder):
    known = [("What is x?", "-1<AND>-5", ["ocr", "math"]), ("What is it?", "car<OR>automobile", ["rec"]),
             ("Who?", "Ann", ["rec", "ocr"])]  # fmt: skip
    folder.json(
        "mm-vet/mm-vet.json",
        {
            f"v1_{n}": {"imagename": f"v1_{n}.png", "question": q, "answer": a, "capability": c, "imagesource": "x"}
            for n, (q, a, c) in reversed(list(enumerate(known)))
        },
    )
    folder.lines(
        "mm-vet/llava-mm-vet.jsonl",
        [
            {"image": f"v1_{n}.png", "text": q, "category": "conv", "question_id": n}
            for n, (q, _, _) in enumerate(known)
        ],
    )
    return get("mmvet").load(folder.root)


def test_mmvet_offline(folder, answered):
    samples = mmvet(folder)
    assert samples[0].text == "What is x?"  # no instruction
    assert samples[0].image == folder / "mm-vet/images/v1_0.png"
    score = get("mmvet").score(answered(samples, {"0": "x is -5", "1": "An Automobile.", "2": "Bob"}), samples)
    assert (score.name, score.metric) == ("mmvet_em", "share of answers that hold the true one (offline)")
    assert list(score.items.values()) == [0.5, 1, 0]  # one of two elements; one of two alternatives; neither
    assert score.info == {}


def test_mmvet_with_a_judge(folder, answered):
    samples = mmvet(folder)
    judge = Scripted({"a": {"score": 0.5}, "b": {"score": 1.0}, "c": None})
    score = get("mmvet").score(answered(samples, {"0": "a", "1": "b", "2": "c"}), samples, judge)
    assert judge.asked[0] == ("mmvet", "What is x?", "-1<AND>-5")
    assert score.name == "mmvet"
    assert score.value == pytest.approx(75)  # what was not judged is no part of the score
    assert (score.n, score.missing, score.unparsed, score.unjudged) == (2, 0, 0, ("2",))
    assert "2" not in score.items
    assert score.info["judge"] == ["scripted"]
    assert score.parts == pytest.approx({
        "capability/math": 50, "capability/ocr": 50, "capability/rec": 100,
        "integration/math, ocr": 50, "integration/rec": 100})  # fmt: skip
    with pytest.raises(ValueError, match="none of 3 answers was judged"):
        get("mmvet").score(answered(samples, "c"), samples, Scripted({"c": None}))
    # A question without an answer counts, and costs no judgement.
    judge = Scripted({"b": {"score": 1.0}})
    score = get("mmvet").score(answered(samples, {"1": "b"}), samples, judge)
    assert (score.value, score.missing, len(judge.asked)) == (pytest.approx(100 / 3), 2, 1)
    with pytest.raises(ValueError, match="expected a grade from 0 to 1, found 7"):
        get("mmvet").score(answered(samples, "d"), samples, Scripted({"d": {"score": 7}}))


@pytest.mark.parametrize(("grade", "worth"), [(0, 0), (1, 100), (1.1, None), (-0.1, None)])
def test_mmvet_grades_lie_between_nothing_and_all(folder, answered, grade, worth):
    samples = mmvet(folder)
    rows, judge = answered(samples, "a"), Scripted({"a": {"score": grade}})
    if worth is None:
        with pytest.raises(ValueError, match=f"^mmvet: expected a grade from 0 to 1, found {grade}$"):
            get("mmvet").score(rows, samples, judge)
    else:
        assert get("mmvet").score(rows, samples, judge).value == worth


def test_mmvet_answers_may_be_named_as_its_own_file_names_them(folder):
    samples = mmvet(folder)
    assert get("mmvet").score([{"question_id": "v1_2", "text": "Ann"}], samples).items == {"0": 0, "1": 0, "2": 1}


def test_a_judge_that_loses_an_answer_is_no_judge(folder, answered):
    class Forgetful(Scripted):
        def grade(self, task, questions):
            return super().grade(task, questions)[1:]

    samples = mmvet(folder)
    with pytest.raises(ValueError, match="zip"):
        get("mmvet").score(answered(samples, "a"), samples, Forgetful({"a": {"score": 1}}))


def test_mmvet_files_must_agree(folder):
    mmvet(folder)
    folder.json("mm-vet/mm-vet.json", {"v1_1": {"answer": "x", "capability": []}})
    with pytest.raises(ValueError, match=r"mm-vet.json, v1_0: no such question, but llava-mm-vet.jsonl asks it"):
        get("mmvet").load(folder.root)


# Video ----------------------------------------------------------------------------------------------------


def video(folder, name="MSVD", where="videos"):
    home = f"GPT_Zero_Shot_QA/{name}_Zero_Shot_QA"
    asked = [
        ("abc_10_20", "who is running?", "boy", 3),
        ("abc_10_20", "what is it?", "slice", 1),
        ("x", "why?", "two", 1),
    ]
    folder.json(
        f"{home}/test_q.json",
        [{"video_name": v, "question_id": f"v_{v}_{n}", "question": q} for n, (v, q, _, _) in enumerate(asked)],
    )
    folder.json(
        f"{home}/test_a.json",
        [{"answer": a, "type": t, "question_id": f"v_{v}_{n}"} for n, (v, _, a, t) in enumerate(asked)][::-1],
    )
    folder.text(f"{home}/{where}/abc_10_20.avi", "x")
    return get(name.lower()).load(folder.root)


@pytest.mark.parametrize(("name", "where"), [("TGIF", "mp4"), ("MSVD", "videos"), ("MSRVTT", "videos/all")])
def test_video_layouts(folder, name, where):
    samples = video(folder, name, where)
    assert samples[0].video == folder / f"GPT_Zero_Shot_QA/{name}_Zero_Shot_QA/{where}/abc_10_20.avi"
    assert samples[0].text == "who is running?"
    assert samples[0].root == folder / f"GPT_Zero_Shot_QA/{name}_Zero_Shot_QA/{where}"
    assert samples[0].group == samples[1].group == "abc_10_20"
    assert [sample.target for sample in samples] == ["boy", "slice", "two"]
    benchmark = get(name.lower())
    assert (benchmark.media, benchmark.conversation, benchmark.max_new_tokens) == ("video", "llava_v1", 1024)
    faults = [str(fault) for fault in benchmark.check(folder.root)]
    assert sum("x.mp4" in fault and "'v_x_2'" in fault and "no such video" in fault for fault in faults) == 1, faults


def test_video_answers_of_video_llava_are_joined_by_id(folder):
    """Its own ground truth is that of another question, as in every chunk but the first: it is not looked at."""
    samples = video(folder)
    rows = [{"id": "v_x_2", "question": "why?", "answer": "boy", "pred": "Two."},
            {"id": "v_abc_10_20_0", "question": "who is running?", "answer": "two", "pred": "A boy runs"}]  # fmt: skip
    score = get("msvd").score(rows, samples)
    assert score.name == "msvd_em"
    assert score.items == {"v_abc_10_20_0": 1, "v_abc_10_20_1": 0, "v_x_2": 1}
    assert score.missing == 1
    assert score.parts["em/exact"] == pytest.approx(100 / 3)
    assert score.parts["em/contained"] == pytest.approx(200 / 3)
    assert score.parts["type/3"] == 100


def test_video_clips_are_looked_for_where_they_are_wanted_and_there(folder):
    video(folder)
    home = folder / "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"
    assert get("msvd").load(folder.root, media=False)[0].video == home / "videos/abc_10_20.mp4"
    (home / "videos").rename(home / "elsewhere")
    assert get("msvd").load(folder.root)[0].video == home / "videos/abc_10_20.mp4"


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg"])
def test_video_endings(folder, ending):
    video(folder)
    clip = folder / "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA/videos/abc_10_20.avi"
    clip.rename(clip.with_suffix(ending))
    found = get("msvd").load(folder.root)[0].video
    assert found == clip.with_suffix(".mp4" if ending in (".webm", ".mpg") else ending)
    assert (ending in CLIPS) == (ending != ".mpg")


def test_video_with_a_judge(folder, answered):
    samples = video(folder)
    judge = Scripted(
        {"a": {"pred": "yes", "score": 4.8}, "b": {"pred": "no", "score": 2}, "c": {"pred": "Yes", "score": 5}}
    )
    score = get("msvd").score(
        answered(samples, dict(zip([s.key for s in samples], "abc", strict=True))), samples, judge
    )
    assert judge.asked[0] == ("video", "who is running?", "boy")
    assert score.name == "msvd"
    assert score.value == pytest.approx(200 / 3)
    assert score.unparsed == 0
    assert set(score.parts) == {"em/exact", "em/contained", "em/contained_stems", "type/1", "type/3", "score"}
    assert score.parts["score"] == pytest.approx((4 + 2 + 5) / 3)  # 4.8 counts 4, as in the official script


@pytest.mark.parametrize(
    ("truth", "answer", "is_exact", "is_contained", "by_stem"),
    [
        ("boy", "boy", True, True, True), ("boy", "A Boy.", True, True, True), ("boy", "cowboy", False, False, False),
        ("slice", "She is slicing it", False, False, True), ("two", "2 of them", False, True, True),
        ("play guitar", "they play the guitar", False, True, True),
        ("guitar play", "play guitar", False, False, False),
        ("a", "a", True, True, True), ("a", "the", False, False, False), ("dogs", "dog", False, False, True),
        ("carry", "carries", False, False, True), ("run", "running", False, False, True),
        ("boy", "", False, False, False),
    ],
)  # fmt: skip
def test_matching_words(truth, answer, is_exact, is_contained, by_stem):
    assert exact(truth, answer) == is_exact
    assert contained(truth, answer) == is_contained
    assert contained_stems(truth, answer) == by_stem


def test_stems_meet():
    for words in (
        ["slice", "slices", "sliced", "slicing"],
        ["box", "boxes"],
        ["class", "classes"],
        ["stop", "stopped"],
    ):
        assert len({stem(word) for word in words}) == 1
    words = ["is", "egg", "eye", "cake", "proceeding", "class", "made", "added"]
    assert [stem(word) for word in words] == ["is", "egg", "eye", "cak", "proceed", "clas", "mad", "add"]
