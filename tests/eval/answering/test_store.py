"""The run folder: what a crash may leave, what is repaired, what is refused."""

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answering.store import Folder, decode, encode, numbered


def row(key, text="yes", run="r1", arm="none"):
    return {"question_id": key, "text": text, "metadata": {"key": key, "arm": arm, "run": run}}


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "run").claim({"limit": 1}, "r1")
    made.note("pope", {"n": 3, "digest": "d", "debias": {"none": "Debias()"}}, {"data": "/x"})
    yield made
    made.close()


@given(st.sets(st.integers(0, 2000)))
def test_ranges_go_there_and_back(indices):
    assert decode(encode(sorted(indices))) == sorted(indices)


def test_ranges_are_short():
    assert encode([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert encode([]) == ""


def test_rows_come_back_in_the_asked_order(folder):
    for rank, keys in enumerate((["c", "a"], ["b"])):
        shard = folder.shard("pope", "none", rank)
        for key in keys:
            shard.append(row(key))
        shard.close()
    assert [r["metadata"]["key"] for r in folder.rows("pope", "none", ["a", "b", "c"])] == ["a", "b", "c"]


@pytest.mark.parametrize("torn", [b'{"question_id": "b", "te', b"{", '{"text": "日'.encode()[:-1]])
def test_a_torn_last_line_is_repaired(folder, torn):
    shard = folder.shard("pope", "none")
    shard.append(row("a"))
    shard.close()
    path = folder.path / "pope" / "none.0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [r["metadata"]["key"] for r in folder.rows("pope", "none")] == ["a"]  # readers leave it out
    shard = folder.shard("pope", "none")  # the owner cuts it off
    shard.append(row("b"))
    shard.close()
    assert path.read_bytes().startswith(whole)
    assert [r["metadata"]["key"] for _, r in numbered(path)] == ["a", "b"]


@pytest.mark.parametrize("line", ["nonsense", '{"text": 3, "metadata": {"key": "b"}}', '{"text": "b"}', "[]", ""])
def test_any_other_broken_line_names_file_and_line(folder, line):
    path = folder.path / "pope" / "none.0.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(row("a")) + "\n" + line + "\n" + json.dumps(row("c")) + "\n")
    with pytest.raises(ValueError, match=r"none\.0\.jsonl, line 2: not a row of a run"):
        folder.rows("pope", "none")


def test_rows_of_another_run_are_refused(folder):
    shard = folder.shard("pope", "none")
    shard.append(row("a", run="r2"))
    shard.close()
    with pytest.raises(ValueError, match="line 1: a row of run r2 in a folder of run r1"):
        folder.rows("pope", "none")


def test_two_different_answers_to_one_question_are_refused(folder):
    for rank, text in enumerate(("yes", "no")):
        shard = folder.shard("pope", "none", rank)
        shard.append(row("a", text))
        shard.close()
    with pytest.raises(ValueError, match="a second, different answer to 'a'"):
        folder.rows("pope", "none")


def test_equal_rows_in_two_shards_are_one(folder):
    for rank in range(2):
        shard = folder.shard("pope", "none", rank)
        shard.append(row("a"))
        shard.close()
    assert len(folder.rows("pope", "none")) == 1


def test_other_settings_are_refused_and_named(folder):
    folder.close()
    with pytest.raises(ValueError, match=r"holds a run of other settings \(limit: 1 there, 2 here"):
        Folder(folder.path).claim({"limit": 2}, "r2")
    assert json.loads((folder.path / "run.json").read_text())["run"] == "r1"


def test_other_questions_are_refused(folder):
    with pytest.raises(ValueError, match=r"pope is not what this run began with \(n: 3 there, 4 here"):
        folder.note("pope", {"n": 4, "digest": "e"}, {"data": "/x"})


def test_another_debias_of_an_arm_is_refused_and_a_new_arm_is_not(folder):
    folder.note("pope", {"n": 3, "digest": "d", "debias": {"both": "Debias(x)"}}, {"data": "/moved"})
    assert set(folder.info()["benchmarks"]["pope"]["debias"]) == {"none", "both"}
    with pytest.raises(ValueError, match="debias"):
        folder.note("pope", {"n": 3, "digest": "d", "debias": {"both": "Debias(y)"}}, {"data": "/x"})


def test_rows_without_run_json_are_refused(tmp_path):
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "none.0.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds rows but no run\.json"):
        Folder(tmp_path).claim({}, "r1")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        Folder(tmp_path).info()


def test_a_broken_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: not the run\.json of a run"):
        Folder(tmp_path).info()


HOLDER = """
import sys
from eval.answering.store import Folder
held = Folder(sys.argv[1]).claim({"limit": 1}, "r1", int(sys.argv[2]), int(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""


def hold(path, rank=0, world=1):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(rank), str(world)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_kill_9(tmp_path):
    first = hold(tmp_path)
    try:
        with pytest.raises(ValueError, match="is being written by another process"):
            Folder(tmp_path).claim({"limit": 1}, "r1")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    Folder(tmp_path).claim({"limit": 1}, "r1").close()


def test_processes_of_one_world_share_a_folder_and_other_worlds_wait(tmp_path):
    first = hold(tmp_path, 0, 2)
    try:
        Folder(tmp_path).claim({"limit": 1}, "r1", 1, 2).close()
        with pytest.raises(ValueError, match=r"a run of 2 process\(es\); this one is of 3"):
            Folder(tmp_path).claim({"limit": 1}, "r1", 2, 3)
    finally:
        first.kill()
        first.wait()


WRITER = """
import sys
from eval.answering.store import Folder
folder = Folder(sys.argv[1]).claim({"limit": 1}, "r1")
done = {row["metadata"]["key"] for row in folder.rows("pope", "none")}
shard = folder.shard("pope", "none")
for i in range(4000):
    if str(i) not in done:
        shard.append({"question_id": i, "text": "word " * (i % 50), "metadata": {"key": str(i), "run": "r1"}})
"""


def test_a_writer_killed_at_any_point_ends_with_the_same_file(tmp_path):
    import time

    def start(path):
        return subprocess.Popen([sys.executable, "-c", WRITER, str(path)])

    start(tmp_path / "whole").wait()
    target = tmp_path / "killed" / "pope" / "none.0.jsonl"
    for size in (1_000, 60_000, 300_000):
        process = start(tmp_path / "killed")
        while process.poll() is None and (not target.exists() or target.stat().st_size < size):
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert target.read_bytes() == (tmp_path / "whole" / "pope" / "none.0.jsonl").read_bytes()
