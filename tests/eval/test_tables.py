"""Tables keep their cells, whatever is in them."""

import csv
import io

import pytest

from eval.tables import Table, comma_separated, latex, markdown, show

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
