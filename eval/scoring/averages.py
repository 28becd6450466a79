"""Averages over benchmarks. Each is a named, versioned recipe: averages of different recipes are never comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Average:
    """A recipe for one average."""

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

    def __str__(self) -> str:
        return f"{self.recipe}, version {self.version}"

    def complete(self, values: Mapping[str, float]) -> bool:
        """Whether there is a score of every member."""
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
