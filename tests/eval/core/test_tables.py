"""Tables keep their cells, whatever is in them."""

import csv
import io
import re

import pytest

from eval.core.tables import Table, between, comma_separated, explain, latex, markdown, parts, show

NASTY = Table("50 % of a_b & {c}", ["arm", "score"], [["=cmd|' /C calc'!A0", 1.234], ["a|b\n<x>", None], ["-5", -5.0]])


def test_csv_cells_never_start_a_formula():
    rows = list(csv.reader(io.StringIO(comma_separated(NASTY))))
    assert rows[1] == ["'=cmd|' /C calc'!A0", "1.234"]
    assert rows[2] == ["a|b\n<x>", ""]
    assert rows[3] == ["'-5", "-5.0"]  # a number stays one


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_every_formula_start_is_quoted(start):
    assert comma_separated(Table("t", ["x"], [[f"{start}1"]])).splitlines(keepends=False)[1].lstrip('"')[0] == "'"


def test_markdown_keeps_its_columns():
    lines = [line for line in markdown(NASTY).splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
    assert "–" in markdown(NASTY)


def test_latex_is_booktabs_and_escaped():
    text = latex(NASTY)
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"50 \% of a\_b \& \{c\}",
        r"\textless{}x\textgreater{}",
        "1.23",
    ):
        assert part in text
    assert text.count("&") - text.count(r"\&") == 4  # one column separator in each of four lines


def test_the_terminal_takes_brackets_as_text(capsys):
    show(Table("t", ["x"], [["[bold]not markup[/bold]"]]))
    assert "[bold]not markup[/bold]" in capsys.readouterr().err


WIDE = Table(
    "Wide",
    ["benchmark", "arm", *(f"number {i}" for i in range(9)), "difference, 95 %"],
    [["refcoco+", "both", *(1000.25 + i for i in range(9)), "+66.7 [−33.3, 260.8]"], ["pope", "both", *[None] * 10]],
    keys=2,
)


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_tables_fit_the_terminal_and_no_number_breaks(columns, monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(columns))
    show(WIDE)
    seen = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    lines = seen.splitlines()
    assert max(map(len, lines)) <= columns
    for number in (*(f"{1000.25 + i:.2f}" for i in range(9)), "+66.7 [−33.3, 260.8]"):
        assert number in seen
    assert seen.count("refcoco+") == seen.count("pope") == len(parts(WIDE, columns))  # every part names its rows


def test_sentences_break_between_words(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    words = "both beats none by 6.3 [4.4, 8.4] points over 16 benchmarks " * 4
    explain(words)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == words.strip()


def test_dashes_stand_under_the_last_digit(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    show(Table("", ["name", "text"], [["a", "+1.0 [0.5, 2.0]"], ["b", None], ["c", "<0.001"]]))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().err.splitlines()]
    assert len({len(line) for line in lines if line[:1] in ("a", "b", "c")}) == 1
    shown = markdown(Table("", ["name", "score", "p"], [["a", 1.0, "**+1.0 [0.5, 2.0]**"], ["b", None, None]]))
    assert "| --- | ---: | ---: |" in shown


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [((6.344, 4.4, 8.44), "+6.3 [4.4, 8.4]"), ((-0.04, -1.0, 0.0), "+0.0 [−1.0, 0.0]"),
     ((18.7499999, None, None), "+18.8"), ((None, 1, 2), "–")],
)  # fmt: skip
def test_a_difference_and_its_interval(numbers, shown):
    assert between(*numbers) == shown
