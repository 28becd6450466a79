"""Reads this repository's docstrings for the API page: what stands in them line by line becomes a list there.

A line `name: text` or `name   text` describes an argument or a field, and lines below continue it. The comment behind
a field of a dataclass describes that field, or else what its `setting` says.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

ENTRY = re.compile(r"([a-z_]\w*(?:\[\w+\])*)(?: (\[[^]]*\]))?(?:: | {2,})(?=\S)")
COMMENT = re.compile(r"\s#\s(.*)$")


class Plain(griffe.Extension):
    """Turns the docstrings of modules, classes, functions and fields into Markdown while they are read."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_class_members(self, *, cls: Any, **kwargs: Any) -> None:
        """What is said about fields goes below the docstring of their class."""
        public = [field for name, field in cls.attributes.items() if not name.startswith("_") and field.lineno]
        said = {
            field.name: declared(str(field.value))
            or commented(Path(str(field.filepath)), field.lineno, field.endlineno)
            for field in public
        }
        lines = [f"- `{name}`: {escaped(text)}" for name, text in said.items() if text]
        if lines and cls.docstring is not None:
            cls.docstring.value = "\n".join([cls.docstring.value, "", *lines])


def declared(value: str) -> str:
    """What a field says of itself that is a flag as well: setting(DEFAULT, "what it does")."""
    if not value.startswith("setting("):
        return ""
    about = ast.parse(value, mode="eval").body.args[1]  # type: ignore[attr-defined]
    return str(about.value) if isinstance(about, ast.Constant) else ""


def commented(path: Path, first: int, last: int | None) -> str:
    """The comment behind a field, or the one right above it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if found := COMMENT.search(lines[(last or first) - 1]):
        return found[1]
    above = []
    while first > 1 and lines[first - 2].strip().startswith("# ") and "---" not in lines[first - 2]:
        first -= 1
        above.append(lines[first - 1].strip()[2:])
    return " ".join(reversed(above))


def markdown(text: str) -> str:
    """A docstring with its entries as a list; code and tags stay what they are."""
    out: list[str] = []
    inside = False  # an entry
    for line in text.splitlines():
        entry = ENTRY.match(line)
        if entry:
            out += [] if inside else [""]
            shape = f" {entry[2]}" if entry[2] else ""
            out.append(f"- `{entry[1]}`{shape}: {escaped(line[entry.end() :])}")
        elif inside and line.strip():
            out.append(f"  {escaped(line.strip())}")
        else:
            out.append(escaped(line))
        inside = bool(entry) or (inside and bool(line.strip()))
    return "\n".join(out)


def escaped(line: str) -> str:
    """`<image>` is text here, not a tag."""
    parts = line.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
