"""Answers the questions of a run: what is missing in its folder, batch by batch, arm by arm."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.answering.backends import Backend
from eval.answering.meter import Meter
from eval.answering.plan import Process, batches, share
from eval.answering.progress import Progress
from eval.answering.store import Folder
from eval.answering.team import Team
from eval.benchmarks.base import Benchmark
from eval.reading.sample import Sample, make_row

log = logging.getLogger("debias")


@dataclass(frozen=True)
class Identity:
    """Everything that decides the numbers; how fast they come (batches, processes) and where they go does not."""

    method: str  # the pruner, as Python writes it
    backend: str
    models: Mapping[str, str]  # "image" and "video" -> name and digest of the weights
    dtype: str
    attention: str
    device: str  # its kind
    trend: str
    limit: int | None
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """A short digest of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One benchmark of a run: its questions, and what answers them."""

    benchmark: Benchmark
    data: Path
    samples: Sequence[Sample]
    facts: Mapping[str, Any]
    backend: Callable[[], Backend]


def answer(
    run: Identity,
    folder: Folder,
    jobs: Sequence[Job],
    arms: Sequence[str],
    size: int,
    place: Process,
    device: str,
    team: Team | None = None,
) -> Meter:
    """Answer what is not answered yet. Batches are always the same, so that an interrupted run ends with the files
    of an uninterrupted one: a batch of which some rows are there is computed whole, and the missing rows are added."""
    plans = [batches(share(job.samples, place), size) for job in jobs]
    todo = [_missing(folder, job, arms, plan) for job, plan in zip(jobs, plans, strict=True)]
    todo = todo if team is None else team.agree(todo)
    total = sum(len(batch) for plan in plans for batch in plan) * len(arms)
    left = sum(len(keys) for part in todo for keys in part.values())
    if left < total:
        log.info("%d of %d answers are there already", total - left, total)
    meter = Meter()
    with Progress(total, total - left) as progress, meter.watching(device):
        for job, plan, missing in zip(jobs, plans, todo, strict=True):
            if any(missing.values()):
                _benchmark(run, folder, job, plan, missing, place.rank, progress, meter)
    return meter


def _missing(folder: Folder, job: Job, arms: Sequence[str], plan: Sequence[Sequence[Sample]]) -> dict[str, set[str]]:
    keys = {sample.key for batch in plan for sample in batch}
    name = job.benchmark.name
    return {arm: keys - {row["metadata"]["key"] for row in folder.rows(name, arm)} for arm in arms}


def _benchmark(
    run: Identity,
    folder: Folder,
    job: Job,
    plan: Sequence[Sequence[Sample]],
    missing: Mapping[str, set[str]],
    rank: int,
    progress: Progress,
    meter: Meter,
) -> None:
    name, backend = job.benchmark.name, job.backend()
    model = run.models[job.benchmark.media].split()[0]
    lacking = set().union(*missing.values())
    wanted = [batch for batch in plan if any(sample.key in lacking for sample in batch)]
    backend.ahead(wanted, job.benchmark)
    shards = {arm: folder.shard(name, arm, rank) for arm in missing}
    busy = getattr(backend, "busy", 0.0)
    try:
        for batch in wanted:
            meter.questions += len(batch)
            samples = {sample.key: sample for sample in batch}
            for arm, keys in missing.items():
                asked = keys & samples.keys()
                if not asked:
                    continue
                begun, open_ = time.perf_counter(), set(asked)
                times: list[float] = []
                for key, text, metadata in backend.answer(batch, arm, job.benchmark):
                    times.append(metadata.pop("ms", 0.0))  # never in a row: it differs every time
                    if key in open_:
                        open_.remove(key)
                        facts = {"benchmark": name, "arm": arm, "run": run.name, **metadata}
                        shards[arm].append(make_row(samples[key], text, f"{model} {run.method} {arm}", facts))
                if open_:
                    raise RuntimeError(
                        f"{name}: the backend left {sorted(open_)[0]!r} unanswered; expected every question"
                    )
                seconds = time.perf_counter() - begun
                folder.timing(rank, {"benchmark": name, "arm": arm, "n": len(batch), "seconds": seconds, "ms": times})
                meter.answers += len(batch)
                meter.seconds += seconds
                progress.advance(len(asked), f"{name} {arm}")
    finally:
        meter.busy += getattr(backend, "busy", 0.0) - busy
        for shard in shards.values():
            shard.close()
