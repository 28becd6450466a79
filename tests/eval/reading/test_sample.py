from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.reading.read import Fault
from eval.reading.sample import Sample, Score, make_row, read_rows, row_id, row_text
from eval.scoring.judge import TASKS, Answered, Verdict


def test_a_sample_has_a_key_and_a_group():
    assert Sample(7, "?").key == "7"
    assert Sample(7, "?").group == "7"
    assert Sample(7, "?", key="a", group="b").but(target="x") == Sample(7, "?", key="a", group="b", target="x")


@pytest.mark.parametrize(
    "value",
    [
        Sample(1, "?"),
        Score("pope", 1.0, "", {}, {}, {}, 0, 0, 0),
        Fault("here", "bad"),
        Answered("?", "a", "b"),
        Verdict(None, "", ""),
        TASKS["mmvet"],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_do_not_change(value):
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)


def test_a_sample_that_says_little():
    sample = Sample(7, "?")
    assert (sample.group, sample.category, sample.meta, sample.key) == ("7", "", {}, "7")
    assert Score("pope", 1.0, "", {}, {}, {}, 0, 0, 0).info == {}


def test_a_row_is_llavas_answer_record():
    sample = Sample(7, "What?", key="k", meta={"row": {"round_id": 0}, "prompt": "<image>\nWhat?"})
    row = make_row(sample, "red", "m", {"arm": "none", "benchmark": "pope"})
    assert list(row) == ["question_id", "prompt", "text", "answer_id", "model_id", "round_id", "metadata"]
    assert row["prompt"] == "<image>\nWhat?"
    assert row["metadata"] == {"key": "k", "arm": "none", "benchmark": "pope"}
    assert row == make_row(sample, "red", "m", {"arm": "none", "benchmark": "pope"})
    ids = [make_row(sample, "red", "m", {"arm": "none", "benchmark": "pope", **other})["answer_id"]
           for other in ({}, {"arm": "both"}, {"benchmark": "gqa"}, {"run": "r"})]  # fmt: skip
    assert len(set(ids)) == 4
    assert {len(id) for id in ids} == {22}


@pytest.mark.parametrize(
    ("row", "id", "text"),
    [
        ({"question_id": 7, "prompt": "?", "text": "a", "answer_id": "x"}, "7", "a"),
        ({"question_id": "7", "text": "a"}, "7", "a"),
        ({"question_id": 7.0, "text": "a"}, "7", "a"),
        ({"questionId": "201", "prediction": "a"}, "201", "a"),
        ({"id": "v_1", "question": "?", "answer": "truth", "pred": "a"}, "v_1", "a"),
        ({"question_id": 7, "answer": "a"}, "7", "a"),
        ({"image": "x.jpg", "answer": "a"}, "x.jpg", "a"),
    ],
)
def test_rows_that_other_scripts_write(row, id, text):
    assert (row_id(row), row_text(row)) == (id, text)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "expected an answer row with a question_id .*, found 'text'"),
        ({"text": "a", "model": "b"}, "expected an answer row with a question_id .*, found 'text', 'model'$"),
        ({"question_id": True, "text": "a"}, "expected an answer row with a question_id"),
        ({"question_id": 1}, "expected an answer row with a 'text', found 'question_id'"),
        ({"question_id": 1, "text": None}, "expected a string in 'text', found None"),
        ({}, "expected an answer row .*, found an empty record"),
    ],
)
def test_rows_that_are_none(tmp_path, row, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"question_id": 0, "text": "x"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"answers.jsonl, line 2: {message}"):
        list(read_rows(path))


def test_answer_files_in_every_form(tmp_path):
    rows = [{"question_id": n, "text": f"t{n}"} for n in range(3)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    listed = tmp_path / "b.json"
    listed.write_text(json.dumps(rows, indent=1))
    by_id = tmp_path / "c.json"
    by_id.write_text(json.dumps({str(row["question_id"]): row["text"] for row in rows}, indent=2))
    assert list(read_rows(lines)) == list(read_rows(listed)) == rows
    assert [(row_id(row), row_text(row)) for row in read_rows(by_id)] == [("0", "t0"), ("1", "t1"), ("2", "t2")]
    assert len(list(read_rows([lines, by_id]))) == 6
    by_id.write_text('{"0": "t0",\n"1": "t1"}')
    assert [(row_id(row), row_text(row)) for row in read_rows(by_id)] == [("0", "t0"), ("1", "t1")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected one JSON record per line, found an empty file"),
        (b'{"question_id": 1, "text": "a"}\n{"question_id": 2, "te', r"line 2: expected JSON \(Unterminated"),
        (b"[1]", "record 1: expected a JSON object, found a whole number"),
        (b"[]", "expected a list of records, found an empty list"),
        (b'"x"', "line 1: expected a JSON object, found a string"),
        (b'{"question_id": 1, "text": "\xff"}', "expected UTF-8 text"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_answer_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"answers.jsonl.*{message}"):
        list(read_rows(path))


def test_no_answer_file(tmp_path):
    with pytest.raises(ValueError, match=r"none.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="expected a regular file, found a folder"):
        list(read_rows(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=4), st.binary(max_size=30))
def test_any_file_gives_rows_or_a_message(tmp_path_factory, values, junk):
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    path.write_bytes("\n".join(json.dumps(value) for value in values).encode() + junk)
    message = ""
    try:
        rows = list(read_rows(path))
        message = str(path) if all(isinstance(row_text(row), str) for row in rows) else "a row without a text"
    except ValueError as error:
        message = str(error)
    assert str(path) in message
