"""From settings to a report: answer what is missing, score it, compare the arms, write the run folder."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.answering.answer import Identity, Job, answer
from eval.answering.meter import Meter
from eval.answering.plan import Process, digest, this_process
from eval.answering.resolved import Resolved, resolve
from eval.answering.store import Folder, writing
from eval.answering.team import Team
from eval.benchmarks.base import Benchmark
from eval.bias.fitting import Probes
from eval.core import tables
from eval.core.files import writable
from eval.core.settings import UNPRUNED, Settings
from eval.core.tables import say
from eval.core.versions import versions
from eval.reading.sample import Sample
from eval.scoring import compare, judge
from eval.scoring.contrast import DRAWS, Contrast
from eval.scoring.judge import Judge
from eval.scoring.results import Scored, not_judged, questions, results, unjudged
from eval.showing import report

Loaded = Sequence[tuple[Benchmark, Path, Sequence[Sample]]]


@dataclass(frozen=True)
class Report:
    """The results of an evaluation. A notebook shows them as tables."""

    run: str  # the name of the run: a digest of everything that decides its numbers
    folder: Path | None  # the run folder; None in a process that leaves the writing to another
    open: int = 0  # answers that other processes still have to give; nothing is scored before they are there
    scored: Sequence[Scored] = ()  # every benchmark with its questions, and the answers and scores of every arm
    outcome: compare.Outcome = field(default_factory=compare.Outcome)  # of the comparison of the arms
    throughput: Mapping[str, Any] = field(default_factory=dict)  # how fast the answers came

    @property
    def complete(self) -> bool:
        """Whether every question of the run is answered."""
        return self.open <= 0

    @property
    def scores(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By benchmark and arm: the value, its parts, and how many answers are missing, failed or unjudged."""
        hidden = ("items", "groups")
        return {
            entry.benchmark.name: {
                arm: {name: value for name, value in asdict(result.score).items() if name not in hidden}
                | {"failed": result.failed, "tokens": result.tokens, "unjudged": len(result.score.unjudged)}
                for arm, result in entry.arms.items()
            }
            for entry in self.scored
        }

    @property
    def unjudged(self) -> int:
        """Answers that the judge gave no grade; they are left out of every arm."""
        return unjudged(self.scored)

    @property
    def verdict(self) -> str:
        """What the comparison shows, in one or two sentences."""
        return self.outcome.verdict

    @property
    def comparisons(self) -> Sequence[Contrast]:
        """Every arm against the baseline, on every benchmark and on their average."""
        return self.outcome.contrasts

    def table(self, wide: bool = False) -> str:
        """The tables as Markdown: one row a benchmark, or (`wide`) all arms and columns."""
        return "\n".join(map(tables.markdown, self.outcome.tables(wide)))

    def against(self, other: Report, arm: str = "none", draws: int = DRAWS) -> compare.Outcome:
        """An arm of this run compared with the same arm of another run, on the benchmarks that both have.

        draws: of the bootstrap. Returns a comparison with its `verdict`, `contrasts` and `full` tables.
        """
        if self.folder is None or other.folder is None:
            raise ValueError("this process wrote no run folder; compare the runs where their folders are")
        sides = [(Folder(folder), arm) for folder in (self.folder, other.folder)]
        contrasts, _ = compare.across(sides, None, None, draws, 0)
        return compare.told([], contrasts, draws, every=True)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as `run --json` prints it."""
        values: dict[str, Any] = {"run": self.run, "folder": self.folder and str(self.folder)}
        if self.folder:
            values |= {"complete": self.complete, "open": self.open}
        if self.folder and self.complete:
            values |= {"scores": self.scores, "averages": compare.arm_means(self.scored)}
            values |= {"verdict": self.verdict, "comparisons": [asdict(contrast) for contrast in self.comparisons]}
        return {**values, **({"exit": 1} if self.unjudged else {}), "throughput": dict(self.throughput)}

    def _repr_html_(self) -> str:
        """The tables as HTML, for notebooks."""
        said = f"<p>{html.escape(self.verdict or str(self.to_dict()))}</p>"
        return said + "".join(map(tables.html, self.outcome.tables(wide=False)))


def evaluate(settings: Settings, probes: Probes | None = None) -> Report:
    """Answer, score and compare what `settings` describe.

    probes: what was measured to fit trends; runs that are given the same dictionary measure nothing twice.
    Returns the run's Report; its folder holds the answers, the scores and the tables. A second call with equal settings
    goes on where the first stopped, or returns the finished run. ValueError: something asked for cannot be done,
    which is said before a model is loaded wherever that can be known.
    """
    place = this_process()
    chosen = resolved(settings)
    chosen.probes = chosen.probes if probes is None else probes
    loaded = prepared(chosen)
    run, out = named(chosen)
    team = Team(place, chosen.device) if settings.tensor_parallel or settings.zero else None
    if team is not None:
        out, place = team.folder(out), Process(local=place.local)
    grader = judge.judge_of(settings.judge)
    if not (out / "run.json").exists():
        writable(out)
        chosen.backend(loaded[0][0])  # what cannot be loaded leaves no folder behind
    folder = Folder(out).claim(asdict(run), run.name, place.rank, place.size)
    try:
        jobs = [
            Job(b, data, samples, chosen.facts(b), lambda b=b: chosen.backend(b))  # type: ignore[misc]
            for b, data, samples in loaded
        ]
        for job in jobs:
            seen = {"n": len(job.samples), "digest": digest(job.samples), **job.facts}
            folder.note(job.benchmark.name, seen, {"data": str(job.data.resolve())})
        meter = answer(run, folder, jobs, chosen.arms, settings.batch_size, place, chosen.device, team)
    finally:
        chosen.close()
        folder.close()
        if team is not None:
            team.close()
    if team is not None and not team.leads:
        return Report(run.name, None, throughput=meter.summary())
    if meter.answers:
        say(meter.line())
    return finish(folder, [b.name for b, _, _ in loaded], chosen, grader, meter)


def planned(settings: Settings) -> dict[str, Any]:
    """What `evaluate` would answer, and where it would go; nothing is loaded or written."""
    chosen = resolved(settings)
    loaded = prepared(chosen)
    run, out = named(chosen)
    counts = {benchmark.name: len(samples) for benchmark, _, samples in loaded}
    places = {benchmark.name: str(data) for benchmark, data, _ in loaded}
    return {"run": asdict(run), "out": str(out), "benchmarks": counts, "arms": chosen.arms, "data": places}


def resolved(settings: Settings) -> Resolved:
    """The resolved run. Left to the defaults, the unpruned model answers beside the arms of the method."""
    chosen = resolve(settings)
    if settings.unpruned and not settings.arms:
        chosen.arms = [UNPRUNED, *chosen.arms]
    return chosen


def named(chosen: Resolved) -> tuple[Identity, Path]:
    """What decides the numbers of a run, and its folder."""
    settings = chosen.settings
    run = Identity(**chosen.identity(), limit=settings.limit, versions=versions())
    return run, settings.out or Path("runs") / f"{settings.method}-{run.name}"


def prepared(chosen: Resolved) -> Loaded:
    """The questions of every benchmark, once it is known that their files are there."""
    settings = chosen.settings
    loaded = [
        (b, data, questions(b, data, settings.limit, settings.options.get(b.name))) for b, data in chosen.benchmarks
    ]
    for benchmark, _, samples in loaded:
        if settings.limit and len(samples) > settings.limit:
            say(
                f"{benchmark.name}: {len(samples)} questions, not {settings.limit}: what belongs together is asked "
                "together"
            )
    if settings.check:
        check(chosen)
    if not settings.skip_broken:
        present(loaded)
    return loaded


def check(chosen: Resolved) -> None:
    """Read every record and every picture before a model is loaded."""
    wrong = 0
    for benchmark, data in chosen.benchmarks:
        for fault in benchmark.check(data, **chosen.settings.options.get(benchmark.name, {})):
            say(f"{'note' if fault.warning else 'broken'}: {benchmark.name}: {fault}")
            wrong += not fault.warning
    if wrong and not chosen.settings.skip_broken:
        raise ValueError(
            f"{wrong} broken records or pictures (above). Repair them, or continue without them: --skip-broken"
        )


def present(loaded: Loaded) -> None:
    """ValueError unless every picture and clip is there. Whether they are whole shows when they are read."""
    for benchmark, _, samples in loaded:
        wanted = {path: sample for sample in samples if isinstance(path := sample.image or sample.video, Path)}
        gone = [path for path in wanted if not os.path.isfile(path)]  # also of a name that no file can have
        if gone:
            raise ValueError(
                f"{benchmark.name}: {len(gone):,} of {len(wanted):,} files are missing, first {gone[0]} of question "
                f"{wanted[gone[0]].key!r}. Put them there, or continue without them, counted as wrong: --skip-broken"
            )


def finish(folder: Folder, names: Sequence[str], chosen: Resolved, grader: Judge | None, meter: Meter) -> Report:
    """Scores and comparisons, once all shards of all processes are there; the last process to finish writes them."""
    info, settings = folder.info(), chosen.settings
    open_ = sum(
        facts["n"] - len(folder.rows(name, arm))
        for name, facts in info["benchmarks"].items()
        for arm in {*folder.arms(name), *(chosen.arms if name in names else ())}
    )
    finished = Report(info["run"], folder.path, open_, throughput=meter.summary())
    if open_ > 0:
        say(f"{open_} answers of other processes are still to come; the last to finish writes the scores")
        return finished
    scored = results(folder, judge=grader)
    if not scored:
        return finished
    seen = compare.outcome(f"{settings.method}: {info['settings']['method']}", scored, settings.draws)
    finished = Report(info["run"], folder.path, open_, scored, seen, meter.summary())
    folder.save("scores.json", {"run": info["run"], "scores": finished.scores})
    with writing(folder.path):
        tables.write(seen.full, folder.path)
    report.write(folder, scored, seen, folder.path / "report.html", settings.report_samples)
    say(f"rows, scores, tables and report.html are in {folder.path}")
    if finished.unjudged:
        say(not_judged(finished.unjudged))
    return finished
