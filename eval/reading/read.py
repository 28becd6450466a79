"""Reading other people's files: every error names the file, the record, and what was expected."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruners.loading.files import opened

# Bounds of what is held in memory; the largest official files are well inside (VQAv2: 447,793 lines, 400 MB of JSON).
MOST_LINES = 2_000_000
LONGEST_LINE = 64 << 20  # characters; MMBench keeps whole images in a column
LARGEST_JSON = 1 << 30  # characters of a file that is one JSON value
csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Fault:
    """What is wrong in one place of a file; a warning stops nothing."""

    where: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Faults:
    """What is wrong with some files: raises the first fault, or collects all of them (`--check`)."""

    stop: bool = True
    all: list[Fault] = field(default_factory=list)

    def add(self, where: object, message: str, warning: bool = False) -> None:
        """Note a fault, or raise it as a ValueError."""
        fault = Fault(str(where), message, warning)
        if self.stop and not warning:
            raise ValueError(str(fault))
        self.all.append(fault)

    @contextmanager
    def at(self, path: object, record: str = "") -> Iterator[None]:
        """Turns a ValueError of the block into a fault of this place; when collecting, the block is left there."""
        try:
            yield
        except ValueError as error:
            # What comes from the lines of the file has named it.
            message = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
            self.add(f"{path}, {record}" if record else path, message)


def records(path: Path, faults: Faults | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a file of JSON lines, one at a time; also of a file that is one JSON list of records."""
    faults = faults or Faults()
    seen = False
    with faults.at(path):
        for where, line in lines(path):
            if not seen and line.lstrip().startswith("["):
                yield from listed(path, faults)
                return
            seen = True
            with faults.at(path, where):
                try:
                    record = _record(_parse(line))
                except ValueError as error:
                    ended = line.endswith("\n")
                    raise (
                        error if ended else ValueError(f"{error}; it has no end, so a run may be writing it")
                    ) from None
                yield where, record
        if not seen:
            raise ValueError("expected one JSON record per line, found an empty file")


def listed(path: Path, faults: Faults | None = None, field: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a JSON list, or of the list that a JSON object holds in `field`."""
    faults = faults or Faults()
    value = read_json(path)
    with faults.at(path):
        value = want(_record(value), field, list) if field else value
        if not isinstance(value, list):
            raise ValueError(f"expected a list of records, found {_kind(value)}")
        if not value:
            raise ValueError("expected a list of records, found an empty list")
        for number, record in enumerate(value, 1):
            with faults.at(path, f"record {number}"):
                yield f"record {number}", _record(record)


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file, without the empty lines."""
    with _text(path) as file:
        for number, line in enumerate(_bounded(file, path), 1):
            if line.strip():
                yield f"line {number}", line


def read_json(path: Path) -> Any:
    """The value of a file that is one JSON value."""
    with Faults().at(path), _text(path) as file:
        text = file.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise ValueError(f"expected at most {LARGEST_JSON:,} characters of JSON")
        return _parse(text)


def table(path: Path, columns: tuple[str, ...], faults: Faults | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of a tab-separated file. Every cell is the text that stands there: no cell is taken for missing."""
    faults = faults or Faults()
    with _text(path) as file:
        reader = csv.DictReader(_bounded(file, path), delimiter="\t")
        header = list(reader.fieldnames or ())
        absent = [name for name in columns if name not in header]
        if absent:
            has = ", ".join(header) or "an empty file"
            raise ValueError(f"{path}: expected the column {absent[0]!r}, found {has:.300}")
        number = 0
        for number, row in enumerate(reader, 1):
            with faults.at(path, f"row {number}"):
                if None in row or None in row.values():
                    raise ValueError(f"expected {len(header)} tab-separated cells")
                yield f"row {number}", row
        if not number:
            raise ValueError(f"{path}: expected at least one row below the header")


def by_id(path: Path, what: str = "question") -> dict[str, Any]:
    """The value of a file that is one JSON object, from the id of a question to `what` belongs to it."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected an object from question id to {what}")
    return value


def want(record: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """record[name], which must be there and of one of the kinds (a string, when none is named)."""
    kinds = kinds or (str,)
    names = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds)
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object with {name!r}, found {record!r:.80}")
    if name not in record:
        raise ValueError(
            f"expected {name!r} ({names}), found {', '.join(map(repr, record)) or 'an empty record'!s:.300}"
        )
    value = record[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"expected {names} in {name!r}, found {value!r:.80}")
    return value


def label(record: Mapping[str, Any], name: str) -> str:
    """record[name] as text, where it is there and one word or number; a label that can be done without."""
    value = record.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


_NAMES = {str: "a string", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def _kind(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {_kind(value)}")
    return value


def _bounded(file: Any, path: Path) -> Iterator[str]:
    """The lines of a file, of which there may be so many and so long."""
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{path}, line {number}: expected lines of at most {LONGEST_LINE:,} characters")
        if number > MOST_LINES:
            raise ValueError(f"{path}: expected at most {MOST_LINES:,} lines")
        yield line


def _parse(text: str) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half of a pair, which no file of ours could hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise ValueError("expected Unicode text, found half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("expected JSON (nested too deep)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON ({error.msg} at character {error.pos + 1})") from None


@contextmanager
def _text(path: Path) -> Iterator[Any]:
    try:
        file = io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected UTF-8 text ({error.reason} at byte {error.start})") from None
        except csv.Error as error:
            raise ValueError(f"{path}: expected a tab-separated table ({error})") from None
