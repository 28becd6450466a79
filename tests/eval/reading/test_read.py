from __future__ import annotations

import csv

import pytest

from eval.reading import read
from eval.reading.read import Fault, Faults, label, lines, listed, read_json, records, table, want


def test_what_a_record_must_hold():
    record = {"text": "x", "n": 3, "half": 0.5, "yes": True, "list": [], "none": None}
    assert want(record, "text") == "x"
    assert want(record, "n", int, str) == 3
    assert want(record, "half", int, float) == 0.5
    assert want(record, "yes", bool) is True
    for name, kinds, message in (
        ("n", (), "expected a string in 'n', found 3"),
        ("yes", (int,), "expected a whole number in 'yes', found True"),
        ("none", (str,), "expected a string in 'none', found None"),
        ("text", (int, float), "expected a whole number or a number in 'text', found 'x'"),
        ("list", (dict,), r"expected an object in 'list', found \[\]"),
        ("other", (list,), r"expected 'other' \(a list\), found 'text', 'n', 'half', 'yes', 'list', 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            want(record, name, *kinds)
    with pytest.raises(ValueError, match="found an empty record"):
        want({}, "text")


def test_labels_are_text_or_nothing():
    record = {"a": "x", "b": 3, "c": True, "d": None, "e": [1]}
    assert [label(record, name) for name in "abcdef"] == ["x", "3", "", "", "", ""]


def test_faults_stop_or_collect():
    with pytest.raises(ValueError, match=r"^here, line 1: bad$"), Faults().at("here", "line 1"):
        raise ValueError("bad")
    faults = Faults(stop=False)
    with faults.at("here"):
        raise ValueError("bad")
    faults.add("there", "odd", warning=True)
    assert [(str(fault), fault.warning) for fault in faults.all] == [("here: bad", False), ("there: odd", True)]
    stopping = Faults()
    stopping.add("there", "odd", warning=True)  # a warning never stops
    assert len(stopping.all) == 1


def test_a_fault_is_no_warning_unless_it_says_so():
    assert Fault("here", "bad").warning is False
    faults = Faults(stop=False)
    faults.add("here", "bad")
    with faults.at("there"):
        raise ValueError("worse")
    assert faults.all == [Fault("here", "bad", False), Fault("there", "worse", False)]


def test_other_exceptions_are_not_faults():
    with pytest.raises(KeyError), Faults(stop=False).at("here"):
        raise KeyError("a mistake of ours")


def test_places_count_from_one_and_skip_empty_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert list(records(path)) == [("line 2", {"a": 1}), ("line 4", {"a": 2})]
    assert [where for where, _ in lines(path)] == ["line 2", "line 4"]
    path.write_text('  [{"a": 1},\n{"a": 2}]')
    assert list(records(path)) == [("record 1", {"a": 1}), ("record 2", {"a": 2})]


def test_broken_records_are_left_out_when_collecting(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[]\n{"a": 4}\n')
    faults = Faults(stop=False)
    assert [record for _, record in records(path, faults)] == [{"a": 1}, {"a": 4}]
    assert [str(fault).removeprefix(f"{path}, ") for fault in faults.all] == [
        "line 2: expected JSON (Expecting value at character 8)",
        "line 3: expected a JSON object, found a list",
    ]


def test_lists_inside_an_object(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"data": [{"a": 1}]}')
    assert list(listed(path, field="data")) == [("record 1", {"a": 1})]
    with pytest.raises(ValueError, match=r"x.json: expected 'questions' \(a list\), found 'data'"):
        list(listed(path, field="questions"))
    with pytest.raises(ValueError, match=r"x.json: expected a list of records, found an object"):
        list(listed(path))
    path.write_text("{")
    with pytest.raises(ValueError, match=r"x.json: expected JSON \(.* at character 2\)"):
        read_json(path)


def test_tables(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('\ufeffa\tb\n1\t"two\nlines and a ""quote"""\n\nNA\t\n', encoding="utf-8")
    assert list(table(path, ("a", "b"))) == [
        ("row 1", {"a": "1", "b": 'two\nlines and a "quote"'}),
        ("row 2", {"a": "NA", "b": ""}),
    ]
    with pytest.raises(ValueError, match=r"x.tsv: expected the column 'c', found a, b"):
        list(table(path, ("a", "c")))
    path.write_text("a\tb\n1\t2\t3\n")
    with pytest.raises(ValueError, match=r"x.tsv, row 1: expected 2 tab-separated cells"):
        list(table(path, ("a",)))
    path.write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"x.tsv: expected at least one row below the header"):
        list(table(path, ("a",)))
    path.write_text("")
    with pytest.raises(ValueError, match=r"x.tsv: expected the column 'a', found an empty file"):
        list(table(path, ("a",)))
    path.write_bytes(b"a\tb\n\xff\t1\n")
    with pytest.raises(ValueError, match=r"x.tsv: expected UTF-8 text"):
        list(table(path, ("a",)))


def test_a_cell_may_hold_a_whole_picture(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1\t" + "x" * 300_000 + "\n")
    assert len(next(table(path, ("a",)))[1]["b"]) == 300_000


def test_a_json_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match=r"x.json: expected UTF-8 text \(invalid start byte at byte 2\)"):
        read_json(path)


def test_a_cell_of_many_long_lines_is_refused(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('a\tb\n1\t"' + "x\n" * 60 + '"\n')
    bound = csv.field_size_limit(100)
    try:
        with pytest.raises(ValueError, match=r"x.tsv: expected a tab-separated table \(field larger than field limit"):
            list(table(path, ("a",)))
    finally:
        csv.field_size_limit(bound)


def test_cells_keep_their_line_ends(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b'a\tb\r\n1\t"two\r\nlines"\r\n')
    assert list(table(path, ("a", "b"))) == [("row 1", {"a": "1", "b": "two\r\nlines"})]


def test_bounds_are_the_last_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "LONGEST_LINE", 5)
    monkeypatch.setattr(read, "MOST_LINES", 3)
    monkeypatch.setattr(read, "LARGEST_JSON", 6)
    path = tmp_path / "x"
    path.write_text("1234\n" * 3)
    assert len(list(lines(path))) == 3
    for text, message in (("1234\n" * 4, ": expected at most 3 lines"), ("1\n12345\n", ", line 2: expected lines of")):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"x{message}"):
            list(lines(path))
    path.write_text("[1, 2]")
    assert read_json(path) == [1, 2]
    path.write_text("[1, 23]")
    with pytest.raises(ValueError, match="x: expected at most 6 characters of JSON"):
        read_json(path)


def test_the_bounds_are_those_that_the_documentation_names():
    assert (read.MOST_LINES, read.LONGEST_LINE, read.LARGEST_JSON) == (2_000_000, 67_108_864, 1_073_741_824)
    assert csv.field_size_limit() == read.LONGEST_LINE


@pytest.mark.parametrize("text", [r'["\ud800"]', r'["\uD800"]', r'["\uDFFF"]'])
def test_half_of_a_pair_is_no_text_however_it_is_written(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x.json: expected Unicode text, found half of a surrogate pair$"):
        read_json(path)
    path.write_text(r'["\uD83D\uDE00"]')
    assert read_json(path) == ["😀"]
