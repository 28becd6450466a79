"""Where and how files are written, and where this package keeps what it can do without."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def writable(path: str | Path) -> Path:
    """`path`, where something may be written, without making anything; a ValueError says what is in the way."""
    replaceable(path)
    there = next(place for place in (Path(path), *Path(path).absolute().parents) if os.path.lexists(place))
    if there != Path(path) and not there.is_dir():
        raise ValueError(f"{path}: cannot be written ({there} is not a folder); give another name to write to")
    if not os.access(there, os.W_OK):
        raise ValueError(
            f"{path}: cannot be written ({there} is read-only, or not yours); give another name to write to"
        )
    return Path(path)


def replaceable(path: str | Path) -> Path:
    """`path`, where nothing is there, or a regular file or folder. No device is replaced."""
    if os.path.lexists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f"{path}: is there and is neither a regular file nor a folder; give another name to write to")
    return Path(path)


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end of the block: a reader sees the old file or the new
    file, never half of it, also after a power cut."""
    draft = replaceable(path).with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1, default=str).encode() + b"\n")


def toml(text: str) -> dict[str, Any]:
    """What a TOML text says; a ValueError where it is none."""
    return tomllib.loads(text)


def sha256(file: IO[bytes]) -> str:
    """The digest of what a file holds."""
    seen = hashlib.sha256()
    while block := file.read(4 << 20):
        seen.update(block)
    return seen.hexdigest()


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
