"""Files that no memory could hold. FAULT_LARGE=1 tries ten million lines; the suite tries the limits made small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.reading import read
from eval.reading.sample import read_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(read, "MOST_LINES", 100)
    monkeypatch.setattr(read, "LONGEST_LINE", 1000)
    monkeypatch.setattr(read, "LARGEST_JSON", 2000)


@pytest.mark.parametrize(
    ("content", "reader", "match"),
    [
        ('{"question_id": 1, "text": "a"}\n' * 101, read.records, "at most 100 lines"),
        ("\n" * 101, read.records, "at most 100 lines"),
        ('{"question_id": 1, "text": "' + "a" * 1000 + '"}\n', read.records, "line 1: expected lines of at most 1,000"),
        ("[" + "1, " * 1000 + "1]", read.listed, "at most 2,000 characters of JSON"),
        ("index\tquestion\n" + "1\ta\n" * 101, lambda path: read.table(path, ("index",)), "at most 100 lines"),
        ('index\tquestion\n1\t"' + "a" * 1000, lambda path: read.table(path, ("index",)), "lines of at most 1,000"),
    ],
    ids=["records", "empty lines", "a long line", "a long list", "a long table", "a long cell"],
)
def test_files_that_are_too_large_are_refused_in_bounded_memory(small, tmp_path, content, reader, match):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(ValueError, match=match) as error:
        list(reader(path))
    assert str(error.value).count(str(path)) == 1


PROGRAM = """
import resource, sys
from pathlib import Path
from eval import benchmarks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    if sys.argv[1] == "answers":
        from eval.commands.score import score_file
        score_file("pope", sys.argv[2], sys.argv[3])
    else:
        benchmarks.get("vqav2").load(sys.argv[3], media=False, split="test-dev")
except ValueError as error:
    print(str(error))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.skipif(not os.environ.get("FAULT_LARGE"), reason="ten million lines: set FAULT_LARGE=1")
@pytest.mark.parametrize(("what", "most"), [("answers", 200), ("questions", 2500)])
def test_ten_million_lines(world, tmp_path, what, most):
    (tmp_path / "vqav2").mkdir()
    path = tmp_path / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl"
    with open(path, "w") as file:
        for first in range(0, 10_000_000, 100_000):
            file.writelines(
                f'{{"question_id": {i}, "image": "{i % 99}.jpg", "text": "What is this?"}}\n'
                if what == "questions"
                else " \n"
                for i in range(first, first + 100_000)
            )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what, path, world if what == "answers" else tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(what, done.stdout)
    *said, grown = done.stdout.splitlines()
    assert "at most 2,000,000 lines" in said[0]
    assert int(grown) < most, f"{grown} MB"


def test_answers_are_read_one_by_one(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 1, "text": "a"}\n' + "nonsense\n")
    rows = read_rows(path)
    assert next(rows)["text"] == "a"
    with pytest.raises(ValueError, match="line 2"):
        next(rows)
