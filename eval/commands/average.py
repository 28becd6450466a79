"""Averages over benchmarks. Each is a named, versioned recipe: averages of different recipes are never comparable.

examples:
  python -m eval average gqa=62.0 pope=85.9 mme=1510.7 ...                 every average that the scores suffice for
  python -m eval average gqa=59.3 pope=84.6 --baseline gqa=62.0 pope=85.9  also: the share of the baseline left
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from eval.comparing.averages import AVERAGES, averages, retention
from eval.tables import tell


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument("scores", nargs="+", metavar="NAME=VALUE", help="scores, named as `score` names them")
    parser.add_argument("--baseline", nargs="+", default=[], metavar="NAME=VALUE", help="the unpruned model's scores")

    def work(args: argparse.Namespace) -> dict[str, Any]:
        values, baseline = _values(args.scores), _values(args.baseline)
        result: dict[str, Any] = {"averages": averages(values), "recipes": {}}
        if not result["averages"] and not baseline:
            AVERAGES["avg10"](values)  # says what it lacks
        if baseline:
            result["retention"] = retention({name: values[name] for name in baseline if name in values}, baseline)
        for name, value in result["averages"].items():
            average = AVERAGES[name]
            result["recipes"][name] = f"{average.recipe}, version {average.version}"
            if not args.json:
                tell(f"{name} {value:.2f}  ({result['recipes'][name]})")
        if baseline and not args.json:
            tell(f"retention {result['retention']:.2f} %  (mean over {', '.join(baseline)})")
        return result

    return work


def _values(words: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"expected NAME=VALUE, for example pope=85.9; found {word!r}") from None
    return values
