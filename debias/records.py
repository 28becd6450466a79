"""The records of trends on disk, and the shapes that they describe."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Type, TypeVar, Union

from debias import names
from debias.shape import Shape

PUBLISHED = Path(__file__).with_name("trends.toml")
S = TypeVar("S", bound=Shape)
EVERY = "*"  # stands for every benchmark of a method


def parse(text: str, name: str) -> List[Dict[str, Any]]:
    """The records of a trends file: [[trend]] tables of key = value, the value JSON: a part of TOML that reads easily.

    A table [trend.between] belongs to the trend above it.
    """
    records: List[Dict[str, Any]] = []
    table: Dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        try:
            if line == "[[trend]]":
                records.append({})
                table = records[-1]
            elif line == "[trend.between]":
                table = records[-1].setdefault("between", {})
            elif records and equals and key not in table:
                table[key] = json.loads(value, parse_constant=_refuse)
            else:
                raise ValueError
        except (ValueError, IndexError, RecursionError):
            raise ValueError(
                f"{name}, line {number}: expected [[trend]] or, below it, key = value with a new key and a number, "
                f'a "text" or a list on one line; found {line!r:.200}'
            ) from None
    return records


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def dump(records: Sequence[Dict[str, Any]], path: Union[str, Path]) -> None:
    """Write a trends file: describe(trend) each, with method, benchmark and whatever says where it comes from."""
    blocks = []
    for record in records:
        rows = ["[[trend]]", *_rows({key: value for key, value in record.items() if key != "between"})]
        if "between" in record:
            rows += ["[trend.between]", *_rows(record["between"])]
        blocks.append("\n".join(rows))
    Path(path).write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _rows(table: Dict[str, Any]) -> List[str]:
    return [f"{key} = {json.dumps(value, ensure_ascii=False, allow_nan=False)}" for key, value in table.items()]


def describe(trend: Shape) -> Dict[str, Any]:
    """What a trend is, as plain values that `make` turns back into it."""
    record: Dict[str, Any] = {"kind": trend.kind}
    for name in ("rate", "coefficients", "values", "floor", "length", "scope", "source", "amplitude", "r2"):
        value = getattr(trend, name)
        if value != Shape.__dataclass_fields__[name].default:
            record[name] = list(value) if isinstance(value, tuple) else value
    if trend.between is not None:
        record["between"] = describe(trend.between)
    return record


def make(kind: Type[S], record: Dict[str, Any], where: str) -> S:
    """The trend that a record describes; keys that say where it comes from stay with the record."""
    try:
        known = {
            name: record[name] for name in ("rate", "floor", "length", "scope", "amplitude", "r2") if name in record
        }
        if "last" in record:  # the released form: the weight of the last position
            known["rate"] = -math.log(record["last"]) / (record["length"] - 1)
        return kind(
            record["kind"],
            coefficients=tuple(record.get("coefficients", ())),
            values=tuple(record.get("values", ())),
            between=make(kind, record["between"], where) if "between" in record else None,
            source=record.get("source", where),
            **known,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a trend ({error!r}): {record!r}") from None


@lru_cache(maxsize=64)
def _records(path: Path, changed: int) -> List[Dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text ({error.reason} at byte {error.start})") from None
    records = parse(text, str(path))
    for record in records:
        if "method" not in record:
            raise ValueError(f"{path}: a [[trend]] without a method: {record!r}")
        try:
            record["method"] = names.method(record["method"])
            if record.setdefault("benchmark", EVERY) != EVERY:
                record["benchmark"] = names.benchmark(record["benchmark"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return records


def load(path: Union[str, Path] = PUBLISHED) -> List[Dict[str, Any]]:
    """All records of a trends file, names normalised."""
    path = Path(path)
    return [dict(record) for record in _records(path, os.stat(path).st_mtime_ns)]


def find(kind: Type[S], method: str, benchmark: Optional[str] = None, path: Union[str, Path] = PUBLISHED) -> S:
    """The trend of a method on a benchmark. Without a benchmark: its one trend, or the mean of its rates."""
    method = names.method(method)
    mine = {record["benchmark"]: record for record in load(path) if record["method"] == method}
    if not mine:
        known = sorted({record["method"] for record in load(path)})
        near = names.nearest(method, known)
        raise ValueError(
            f"{path} has no trend for {method!r}{near}, only for {', '.join(known)}; fit one with Trend.fit"
        )
    if EVERY in mine:
        return make(kind, mine[EVERY], f"{path}, {method}")
    if benchmark is None:
        return mean(kind, [make(kind, record, f"{path}, {method}") for record in mine.values()], method)
    benchmark = names.benchmark(benchmark)
    if benchmark not in mine:
        raise ValueError(
            f"{path} has no trend for {method!r} on {benchmark!r}, only on {', '.join(mine)}; without a "
            f"benchmark you get the mean of these"
        )
    return make(kind, mine[benchmark], f"{path}, {method}, {benchmark}")


def mean(kind: Type[S], trends: Sequence[S], method: str) -> S:
    """One trend for all benchmarks: the exponential with the mean of the rates."""
    rates, lengths = [trend.rate for trend in trends], {trend.length for trend in trends}
    if len(lengths) != 1 or {(trend.kind, trend.scope) for trend in trends} != {("exponential", "sequence")}:
        raise ValueError(f"the trends of {method!r} are not exponentials of one length; name a benchmark")
    return replace(
        kind.exponential(sum(rates) / len(rates)),
        length=lengths.pop(),
        source=f"mean of the {len(rates)} rates of {method}",
    )
