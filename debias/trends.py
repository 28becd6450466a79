"""Trends on disk: the published ones, and files of the same form with trends that somebody fitted."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from debias import names
from debias.trend import Trend

PUBLISHED = Path(__file__).with_name("trends.toml")
EVERY = "*"  # stands for every benchmark of a method


def parse(text: str, name: str) -> List[Dict[str, Any]]:
    """The records of a file of [[trend]] tables whose values are JSON: a part of TOML that needs no library to read."""
    records: List[Dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line == "[[trend]]":
            records.append({})
            continue
        key, equals, value = line.partition("=")
        try:
            if not (records and equals):
                raise ValueError
            records[-1][key.strip()] = json.loads(value)
        except ValueError:
            raise ValueError(
                f'{name}, line {number}: expected [[trend]] or, below it, key = value with a number, "text" or a list '
                f"on one line; found {line!r}"
            ) from None
    return records


def make(record: Dict[str, Any], where: str) -> Trend:
    """The trend that a record describes; keys that say where it comes from stay with the record."""
    try:
        kind, length = record["kind"], record.get("length")
        if kind == "exponential":
            rate = -math.log(record["last"]) / (length - 1) if "last" in record else record["rate"]
            trend = Trend.exponential(rate, record.get("floor", 0.0))
        elif kind == "table":
            trend = Trend.table(record["values"])
        elif kind in ("inverse_cubic", "rope"):
            trend = Trend(kind, rate=record.get("rate", 0.0), coefficients=tuple(record["coefficients"]))
        else:
            raise ValueError(f"unknown kind {kind!r}")
        trend = replace(trend, length=length, source=record.get("source", where))
        if "between" in record:
            return Trend.factorised(trend, make(record["between"], where))
        return trend.per_frame() if record.get("scope") == "frame" else trend
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a trend: {error!s} in {record!r}") from None


@lru_cache(maxsize=64)
def _records(path: Path, changed: int) -> List[Dict[str, Any]]:
    records = parse(path.read_text(encoding="utf-8"), str(path))
    for record in records:
        if "method" not in record:
            raise ValueError(f"{path}: a [[trend]] without a method: {record!r}")
        record["method"] = names.method(record["method"])
        if record.setdefault("benchmark", EVERY) != EVERY:
            record["benchmark"] = names.benchmark(record["benchmark"])
    return records


def load(path: Union[str, Path] = PUBLISHED) -> List[Dict[str, Any]]:
    """All records of a trends file, names normalised."""
    path = Path(path)
    return [dict(record) for record in _records(path, os.stat(path).st_mtime_ns)]


def find(method: str, benchmark: Optional[str] = None, path: Union[str, Path] = PUBLISHED) -> Trend:
    """The trend of a method on a benchmark. Without a benchmark: its trend for every one, or the mean of its rates."""
    method = names.method(method)
    mine = {record["benchmark"]: record for record in load(path) if record["method"] == method}
    if not mine:
        known = sorted({record["method"] for record in load(path)})
        raise ValueError(f"{path} has no trend for {method!r}, only for {', '.join(known)}; fit one with Trend.fit")
    if EVERY in mine:
        return make(mine[EVERY], f"{path}, {method}")
    if benchmark is None:
        return mean([make(record, f"{path}, {method}") for record in mine.values()], method)
    benchmark = names.benchmark(benchmark)
    if benchmark not in mine:
        raise ValueError(
            f"{path} has no trend for {method!r} on {benchmark!r}, only on {', '.join(mine)}; without a "
            f"benchmark you get the mean of these"
        )
    return make(mine[benchmark], f"{path}, {method}, {benchmark}")


def mean(trends: Sequence[Trend], method: str) -> Trend:
    """One trend for all benchmarks: the exponential with the mean of the rates."""
    rates, lengths = [trend.rate for trend in trends], {trend.length for trend in trends}
    if len(lengths) != 1 or {(trend.kind, trend.scope) for trend in trends} != {("exponential", "sequence")}:
        raise ValueError(f"the trends of {method!r} are not exponentials of one length; name a benchmark")
    return replace(
        Trend.exponential(sum(rates) / len(rates)),
        length=lengths.pop(),
        source=f"mean of the {len(rates)} rates of {method}",
    )


def published(method: str, benchmark: Optional[str] = None) -> Trend:
    """A trend of the authors' release."""
    return find(method, benchmark)


def dump(records: Sequence[Dict[str, Any]], path: Union[str, Path]) -> None:
    """Write records to a trends file: describe(trend) with method, benchmark and where it comes from."""
    blocks = []
    for record in records:
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
        blocks.append("\n".join(["[[trend]]", *lines]))
    Path(path).write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
