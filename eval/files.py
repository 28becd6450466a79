"""Where files may be written, what is written into a page, and where this package keeps what it can do without."""

from __future__ import annotations

import os
from pathlib import Path


def writable(path: str | Path) -> Path:
    """`path`, where something may be written: nothing is there, or a regular file or folder. No device is replaced."""
    if os.path.lexists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f"{path}: is there and is neither a regular file nor a folder; give another name to write to")
    return Path(path)


def placed(page: str, marks: tuple[str, str], text: str, name: str) -> str:
    """The page with `text` between two marks, each a line of its own; `name` is what the page is called."""
    before, mark, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (mark and end):
        raise ValueError(f"{name} lacks the lines {marks[0]!r} and {marks[1]!r}, between which the results stand")
    return f"{before}{mark}\n{text}\n{end}{after}"


def cache_home() -> Path:
    """Where this package keeps what it can do without: $XDG_CACHE_HOME/debias."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debias"
