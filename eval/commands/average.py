"""Averages over benchmarks. Each is a named, versioned recipe: averages of different recipes are never comparable.

examples:
  python -m eval average gqa=62.0 pope=85.9 mme=1510.7 ...                 every average that the scores suffice for
  python -m eval average gqa=59.3 pope=84.6 --baseline gqa=62.0 pope=85.9  also: the share of the baseline left
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from eval.core.tables import tell
from eval.scoring.averages import AVERAGES, averages, retention


def arguments(parser: argparse.ArgumentParser) -> None:
    """The scores, and those of a baseline."""
    parser.add_argument("scores", nargs="+", metavar="NAME=VALUE", help="scores, named as `score` names them")
    parser.add_argument("--baseline", nargs="+", default=[], metavar="NAME=VALUE", help="the unpruned model's scores")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the averages; returns them with their recipes, and the retention where there is a baseline."""
    values, baseline = _values(args.scores), _values(args.baseline)
    found = averages(values)
    if not found and not baseline:
        AVERAGES["avg10"](values)  # says what it lacks
    result: dict[str, Any] = {"averages": found, "recipes": {name: str(AVERAGES[name]) for name in found}}
    lines = [f"{name} {value:.2f}  ({AVERAGES[name]})" for name, value in found.items()]
    if baseline:
        result["retention"] = retention(values, baseline)
        lines.append(f"retention {result['retention']:.2f} %  (mean over {', '.join(baseline)})")
    if not args.json:
        tell("\n".join(lines))
    return result


def _values(words: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"expected NAME=VALUE, for example pope=85.9; found {word!r}") from None
    return values
