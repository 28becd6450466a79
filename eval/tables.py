"""Tables of plain cells, for the terminal, Markdown, CSV and LaTeX, and how anything is said to a person."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Cell = str | float | int | None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())


def text(cell: Cell) -> str:
    if cell is None:
        return "–"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def show(table: Table, stderr: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table as Rich
    from rich.text import Text

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=max(160, console.width))
    drawn = Rich(title=Text(table.title), title_justify="left", header_style="bold")
    for column, name in enumerate(table.head):
        numbers = all(isinstance(row[column], (int, float, type(None))) for row in table.rows)
        drawn.add_column(Text(name), justify="right" if numbers and table.rows else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(text(cell)) for cell in row))
    console.print(drawn)
    for note in table.notes:
        console.print(Text(note))


def markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return (
            "| "
            + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )

    out = [f"**{table.title}**", "", line(table.head), line("---" for _ in table.head)]
    out += [line(map(text, row)) for row in table.rows]
    return "\n".join([*out, *(f"\n{note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """CSV that a spreadsheet opens without running anything: what would start a formula gets a quote in front."""

    def safe(cell: Cell) -> Cell:
        if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
            return "'" + cell
        return "" if cell is None else cell

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe(name) for name in table.head])
    writer.writerows([safe(cell) for cell in row] for row in table.rows)
    return out.getvalue()


LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "Δ": r"$\Delta$",
         "≤": r"$\le$",
         "<": r"\textless{}", ">": r"\textgreater{}", "×": r"$\times$", "\n": " "}  # fmt: skip


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
    caption = "".join(LATEX.get(char, char) for char in " ".join([table.title + ".", *table.notes]))
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
