"""How text reaches a terminal, and tables a terminal, Markdown, CSV, LaTeX and HTML. Nothing else prints.

Text from files and models is shown and never obeyed: control characters, and marks that turn the direction of text,
appear as their codes.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

Cell = str | float | int | None
LONGEST_LINE, MOST_LINES = 2_000, 500  # of one message


def say(text: str) -> None:
    """A message for a person, on standard error."""
    print(message(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """What was asked for, on standard output."""
    try:
        print(visible(text), flush=True)
    except OSError as error:
        with suppress(OSError, ValueError):  # else Python would fail at it once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ValueError(f"standard output cannot be written ({error.strerror})") from None


def tell_json(value: Any) -> None:
    """One JSON object on standard output; what a terminal would obey is escaped as JSON does it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    tell(OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def visible(text: str) -> str:
    """The text without what a terminal, TeX, a browser or a spreadsheet would obey: it shows as its code."""
    return OBEYED.sub(lambda match: f"\\x{ord(c):02x}" if ord(c := match[0]) < 256 else f"\\u{ord(c):04x}", text)


def message(text: str) -> str:
    """A text of bounded length that a terminal shows as it is; a file's header may have ten million characters."""
    lines = [
        line
        if len(line) <= LONGEST_LINE
        else f"{line[:LONGEST_LINE]} ... ({len(line) - LONGEST_LINE:,} characters more)"
        for line in visible(text).replace("\r", " ").split("\n")
    ]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"... ({len(lines) - MOST_LINES:,} lines more)"]
    return "\n".join(lines)


class Spoken(logging.Formatter):
    """Log lines, cleaned and shortened as other messages."""

    def format(self, record: logging.LogRecord) -> str:
        return message(super().format(record))


@dataclass(frozen=True)
class Table:
    """A table that every format can show: a head, rows, and notes below."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
    strong: Collection[int] = field(default=())  # rows that are shown bold
    keys: int = 1  # columns that name a row

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are set flush right, dashes with them."""
        cells = [row[column] for row in self.rows]
        return bool(cells) and all(NUMBER.fullmatch(cell) if isinstance(cell, str) else True for cell in cells)


def text(cell: Cell) -> str:
    """A cell as a table shows it: numbers with two decimals, nothing as a dash."""
    if cell is None:
        return "–"
    return f"{cell:.2f}" if isinstance(cell, float) else visible(str(cell))


def between(value: float | None, low: float | None, high: float | None, signed: bool = True) -> str:
    """A number and its interval in words: +6.3 [4.4, 8.4]."""
    if value is None:
        return "–"
    known = [] if low is None or high is None else [f"{tenths(bound):.1f}" for bound in (low, high)]
    shown = f"{tenths(value):{'+' if signed else ''}.1f}" + (f" [{', '.join(known)}]" if known else "")
    return shown.replace("-", "−")


def tenths(value: float) -> float:
    """Rounded as it would be by hand, whatever the last bit says, and no minus before a zero."""
    return round(round(value, 6), 1) + 0.0


