"""How strongly a method's score follows position, and how strongly its choice does, before and after debiasing.

sigma is that of mu exp(sigma x), x from 0 at the first visual token to 1 at the last: fitted to the logarithm of the
mean score, and to how often each position is among the highest ones, as many as the method's first cut keeps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from debias import Trend
from debias.trends import EVERY, PUBLISHED, load
from eval.answering.resolved import Resolved
from eval.bias.diagnose import arms
from eval.bias.diagnosis import bracket
from eval.bias.fitting import calibration
from eval.bias.probe import first_cut
from eval.bias.settings import DiagnosisSettings
from eval.bias.strength import Measured
from eval.core.settings import QUESTIONS
from eval.core.tables import Table, say
from eval.papers import artefacts
from eval.papers.artefacts import Planned, published_rows
from eval.papers.task import Task
from eval.reading.media import request
from eval.reading.sample import Sample
from eval.showing import charts, drawings

T = TypeVar("T")
KINDS = {"rise": "of the score", "kept_rise": "of how often a position is kept"}


def strength(task: Task) -> list[Table]:
    """Every method in every arm, with the published rows and the steepness of the released weights beside it."""
    known = artefacts.published(task.artefact.published)
    least, most = artefacts.tables()["strength"]["scores"]
    rows: list[list[Any]] = []
    beyond: list[str] = []
    drawn: dict[str, Mapping[str, Mapping[str, Measured]]] = {}
    seen = {}
    possible, left = each(task, measured)
    for planned, (by_arm, keep, pictures, tokens) in possible:
        seen[planned.label] = f"{planned.label} {keep} of {tokens} tokens, {pictures} pictures"
        drawn[planned.label] = by_arm
        for arm, by_kind in by_arm.items():
            rows.append([planned.label, arm, "ours", *(bracket(by_kind[kind]) for kind in KINDS)])
            rows += published_rows(known, planned, arm, lambda row: [f"{row.values[k]:.2f}" for k in ("score", "kept")])
        if (steep := released(planned.method)) is not None:
            low, high = steep
            shown = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
            rows.append([planned.label, None, "released weights", shown, None])
            beyond += [planned.label] if low < least or high > most else []
    drawings.save(charts.strengths(drawn, {kind: f"sigma {text}" for kind, text in KINDS.items()}),
                  task.here / "figures" / "strength")  # fmt: skip
    notes = [
        "sigma of mu exp(sigma x), x in [0, 1] along the visual tokens; in brackets 95 % over pictures, and where a "
        "trend divides also over what its fit leaves unsure. The trend is fitted to one half of the pictures, "
        "everything is measured on the other; trend equals none where that half agrees on no trend. Arms that silence "
        "padding are measured on what is left.",
        f"First cut of each method: {'; '.join(seen.values())}; one question a picture.",
        "released weights: sigma of the vectors that the authors' release divides by, least to most over benchmarks "
        f"(FastV's is no exponential: the best fit). Beyond the {least:.2f} to {most:.2f} that the summary tells of "
        f"the scores: {', '.join(beyond) or 'none'}.",
        *left,
        *artefacts.sources(task.artefact),
    ]
    head = ["run", "arm", "whose", *(f"sigma {text}" for text in KINDS.values())]
    return [Table(task.artefact.title, head, rows, notes, keys=2)]


def each(task: Task, measure: Callable[[Task, Planned], T]) -> tuple[list[tuple[Planned, T]], list[str]]:
    """Every run with what is measured of it, and what was left out, in words: not every model can do every run."""
    measured: list[tuple[Planned, T]] = []
    left = []
    for planned in task.artefact.runs:
        try:
            measured.append((planned, measure(task, planned)))
        except ValueError as error:
            left.append(f"{planned.label} was left out: {error}")
            say(left[-1])
    if not measured:
        raise ValueError(left[0])
    return measured, left


def measured(task: Task, planned: Planned) -> tuple[dict[str, dict[str, Measured]], int, int, int]:
    """Arm -> both sigmas of one method; how many tokens stay at its first cut, how many pictures, how many tokens."""
    with task.resolved(planned) as chosen:
        requests = [request(sample, conversation) for conversation, sample in pictures(task, chosen)]
        seen, keep = first_cut(chosen.adapter(task.media), chosen.pruner, requests, chosen.settings.batch_size)
    by_arm = arms(seen, seen.heads_mean[:, 0], DiagnosisSettings(keep=keep), planned.arms)
    return by_arm, keep, len(seen.spans), len(seen.spans[0])


def pictures(task: Task, chosen: Resolved) -> list[tuple[str | None, Sample]]:
    """One question of every picture, the benchmarks mixed, and the conversation that each is asked in."""
    data = task.base.data or chosen.heldout(task.media)
    limit = QUESTIONS if task.base.limit is None else max(4, task.base.limit)
    first: dict[str, tuple[str | None, Sample]] = {}
    for benchmark, samples in calibration(task.media, data, list(task.benchmarks), limit):
        for sample in samples:
            first.setdefault(str(sample.image), (benchmark.conversation, sample))
    shown = list(first.values())
    random.Random(0).shuffle(shown)
    return shown


def released(method: str) -> tuple[float, float] | None:
    """Least and largest sigma of the vectors that the authors' release has for a method; None: it has none."""
    sigmas = []
    for record in load(PUBLISHED):
        if record["method"] == method:
            benchmark = None if record["benchmark"] == EVERY else record["benchmark"]
            length = int(record["length"])
            rate = Trend.fit(1 / Trend.published(method, benchmark).curve(length)).rate
            sigmas.append(rate * (length - 1))
    return (min(sigmas), max(sigmas)) if sigmas else None
