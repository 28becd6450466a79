"""A step's result as people read it: the verdicts on one page, its tables in Markdown, and its place in the
documentation (`python -m eval speed --import FILES`).

What `python -m eval gpu STEP` wrote is kept in assets/speed/STEP.json, and shown between two marks of docs/speed.md and
of README.md, with machine and commands. A step that was measured anew replaces the one before; nothing else is shown.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.core.files import placed, write_json
from eval.core.tables import Table, markdown, say, visible
from eval.forks.setup import ROOT
from eval.speed import throughput, variants
from eval.speed.gpu.steps import STEPS

MARKS = ("<!-- gpu: written by `python -m eval speed --import` -->", "<!-- end of gpu -->")
NOTHING = "Nothing has been measured on a GPU yet."
MET = {True: "yes", False: "NO", None: "–"}
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
    rows = [[line["goal"], line["found"], MET[line["met"]]] for line in result["verdicts"]]
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


def take(files: Sequence[Path], root: Path = ROOT) -> dict[str, Any]:
    """Keep the files' numbers and write the pages anew; returns which steps are shown."""
    pages = {name: root / name for name in ("docs/speed.md", "README.md")}
    if not all(path.is_file() for path in pages.values()):
        raise ValueError("docs/speed.md and README.md are in a clone of the repository only: import there")
    measured = [measurement(path) for path in files]
    folder = root / "assets" / "speed"
    for record in measured:
        write_json(folder / f"{record['step']}.json", record)
    records = kept(root)
    for name, block in (("docs/speed.md", docs(records)), ("README.md", readme(records))):
        page = pages[name].read_text(encoding="utf-8")
        if name == "README.md" and MARKS[0] not in page:
            continue
        pages[name].write_text(placed(page, MARKS, block, name), encoding="utf-8")
    say(f"wrote {', '.join(record['step'] for record in records)} into docs/speed.md and README.md")
    return {"steps": [record["step"] for record in records]}


def measurement(path: Path) -> dict[str, Any]:
    """A file of `python -m eval gpu`, when it is a measurement on a GPU."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        step, rehearsal, machine = record["step"], record["rehearsal"], record["machine"]
        complete = step in STEPS and isinstance(record["parts"], list) and isinstance(record["verdicts"], list)
        on(machine)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of `python -m eval gpu` ({type(error).__name__}: {error})") from None
    if not complete:
        raise ValueError(
            f"{path} is no result of `python -m eval gpu`: expected one of {', '.join(STEPS)} and its parts"
        )
    if rehearsal or machine["cuda"] == "none":
        raise ValueError(f"{path} was not measured on a GPU ({machine['device']}): a rehearsal is no measurement")
    return dict(record)


def kept(root: Path = ROOT) -> list[dict[str, Any]]:
    """What has been imported, in the order of the steps."""
    paths = [root / "assets" / "speed" / f"{step}.json" for step in STEPS]
    return [measurement(path) for path in paths if path.is_file()]


def docs(records: Sequence[dict[str, Any]]) -> str:
    """The block of docs/speed.md."""
    if not records:
        return f"**{NOTHING}**"
    sections = [
        f"### {record['step']}\n\n{visible(on(record['machine']))}\n\n" + "\n".join(shown(record)) for record in records
    ]
    return "\n".join([*sections, missing(records)]).strip()


def readme(records: Sequence[dict[str, Any]]) -> str:
    """The block of README.md: what is met, in a line a goal."""
    if not records:
        return f"- {NOTHING} `bash scripts/gpu.sh speed` does it where there is one ([speed](docs/speed.md))."
    lines = []
    for record in records:
        lines.append(f"- `{record['step']}` on {visible(on(record['machine']))}:")
        for line in record["verdicts"]:
            met = "" if line["met"] is None else f" (goal met: {MET[line['met']]})"
            lines.append(f"  - {visible(line['goal'])}: {visible(line['found'])}{met}")
    return "\n".join(lines)


def missing(records: Sequence[dict[str, Any]]) -> str:
    """Which steps nobody has measured."""
    left = [step for step in STEPS if step not in {record["step"] for record in records}]
    return f"Not yet measured on a GPU: {', '.join(left)}." if left else ""