def show(table: Table, stderr: bool = True) -> None:
    """On the terminal. A table that is too wide comes in parts, each with the names of its rows; no number breaks."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Rich
    from rich.text import Text

    console = _console(stderr)
    for number, columns in enumerate(parts(table, console.width)):
        title = None if number or not table.title else Text(visible(table.title))
        drawn = Rich(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False,
                     show_edge=False)  # fmt: skip
        for column, width in widths(table, columns, console.width).items():
            justify: Any = "right" if table.numeric(column) else "left"
            drawn.add_column(Text(text(table.head[column])), justify=justify, overflow="fold", width=width)
        for place, row in enumerate(table.rows):
            drawn.add_row(
                *(Text(text(row[column])) for column in columns), style="bold" if place in table.strong else ""
            )
        console.print(drawn)
    for note in table.notes:
        console.print(Text(visible(note)))


def explain(words: str) -> None:
    """Sentences, broken between words as the terminal is wide."""
    from rich.text import Text

    _console().print(Text(visible(words)))


def _console(stderr: bool = True) -> Any:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=max(160, console.width))


def parts(table: Table, room: int) -> list[list[int]]:
    """The columns of a table in as many parts as fit into `room` characters, the naming columns in each."""
    names = list(range(table.keys))
    pages = [list(names)]
    for column in range(table.keys, len(table.head)):
        needed = sum(_widths(table, shown)[0] + GAP for shown in [*pages[-1], column]) - GAP
        if needed > room and len(pages[-1]) > len(names):
            pages.append(list(names))
        pages[-1].append(column)
    return pages


def widths(table: Table, columns: Sequence[int], room: int) -> dict[int, int]:
    """Every column of a part as wide as it would be, or else at least as wide as its words and numbers."""
    least = {column: _widths(table, column)[0] for column in columns}
    left = room - sum(least.values()) - GAP * (len(columns) - 1)
    chosen = {}
    for column in columns:
        more = min(max(left, 0), _widths(table, column)[1] - least[column])
        chosen[column], left = least[column] + more, left - more
    return chosen


def _widths(table: Table, column: int) -> tuple[int, int]:
    """(the narrowest, the widest) that a column may be: heads break at spaces, prose anywhere, numbers nowhere."""
    from rich.cells import cell_len

    head = text(table.head[column])
    cells = max((cell_len(line) for row in table.rows for line in text(row[column]).splitlines()), default=0)
    word = max(map(cell_len, head.split()), default=0)
    widest = max(cell_len(head), cells, 1)
    return max(word, cells if table.numeric(column) else min(cells, PROSE), 1), widest


def markdown(table: Table) -> str:
    """A Markdown table below its title, with its notes."""

    def plain(words: str) -> str:
        return LINES.sub(" ", visible(words)).replace("<", "\\<")

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(LINES.sub(" ", cell.translate(MARKDOWN)) for cell in cells) + " |"

    out = [
        f"**{plain(table.title)}**",
        "",
        line(map(text, table.head)),
        line(_rule(table, column) for column in range(len(table.head))),
    ]
    out += [line(map(text, row)) for row in table.rows]
    return "\n".join([*out, *(f"\n{plain(note)}" for note in table.notes)]) + "\n"


def _rule(table: Table, column: int) -> str:
    return "---:" if table.numeric(column) else "---"


def comma_separated(table: Table) -> str:
    """CSV that a spreadsheet opens without running anything: what would start a formula gets a quote in front."""

    def safe(cell: Cell) -> Cell:
        if isinstance(cell, str):
            cell = INNER.sub(r"\1'", visible(cell).replace("\r", "\n"))
            return "'" + cell if cell.lstrip()[:1] in FORMULAS or cell[:1].isspace() else cell
        return "" if cell is None else cell

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe(name) for name in table.head])
    writer.writerows([safe(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def html(table: Table) -> str:
    """A plain HTML table."""

    def line(kind: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(visible(cell))}</{kind}>" for cell in cells) + "</tr>"

    rows = [line("th", table.head), *(line("td", map(text, row)) for row in table.rows)]
    notes = "".join(f"<p>{escape(visible(note))}</p>" for note in table.notes)
    return f"<table><caption>{escape(visible(table.title))}</caption>{''.join(rows)}</table>{notes}"


MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "<": r"\<"})
FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# Where the separator is a semicolon, a tab or a bar, a spreadsheet ends a cell there, in spite of quotes.
INNER = re.compile(r"([;\t|\n][\s\"']*)(?=[=+\-@＝＋－＠])")
# Control characters, and marks that turn the direction of text.
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
NUMBER = re.compile(r"(?:(\**)[<+−-]?\d[\d.,]*(?: ?%)?(?: \[.*\])?\1|–)?")
PROSE, GAP = 24, 3  # the narrowest column of words, and what stands between two columns
LINES = re.compile(r"[\n\r\u2028\u2029]")
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "Δ": r"$\Delta$",
         "≤": r"$\le$",
         "<": r"\textless{}", ">": r"\textgreater{}", "×": r"$\times$", "\n": " ", "\r": " ",
         "[": "{[}", "]": "{]}", "*": "{*}", "\u2028": " ", "\u2029": " "}  # fmt: skip


def latex(table: Table) -> str:
    """A booktabs table (\\usepackage{booktabs})."""

    def line(cells: Iterable[Cell]) -> str:
        return " & ".join("".join(LATEX.get(char, char) for char in text(cell)) for cell in cells) + r" \\"

    columns = "l" + "r" * (len(table.head) - 1)
    out = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(table.head),
        r"\midrule",
    ]
    out += [line(row) for row in table.rows]
    caption = "".join(LATEX.get(char, char) for char in visible(" ".join([table.title + ".", *table.notes])))
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]) + "\n"


def write(tables: Sequence[Table], folder: Path, name: str = "table") -> list[Path]:
    """`name.md`, `name.csv` and `name.tex` in `folder`."""
    kinds = {"md": markdown, "csv": comma_separated, "tex": latex}
    written = []
    for ending, form in kinds.items():
        path = folder / f"{name}.{ending}"
        path.write_text("\n".join(form(table) for table in tables), encoding="utf-8")
        written.append(path)
    return written
