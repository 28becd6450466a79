"""Whatever stands in a file or a reply, it is read or refused in a sentence: a ValueError, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debias import records as stored
from debias import trends
from eval import benchmarks
from eval.answering.store import Folder, numbered, torn
from eval.benchmarks.base import ten_answers
from eval.reading.read import Faults, listed, read_json, records, table, want
from eval.reading.sample import read_rows
from eval.scoring.box import find_box, iou, to_pixels
from eval.scoring.judge import TASKS, Cache, NoVerdict, Verdict, verdict_in
from eval.scoring.normalise import m4c, vqa_official_accuracy

quick = settings(max_examples=40)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["question_id", "id", "text", "answer", "pred", "image", "metadata", "key", "score", "kind"])
rows = st.dictionaries(fields | st.text(max_size=5), values, max_size=6)
contents = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(rows, max_size=5).map(lambda found: "\n".join(map(json.dumps, found)).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth),
    st.integers(1, 9_000).map(lambda digits: b'{"question_id": ' + b"9" * digits + b', "text": ""}'),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("parsed") / "file"


def read_or_refused(read):
    try:
        return read()
    except ValueError as error:
        assert str(error)  # noqa: PT017 - any message will do, any other exception will not
        return None


@pytest.mark.parametrize(
    "reader",
    [
        lambda path: list(records(path)),
        lambda path: list(listed(path)),
        lambda path: list(records(path, Faults(stop=False))),
        lambda path: list(table(path, ("index", "question"))),
        lambda path: list(table(path, ("index",), Faults(stop=False))),
        read_json,
        lambda path: list(read_rows(path)),
        lambda path: list(numbered(path)),
        trends.load,
        Cache,
    ],
    ids=["records", "listed", "records, all faults", "table", "table, all faults", "json", "answers", "shard", "trends",
         "verdicts"],
)  # fmt: skip
@quick
@given(content=contents)
def test_files(reader, path, content):
    path.write_bytes(content)
    stored._records.cache_clear()
    read_or_refused(lambda: reader(path))


@quick
@given(content=contents)
def test_what_is_read_can_be_written(path, content):
    """No half of a surrogate pair comes in, which would stop a run when its row is written."""
    path.write_bytes(content)
    for row in read_or_refused(lambda: list(read_rows(path))) or ():
        json.dumps(row, ensure_ascii=False).encode()


def test_half_of_a_surrogate_pair_is_refused(path):
    path.write_text('{"question_id": 1, "text": "\\ud83d"}\n')
    with pytest.raises(ValueError, match="line 1: expected Unicode text"):
        list(read_rows(path))
    path.write_text('{"question_id": 1, "text": "\\ud83d\\ude00"}\n')
    assert next(iter(read_rows(path)))["text"] == "😀"


@quick
@given(content=contents)
def test_run_json(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_bytes(content)
    read_or_refused(Folder(folder).info)


@quick
@given(st.lists(st.text(max_size=30) | st.sampled_from(["[[trend]]", "[trend.between]", "rate = 1", 'kind = "table"',
                                                        "values = [1, 0.5]", "rate = NaN", "method = 3"])))  # fmt: skip
def test_trends(lines):
    for record in read_or_refused(lambda: trends.parse("\n".join(lines), "x.toml")) or ():
        read_or_refused(lambda record=record: trends.make(record, "x.toml"))


@quick
@given(reply=st.text(max_size=80) | values.map(json.dumps)
       | st.fixed_dictionaries({"score": values, "pred": values}).map(json.dumps))  # fmt: skip
@pytest.mark.parametrize("task", list(TASKS))
def test_judges_replies(task, reply):
    try:
        verdict = verdict_in(TASKS[task], reply)
    except NoVerdict:
        return
    assert 0 <= verdict["score"] <= 5
    assert verdict.get("pred", "yes") in ("yes", "no")


@pytest.mark.parametrize("reply", ['{"score": {"score": 1}}', '{"a": {"score": 1}}', '{"score": 1e999}', '{"score": 1',
                                   "{" * 2_000, '{"a":' * 400])  # fmt: skip
def test_replies_that_are_no_verdict(reply):
    with pytest.raises(NoVerdict):
        verdict_in(TASKS["mmvet"], reply)


def test_verdicts_on_disk_are_read_again_as_strictly(tmp_path):
    lines = [{"key": "a", "value": {"score": 7}, "reply": "", "judge": "j"}, {"key": "b", "value": 3, "reply": ""}]
    (tmp_path / "c").write_text("".join(json.dumps(line) + "\n" for line in lines))
    from eval.scoring.judge import _readable

    found = Cache(tmp_path / "c").get("a")
    assert found is not None
    assert not _readable(TASKS["mmvet"], found)
    assert not _readable(TASKS["mmvet"], Verdict(None, "", "j"))  # a failure that an older version kept
    assert Cache(tmp_path / "c").get("b") is None


# What the fuzzer found; see SECURITY.md.
@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 50_000])
def test_a_trend_nested_too_deep(value):
    with pytest.raises(ValueError, match=r"x\.toml, line 2: expected"):
        trends.parse(f"[[trend]]\nvalues = {value}", "x.toml")


@pytest.mark.parametrize("record", [None, 3, "text", ["answer"], True])
def test_a_value_of_what_is_no_object(record):
    with pytest.raises(ValueError, match="expected an object with 'answer'"):
        want(record, "answer")
    with pytest.raises(ValueError, match="expected an object with 'answer'"):
        ten_answers({"answers": [record if not isinstance(record, str) else None] * 10})


def test_a_name_longer_than_a_files(world, tmp_path):
    home = benchmarks.get("mme").home(world)
    copy = shutil.copytree(home, tmp_path / "MME")
    question = json.loads((copy / "llava_mme.jsonl").read_text().splitlines()[0])
    question["question_id"] = f"{question['question_id'].partition('/')[0]}/{'9' * 5000}.png"
    (copy / "llava_mme.jsonl").write_text(json.dumps(question) + "\n")
    with pytest.raises(ValueError, match=r"llava_mme\.jsonl, line 1: "):
        benchmarks.get("mme").load(copy, media=False)


numbers = st.floats() | st.integers() | st.text(max_size=6)


@quick
@given(
    st.text(max_size=60)
    | st.lists(numbers, min_size=3, max_size=5).map(lambda box: "[" + ", ".join(map(str, box)) + "]")
)
def test_boxes(answer):
    box = find_box(answer)
    if box is not None:
        found = to_pixels(box, (640, 480), "square")
        assert 0 <= found[0] <= found[2] <= 640
        assert 0 <= found[1] <= found[3] <= 480
        assert 0 <= iou(found, (0, 0, 10, 10)) <= 1


@quick
@given(st.text(max_size=60), st.lists(st.text(max_size=20), min_size=10, max_size=10))
def test_answers_are_normalised_whatever_they_are(answer, humans):
    assert isinstance(m4c(answer), str)
    assert 0 <= vqa_official_accuracy(answer, humans) <= 1


@quick
@given(st.binary(max_size=60))
def test_no_row_of_ours_looks_torn(text):
    line = json.dumps({"text": text.decode("latin-1")}, ensure_ascii=False).encode() + b"\n"
    assert not torn(line)
    assert torn(line[:-1])
    assert torn(line[:3] + b"\0" * 4 + line[7:])
