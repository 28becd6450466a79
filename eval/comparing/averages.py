"""Averages over benchmarks. Each is a named, versioned recipe: averages of different recipes are never comparable.

examples:
  python -m eval average gqa=62.0 pope=85.9 mme=1510.7 ...                 every average that the scores suffice for
  python -m eval average gqa=59.3 pope=84.6 --baseline gqa=62.0 pope=85.9  also: the share of the baseline left
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.tables import tell


@dataclass(frozen=True)
class Average:
    name: str
    recipe: str
    version: int
    members: tuple[str, ...]  # names of scores, so that a stand-in cannot slip into an official average
    scale: tuple[tuple[str, float], ...] = (("mme", 1 / 20),)  # MME perception, at most 2000, to 0..100

    def __call__(self, values: Mapping[str, float]) -> float:
        """The plain mean of the members; a member that is missing is an error, never left out."""
        missing = [name for name in self.members if name not in values]
        if missing:
            raise ValueError(f"{self.name} needs {', '.join(missing)}; expected a score of each of its members")
        scale = dict(self.scale)
        return sum(values[name] * scale.get(name, 1) for name in self.members) / len(self.members)

    def complete(self, values: Mapping[str, float]) -> bool:
        return all(name in values for name in self.members)


OFFLINE = ("gqa", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn")

AVERAGES = {
    average.name: average
    for average in (
        # The paper's ten. Only MME perception / 20 and the mean of POPE's three F1 give its 63.1 for LLaVA-1.5-7B.
        Average("avg10", "mme_perception_over_20", 1, ("vqav2", *OFFLINE, "vizwiz", "mmvet")),
        # What can be scored without a server or a judge.
        Average("avg_offline", "mme_perception_over_20, offline members only", 1, OFFLINE),
        # The ten with offline stand-ins for the three that cannot: for comparing arms, never with the paper.
        Average(
            "avg10_stand_in",
            "mme_perception_over_20, vqav2 val2014, vizwiz val, mmvet by words",
            1,
            ("vqav2_val", *OFFLINE, "vizwiz_val", "mmvet_em"),
        ),
        Average("avg_video", "mean accuracy of the judge", 1, ("tgif", "msvd", "msrvtt")),
        Average("avg_video_em", "mean share of answers that hold the true one", 1, ("tgif_em", "msvd_em", "msrvtt_em")),
        Average("avg_refcoco", "mean of the sets' split means", 1, ("refcoco", "refcoco+", "refcocog")),
    )
}


def averages(values: Mapping[str, float]) -> dict[str, float]:
    """All the averages that the scores are complete for."""
    return {name: average(values) for name, average in AVERAGES.items() if average.complete(values)}


def retention(values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Mean share of the unpruned model's score that is left, in percent, over the baseline's benchmarks."""
    missing = [name for name in baseline if name not in values]
    if missing:
        raise ValueError(f"retention needs {', '.join(missing)}, which the baseline has; expected a score of each")
    if not baseline:
        raise ValueError("retention needs a baseline with at least one score")
    zero = [name for name, value in baseline.items() if not value]
    if zero:
        raise ValueError(f"retention cannot be relative to a score of 0 ({', '.join(zero)})")
    return 100 * sum(values[name] / value for name, value in baseline.items()) / len(baseline)


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
    found: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"expected NAME=VALUE, for example pope=85.9; found {word!r}") from None
    return found
