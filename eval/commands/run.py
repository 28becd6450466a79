"""Answer benchmarks with a pruning method, in arms with and without debiasing, and compare the arms.

examples:
  python -m eval run --method fastv                                       the embedded model and data
  python -m eval run --method fastv --keep 64 --layer 3 --benchmarks pope,gqa --limit 500
  python -m eval run --method fastv --keep 128 --model llava-hf/llava-1.5-7b-hf --data playground/data/eval \\
                     --batch-size 8 --out runs/fastv-128
  torchrun --nproc-per-node 8 -m eval run --method fastv ...              one process per GPU, each its share
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval import tables
from eval.answering import choices
from eval.answering.backends import Backend
from eval.answering.plan import World, batches, digest, share, world
from eval.answering.progress import Progress
from eval.answering.store import Folder, writing
from eval.answering.team import Team
from eval.benchmarks.base import Benchmark
from eval.commands import flags
from eval.comparing import compare
from eval.comparing.results import not_judged, questions, results, unjudged
from eval.sample import Sample, make_row
from eval.scoring import judge
from eval.showing import report
from eval.speed.throughput import Meter, Watch
from eval.tables import say
from eval.versions import versions

log = logging.getLogger("debias")


@dataclass(frozen=True)
class Run:
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
    run: Run,
    folder: Folder,
    jobs: Sequence[Job],
    arms: Sequence[str],
    size: int,
    place: World,
    device: str,
    team: Team | None = None,
) -> Meter:
    """Answer what is not answered yet. Batches are always the same ones, so that an interrupted run ends with the files
    of an uninterrupted one: a batch of which some rows are there is computed whole, and the missing rows are added."""
    plans = [batches(share(job.samples, place), size) for job in jobs]
    todo = [_missing(folder, job, arms, plan) for job, plan in zip(jobs, plans, strict=True)]
    todo = todo if team is None else team.agree(todo)
    total = sum(len(batch) for plan in plans for batch in plan) * len(arms)
    left = sum(len(keys) for part in todo for keys in part.values())
    if left < total:
        log.info("%d of %d answers are there already", total - left, total)
    meter = Meter()
    with Progress(total, total - left) as progress, Watch(meter, device):
        for job, plan, missing in zip(jobs, plans, todo, strict=True):
            if any(missing.values()):
                _benchmark(run, folder, job, arms, plan, missing, place, progress, meter)
    return meter


def _missing(folder: Folder, job: Job, arms: Sequence[str], plan: Sequence[Sequence[Sample]]) -> dict[str, set[str]]:
    keys = {sample.key for batch in plan for sample in batch}
    name = job.benchmark.name
    return {arm: keys - {row["metadata"]["key"] for row in folder.rows(name, arm)} for arm in arms}


def _benchmark(
    run: Run,
    folder: Folder,
    job: Job,
    arms: Sequence[str],
    plan: Sequence[Sequence[Sample]],
    missing: Mapping[str, set[str]],
    place: World,
    progress: Progress,
    meter: Meter,
) -> None:
    name, backend = job.benchmark.name, job.backend()
    model = run.models[job.benchmark.media].split()[0]
    wanted = [batch for batch in plan if any(sample.key in missing[arm] for sample in batch for arm in arms)]
    if hasattr(backend, "ahead"):
        backend.ahead(wanted, job.benchmark)
    shards = {arm: folder.shard(name, arm, place.rank) for arm in arms}
    busy = getattr(backend, "busy", 0.0)
    try:
        for batch in wanted:
            meter.questions += len(batch)
            samples = {sample.key: sample for sample in batch}
            for arm in arms:
                lacking = missing[arm] & samples.keys()
                if not lacking:
                    continue
                begun = time.perf_counter()
                open_ = set(lacking)
                times: list[float] = []
                for key, text, metadata in backend.answer(batch, arm, job.benchmark):
                    times.append(metadata.pop("ms", 0.0))  # never in a row: it is another one every time
                    if key in open_:
                        open_.remove(key)
                        facts = {"benchmark": name, "arm": arm, "run": run.name, **metadata}
                        shards[arm].append(make_row(samples[key], text, f"{model} {run.method} {arm}", facts))
                if open_:
                    raise RuntimeError(
                        f"{name}: the backend left {sorted(open_)[0]!r} unanswered; expected every question"
                    )
                seconds = time.perf_counter() - begun
                folder.timing(
                    place.rank, {"benchmark": name, "arm": arm, "n": len(batch), "seconds": seconds, "ms": times}
                )
                meter.answers += len(batch)
                meter.seconds += seconds
                progress.advance(len(lacking), f"{name} {arm}")
    finally:
        meter.busy += getattr(backend, "busy", 0.0) - busy
        for shard in shards.values():
            shard.close()


def check(chosen: choices.Choice, skip_broken: bool) -> None:
    """Read every record and every picture before a model is loaded."""
    wrong = 0
    for benchmark, data in chosen.benchmarks:
        for fault in benchmark.check(data, **chosen.options.get(benchmark.name, {})):
            say(f"{'note' if fault.warning else 'broken'}: {benchmark.name}: {fault}")
            wrong += not fault.warning
    if wrong and not skip_broken:
        raise ValueError(
            f"{wrong} broken records or pictures (above). Repair them, or go on without them: --skip-broken"
        )


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    flags.arguments(parser)
    judge.arguments(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    methods = flags.methods(args.method)
    if len(methods) == 1:
        args.method = methods[0]
        return one(args)
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for method in methods:
        say(f"\n{method}")
        mine = argparse.Namespace(**{**vars(args), "method": method, "out": args.out and str(Path(args.out) / method)})
        try:
            done[method] = one(mine)
        except ValueError as error:  # the others can still run
            if args.tensor_parallel or args.zero:  # but not with processes that know nothing of it
                raise
            failed[method] = str(error)
            say(f"{method}: {error}")
    if any("averages" in found for found in done.values()):
        shown = overview(done)
        tables.show(shown)
        if args.out:
            tables.write([shown], Path(args.out))
    if failed:
        say(f"not done: {', '.join(failed)} (messages above)")
    wrong = failed or any(found.get("exit") for found in done.values())
    return {"methods": done, "failed": failed, "exit": 1 if wrong else 0}


def overview(done: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """Methods by arms: the average over the benchmarks."""
    arms = list(dict.fromkeys(arm for found in done.values() for arm in found.get("averages", {})))
    rows = []
    for method, found in done.items():
        values = found.get("averages", {})
        last = next((c for c in found.get("comparisons", []) if c["benchmark"] == "average" and c["b"] == "both"), None)
        interval = f"{last['delta']:+.2f} [{last['low']:+.2f}, {last['high']:+.2f}]" if last else None
        rows.append([method, *(values.get(arm) for arm in arms), interval])
    notes = ["Mean over the benchmarks (MME / 20); both - none with its 95 % interval."]
    scores = [score for found in done.values() for arms in found.get("scores", {}).values() for score in arms.values()]
    if failed := sum(score["failed"] for score in scores):
        notes.append(compare.broken(failed))
    return tables.Table("All methods", ["method", *arms, "both - none"], rows, notes)


def one(args: argparse.Namespace) -> dict[str, Any]:
    place = world()
    chosen = choices.choose(args)
    loaded = [(b, data, questions(b, data, args.limit, chosen.options.get(b.name))) for b, data in chosen.benchmarks]
    if args.check:
        check(chosen, args.skip_broken)
    if not args.skip_broken:
        present(loaded)
    run = Run(**chosen.identity(), limit=args.limit, versions=versions())
    out = Path(args.out or Path("runs") / f"{args.method}-{run.name}")
    if args.dry_run:
        return plan(run, out, loaded, chosen.arms)
    grader = judge.from_arguments(args)
    team = Team(place, chosen.device) if args.tensor_parallel or args.zero else None
    if team is not None:
        out, place = team.folder(out), World(local=place.local)
    folder = Folder(out).claim(asdict(run), run.name, place.rank, place.size)
    try:
        jobs = [
            Job(b, data, samples, chosen.facts(b), lambda b=b: chosen.backend(b))  # type: ignore[misc]
            for b, data, samples in loaded
        ]
        for job in jobs:
            seen = {"n": len(job.samples), "digest": digest(job.samples), **job.facts}
            folder.note(job.benchmark.name, seen, {"data": str(job.data.resolve())})
        meter = answer(run, folder, jobs, chosen.arms, args.batch_size, place, chosen.device, team)
    finally:
        chosen.close()
        folder.close()
        if team is not None:
            team.close()
    if team is not None and not team.leads:
        return {"run": run.name, "folder": None, "throughput": meter.summary()}
    if meter.answers:
        say(meter.line())
    summary = finish(folder, [b.name for b, _, _ in loaded], chosen.arms, grader, args)
    return {**summary, "throughput": meter.summary()}


def plan(
    run: Run, out: Path, loaded: Sequence[tuple[Benchmark, Path, Sequence[Sample]]], arms: Sequence[str]
) -> dict[str, Any]:
    """What would run (`--dry-run`)."""
    rows: list[list[tables.Cell]] = [
        [b.name, len(samples), len(samples) * len(arms), str(data)] for b, data, samples in loaded
    ]
    head = ["benchmark", "questions", "answers", "data"]
    tables.show(tables.Table(f"{run.method} on {run.models.get('image') or run.models.get('video')}", head, rows))
    say(f"arms: {', '.join(arms)}; rows would go to {out}; nothing was run")
    return {"run": asdict(run), "out": str(out), "benchmarks": {row[0]: row[1] for row in rows}, "arms": list(arms)}


def present(loaded: Sequence[tuple[Benchmark, Path, Sequence[Sample]]]) -> None:
    """Every picture and clip is there; what is in them shows when they are read, or with `--check`."""
    for benchmark, _, samples in loaded:
        wanted = {path: sample for sample in samples if isinstance(path := sample.image or sample.video, Path)}
        gone = [path for path in wanted if not os.path.isfile(path)]  # also of a name that no file can have
        if gone:
            raise ValueError(
                f"{benchmark.name}: {len(gone):,} of {len(wanted):,} files are missing, first {gone[0]} of question "
                f"{wanted[gone[0]].key!r}. Put them there, or go on without them, counted as wrong: --skip-broken"
            )


def finish(
    folder: Folder, names: Sequence[str], arms: Sequence[str], grader: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """Scores and comparisons, once all shards of all processes are there; whoever ends last writes them."""
    info = folder.info()
    open_ = sum(
        facts["n"] - len(folder.rows(name, arm))
        for name, facts in info["benchmarks"].items()
        for arm in {*folder.arms(name), *(arms if name in names else ())}
    )
    summary: dict[str, Any] = {"run": info["run"], "folder": str(folder.path), "complete": open_ <= 0, "open": open_}
    if open_ > 0:
        say(f"{open_} answers of other processes are still to come; the last one to finish writes the scores")
        return summary
    scored = results(folder, judge=grader)
    if not scored:
        return {**summary, "scores": {}, "averages": {}, "comparisons": []}
    scores = {
        one.benchmark.name: {
            arm: {name: value for name, value in asdict(result.score).items() if name not in ("items", "groups")}
            | {"failed": result.failed, "tokens": result.tokens, "unjudged": len(result.score.unjudged)}
            for arm, result in one.arms.items()
        }
        for one in scored
    }
    folder.save("scores.json", {"run": info["run"], "scores": scores})
    shown = [compare.score_table(f"{args.method}: {info['settings']['method']}", scored)]
    baseline = "none" if any("none" in one.arms for one in scored) else next(iter(scored[0].arms))
    found = compare.within(scored, baseline, args.draws)
    if found:
        shown.append(compare.contrast_table(found, args.draws, compare.failures(scored)))
    for table in shown:
        tables.show(table)
    with writing(folder.path):
        tables.write(shown, folder.path)
    report.write(folder, scored, shown, folder.path / "report.html", args.report_samples)
    say(f"rows, scores, tables and report.html are in {folder.path}")
    if left := unjudged(scored):
        say(not_judged(left))
    return {
        **summary,
        **({"exit": 1} if left else {}),
        "scores": scores,
        "averages": compare.arm_means(scored),
        "comparisons": [asdict(one) for one in found],
    }
