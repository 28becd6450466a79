"""A step's result as people read it: the verdicts on one page, and its tables in Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from eval.core.tables import Table, markdown
from eval.speed import throughput, variants

MARKS = {True: "yes", False: "NO", None: "–"}
REHEARSED = "A rehearsal on the CPU with everything scaled down: it shows that the step runs, and measures nothing."


def page(result: dict[str, Any]) -> str:
    """The whole step in Markdown."""
    return "\n".join([f"# {heading(result)}", "", *([REHEARSED, ""] * result["rehearsal"]), *shown(result)])


def heading(result: dict[str, Any]) -> str:
    """The step and the machine in a line."""
    return f"{result['step']}, {on(result['machine'])}"


def on(machine: dict[str, str]) -> str:
    """The machine in a line."""
    cuda = "" if machine["cuda"] == "none" else f", CUDA {machine['cuda']}"
    return (
        f"{machine['device']}{cuda}, torch {machine['torch']}, transformers {machine['transformers']}, "
        f"{machine['date']}, commit {machine['commit']}"
    )


def shown(result: dict[str, Any]) -> Iterator[str]:
    """The verdicts, and every part's command and table."""
    yield markdown(judged(result))
    for part in result["parts"]:
        if "result" in part:
            yield f"`{part['command']}` ({part['seconds']:.0f} s):\n"
            table = table_of(part)
            yield markdown(table) if table else "".join(f"    {line}\n" for line in part["result"].get("said", [])[-3:])


def judged(result: dict[str, Any]) -> Table:
    """The page of verdicts."""
    rows = [[line["goal"], line["found"], MARKS[line["met"]]] for line in result["verdicts"]]
    return Table(f"{result['step']}: verdicts", ["goal", "found", "met"], rows)


def table_of(part: dict[str, Any]) -> Table | None:
    """The table that the part's command shows; None for other programs."""
    command, result = shlex.split(part["command"]), part["result"]
    if "rows" not in result:
        return None
    if "throughput" in command:
        return throughput.table(result)
    _, table = variants.look_of([word.removeprefix("--") for word in command])
    return table(result)
