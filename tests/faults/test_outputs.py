"""Whatever a model, a judge or a file says, the pages and tables that show it stay pages and tables."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook

from eval.commands.export import export
from eval.core.tables import OBEYED, Spoken, Table, comma_separated, latex, markdown, say, show
from eval.showing import report

ROOT = Path(__file__).resolve().parents[2]
quick = settings(max_examples=40)

NASTY = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "{% include 'x' %}",
    "'\"><svg/onload=x>",
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\n=1", "＝1+1", '=HYPERLINK("http://x.invalid")',
    "\\input{/etc/passwd}", "\\write18{ls}", "$x$", "^^5c", "a & b \\\\ c", "[0]", "*", "% comment", "#1", "~", "}{",
    "a|b", "\x1b]0;owned\x07", "\x1b[2J", "a\rb", "\x00", "\u202egnp.exe", "\u2028", "\x85", "\x9b31m",
]  # fmt: skip
texts = (
    st.text(max_size=40) | st.sampled_from(NASTY) | st.tuples(st.sampled_from(NASTY), st.text(max_size=9)).map("".join)
)
cells = texts | st.floats() | st.integers() | st.none()


@st.composite
def made(draw):
    width = draw(st.integers(1, 4))
    head = draw(st.lists(texts, min_size=width, max_size=width))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=4))
    return Table(draw(texts), head, rows, draw(st.lists(texts, max_size=2)))


def controls(text):
    return [char for char in text if unicodedata.category(char) == "Cc" and char not in "\n\t\r"]


@quick
@given(made())
def test_csv_keeps_its_cells_and_starts_no_formula(table):
    written = comma_separated(table)
    assert not controls(written)
    rows = list(csv.reader(io.StringIO(written)))
    assert [len(row) for row in rows if row] == [len(table.head)] * (1 + len(table.rows)) or len(table.head) == 1
    given_cells = [list(table.head), *map(list, table.rows)]
    for given_row, row in zip(given_cells, [row or [""] for row in rows], strict=False):
        for cell, found in zip(given_row, row, strict=True):
            if isinstance(cell, str):
                assert not re.match(r"\s*[=+\-@＝＋－＠]", found), found
                assert not found[:1].isspace()


@quick
@given(made())
def test_latex_has_no_command_but_ours(table):
    written = latex(table)
    assert not controls(written)
    body = written.replace("\r", "\n")
    ours = (r"\\(begin\{table\}|centering|begin\{tabular\}\{l[r]*\}|toprule|midrule|bottomrule|end\{tabular\}|caption|"
            r"end\{table\}|textasciitilde\{\}|textasciicircum\{\}|textbackslash\{\}|textless\{\}|textgreater\{\}|"
            r"[&%$#_{}]|\\(?=\n))")  # fmt: skip
    math = r"\$\\(pm|Delta|le|times)\$"
    rest = re.sub(ours, "", re.sub(math, "", body))
    assert "\\" not in rest
    assert "$" not in rest
    for char in "%#~^_":
        assert char not in rest
    plain = rest.replace("{[}", "").replace("{]}", "").replace("{*}", "")
    assert "[" not in plain  # would be an option of the line end before it
    assert "*" not in plain
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert len(lines) == 1 + len(table.rows)
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.head) - 1


@quick
@given(made())
def test_markdown_keeps_its_columns_and_holds_no_html(table):
    written = markdown(table)
    assert not controls(written)
    lines = written.split("\n")[2 : 4 + len(table.rows)]
    for line in lines:
        bare = re.sub(r"\\\\", "", line)
        assert len(re.findall(r"(?<!\\)\|", bare)) == len(table.head) + 1
        assert not re.search(r"(?<!\\)<", bare)
    assert "\n<" not in written.split("\n\n", 2)[-1]


@quick
@given(made())
def test_the_terminal_obeys_nothing(table):
    import contextlib

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        show(table)
        for cell in table.head:
            say(cell)
    assert not controls(said.getvalue())


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]


@pytest.fixture(scope="module")
def page_of(answered):
    """The report of a run whose answers, questions and judge say what they like."""
    from dataclasses import replace

    from eval.scoring import compare
    from eval.scoring.results import results

    scored = [one for one in results(answered) if one.benchmark.name == "pope"]

    def page(text):
        def changed(row):
            metadata = {**row["metadata"], "error": text} if text.startswith("<") else row["metadata"]
            return {**row, "text": text, "metadata": metadata}

        one = scored[0]
        samples = [sample.but(text=text, target=text) for sample in one.samples]
        arms = {
            arm: replace(result, rows=[changed(row) for row in result.rows],
                         score=replace(result.score, info={"judge": [text]}))
            for arm, result in one.arms.items()
        }  # fmt: skip
        hostile = replace(one, samples=samples, arms=arms)
        out = answered.path / "hostile.html"
        report.write(answered, [hostile], compare.outcome(text, [hostile], 50), out, 2)
        return out.read_text(encoding="utf-8")

    return page


@pytest.fixture(scope="module")
def honest(page_of):
    found = Page()
    found.feed(page_of("yes"))
    return found


@pytest.mark.long
@settings(max_examples=25)
@given(text=texts.filter(str.strip))
def test_pages_hold_the_tags_of_an_honest_page(page_of, honest, text):
    written = page_of(text)
    found = Page()
    found.feed(written)
    assert set(found.tags) <= set(honest.tags) | {"p"}
    assert found.tags.count("script") == honest.tags.count("script")
    assert not [one for one in found.attributes if one[1].startswith("on")]
    for tag, name, value in found.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#")), (tag, name, value)
    assert "default-src 'none'" in written


@settings(max_examples=15)
@given(data=st.data())
def test_xlsx_holds_text_and_no_formula(world, tmp_path_factory, data):
    from eval import benchmarks

    folder = tmp_path_factory.mktemp("xlsx")
    samples = benchmarks.get("mmbench").load(world, media=False)
    said = [data.draw(texts) for _ in samples[:8]]
    rows = [{"question_id": sample.id, "text": said[i % 8]} for i, sample in enumerate(samples)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export("mmbench", folder / "answers.jsonl", world, folder / "upload.xlsx")
    sheet = load_workbook(folder / "upload.xlsx").active
    assert all(cell.data_type != "f" and cell.hyperlink is None for row in sheet.iter_rows() for cell in row)


TURNED = ["\u202egnp.exe", "\u2066a\u2069", "\u200f", "\u061c", "\u200e"]


@pytest.mark.parametrize("text", [*TURNED, "\x00", "\x1b]0;owned\x07", "\x9b31m", "\x85"])
def test_what_is_obeyed_is_shown_in_the_page_too(page_of, text):
    written = page_of(f"yes {text} no")
    assert not OBEYED.search(written)
    assert re.search(r"yes \\(x|u)[0-9a-f]{2,4}", written)


@pytest.mark.parametrize("write", [comma_separated, latex, markdown])
@pytest.mark.parametrize("text", TURNED)
def test_no_table_holds_marks_that_turn_the_text(write, text):
    assert not OBEYED.search(write(Table(text, [text], [[text]], [text])))


@pytest.mark.parametrize(
    "cell", ["x;=1+1", "x;  =1", 'x;"=1+1"', "x\t=1", "x|@SUM(A1)", "a\n=1", "x;y;+1", "x;'-1", "x;＝1"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_no_cell_is_a_formula_in_any_locale(cell, separator):
    written = comma_separated(Table("t", ["a", "b"], [["first", cell], [cell, "last"]]))
    for row in csv.reader(io.StringIO(written), delimiter=separator):
        for found in row:
            assert not re.match(r"[\s\"']*[=+\-@＝]", found.replace("'", "!")), (found, row)


def test_cells_that_are_no_formula_stay_as_they_are():
    rows = [["a; b", "1,000 - 2"], ["x=1; y", "+-"[:0]]]
    written = comma_separated(Table("t", ["a", "b"], rows))
    assert list(csv.reader(io.StringIO(written)))[1:] == rows


def names_of_calls(tree, inside=""):
    """(function that a call stands in, what is called)"""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield inside, ast.unparse(node.func)
        yield from names_of_calls(node, node.name if isinstance(node, ast.FunctionDef) else inside)


def test_nothing_prints_around_the_exits():
    """`say` and `tell` are the exits; a bare print, or a write to a standard stream, would go around them."""
    seen = set()
    for package in ("debias", "pruners", "eval"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for inside, name in names_of_calls(ast.parse(path.read_text(encoding="utf-8"))):
                if re.fullmatch(r"print|(sys\.)?(__)?std(out|err)(__)?\.(buffer\.)?write|json\.dump|os\.write", name):
                    seen.add((path.name, inside, name))
    assert {(file, inside, name) for file, inside, name in seen if name != "json.dump"} == {
        ("tables.py", "say", "print"), ("tables.py", "tell", "print"),
        ("terminal.py", "put", "print")}  # fmt: skip
    assert {file for file, _, name in seen if name == "json.dump"} <= {"export.py"}  # into its file


ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e"


def test_what_a_benchmark_file_says_reaches_the_terminal_as_text(world, tmp_path, capsys):
    import shutil

    from eval import benchmarks
    from eval.cli import main

    home = shutil.copytree(benchmarks.get("mmvet").home(world), tmp_path / "mm-vet")
    truth = json.loads((home / "mm-vet.json").read_text())
    for entry in truth.values():
        entry["capability"] = [ESCAPES]
    (home / "mm-vet.json").write_text(json.dumps(truth))
    ids = [name.removeprefix("v1_") for name in truth]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"question_id": id, "text": "a"}) + "\n" for id in ids))
    words = ["score", "mmvet", "--answers", str(tmp_path / "a.jsonl"), "--data", str(home)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert r"capability/\x1b]0;owned" in said.out
    assert not OBEYED.search(said.out + said.err)
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert not OBEYED.search(said.out)
    assert f"capability/{ESCAPES}" in json.loads(said.out)["parts"]  # escaped, not changed


def test_log_lines_are_text_too():
    import logging

    record = logging.LogRecord("debias", logging.INFO, "", 0, "%s", (ESCAPES + "x" * 10_000,), None)
    written = Spoken("%(message)s").format(record)
    assert not OBEYED.search(written)
    assert len(written) < 3000


def test_a_long_header_is_cut(world, tmp_path, capsys):
    from eval.cli import main

    home = tmp_path / "mmbench"
    home.mkdir()
    (home / "mmbench_dev_20230712.tsv").write_text("\t".join(f"column{i}" for i in range(900_000)) + "\nrow\n")
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "text": "A"}\n')
    assert main(["score", "mmbench", "--answers", str(tmp_path / "a.jsonl"), "--data", str(home)]) == 1
    said = capsys.readouterr().err
    assert "expected the column" in said
    assert len(said) < 5000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["completion", "bash", "--json"], ["completion", "zsh"], ["--version"], []])
def test_a_full_standard_output_is_said_in_a_sentence(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "eval", *words], stdout=full, stderr=subprocess.PIPE, text=True,
                              cwd=ROOT, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "standard output cannot be written (No space left on device)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
