"""Trends on disk: the published trends, and files of the same form with trends that users fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

from debias import records
from debias.records import EVERY, PUBLISHED, describe, dump, load, parse
from debias.trend import Trend

__all__ = ["EVERY", "PUBLISHED", "describe", "dump", "find", "load", "make", "mean", "parse"]


def find(method: str, benchmark: Optional[str] = None, path: Union[str, Path] = PUBLISHED) -> Trend:
    """The trend of a method on a benchmark. Without a benchmark: its one trend, or the mean of its rates."""
    return records.find(Trend, method, benchmark, path)


def make(record: Dict[str, Any], where: str) -> Trend:
    """The trend that a record describes; keys that say where it comes from stay with the record."""
    return records.make(Trend, record, where)


def mean(trends: Sequence[Trend], method: str) -> Trend:
    """One trend for all benchmarks: the exponential with the mean of the rates."""
    return records.mean(Trend, trends, method)
