"""Measurements on a GPU in the documentation (`python -m eval speed --import FILES`).

What `python -m eval gpu STEP` wrote is kept in assets/speed/STEP.json, and shown between two marks of docs/speed.md and
of README.md, with machine and commands. A step that was measured anew replaces the one before; nothing else is shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.files import placed
from eval.forks.setup import ROOT
from eval.speed.gpu.pages import MARKS as MET
from eval.speed.gpu.pages import on, shown
from eval.speed.gpu.steps import STEPS
from eval.tables import say, visible

MARKS = ("<!-- gpu: written by `python -m eval speed --import` -->", "<!-- end of gpu -->")
NOTHING = "Nothing has been measured on a GPU yet."


def take(files: Sequence[Path], root: Path = ROOT) -> dict[str, Any]:
    """Keep the files' numbers and write the pages anew; returns which steps are shown."""
    pages = {name: root / name for name in ("docs/speed.md", "README.md")}
    if not all(path.is_file() for path in pages.values()):
        raise ValueError("docs/speed.md and README.md are in a clone of the repository only: import there")
    measured = [measurement(path) for path in files]
    folder = root / "assets" / "speed"
    for one in measured:
        folder.mkdir(exist_ok=True)
        text = json.dumps(one, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{one['step']}.json").write_text(text, encoding="utf-8")
    found = kept(root)
    for name, block in (("docs/speed.md", docs(found)), ("README.md", readme(found))):
        page = pages[name].read_text(encoding="utf-8")
        if name == "README.md" and MARKS[0] not in page:
            continue
        pages[name].write_text(placed(page, MARKS, block, name), encoding="utf-8")
    say(f"wrote {', '.join(one['step'] for one in found)} into docs/speed.md and README.md")
    return {"steps": [one["step"] for one in found]}


def measurement(path: Path) -> dict[str, Any]:
    """A file of `python -m eval gpu`, when it is a measurement on a GPU."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        step, rehearsal, machine = found["step"], found["rehearsal"], found["machine"]
        complete = step in STEPS and isinstance(found["parts"], list) and isinstance(found["verdicts"], list)
        on(machine)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of `python -m eval gpu` ({type(error).__name__}: {error})") from None
    if not complete:
        raise ValueError(
            f"{path} is no result of `python -m eval gpu`: expected one of {', '.join(STEPS)} and its parts"
        )
    if rehearsal or machine["cuda"] == "none":
        raise ValueError(f"{path} was not measured on a GPU ({machine['device']}): a rehearsal is no measurement")
    return dict(found)


def kept(root: Path = ROOT) -> list[dict[str, Any]]:
    """What has been imported, in the order of the steps."""
    paths = [root / "assets" / "speed" / f"{step}.json" for step in STEPS]
    return [measurement(path) for path in paths if path.is_file()]


def docs(found: Sequence[dict[str, Any]]) -> str:
    """The block of docs/speed.md."""
    if not found:
        return f"**{NOTHING}**"
    sections = [f"### {one['step']}\n\n{visible(on(one['machine']))}\n\n" + "\n".join(shown(one)) for one in found]
    return "\n".join([*sections, missing(found)]).strip()


def readme(found: Sequence[dict[str, Any]]) -> str:
    """The block of README.md: what is met, in a line a goal."""
    if not found:
        return f"- {NOTHING} `bash scripts/gpu.sh speed` does it where there is one ([speed](docs/speed.md))."
    lines = []
    for one in found:
        lines.append(f"- `{one['step']}` on {visible(on(one['machine']))}:")
        for line in one["verdicts"]:
            met = "" if line["met"] is None else f" (goal met: {MET[line['met']]})"
            lines.append(f"  - {visible(line['goal'])}: {visible(line['found'])}{met}")
    return "\n".join(lines)


def missing(found: Sequence[dict[str, Any]]) -> str:
    """Which steps nobody has measured."""
    left = [step for step in STEPS if step not in {one["step"] for one in found}]
    return f"Not yet measured on a GPU: {', '.join(left)}." if left else ""
