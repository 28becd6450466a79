"""Runs the artefacts of the papers: answers what is not answered yet, measures, and writes tables beside the runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from debias import names
from debias.names import one_of
from debias.release import RELEASES
from eval import benchmarks
from eval.answering.checkpoints import layout
from eval.answering.store import Folder
from eval.bias.fitting import Probes, prior
from eval.core import tables
from eval.core.embedded import data_of, world_of
from eval.core.settings import Settings, command_line
from eval.core.tables import Table, say
from eval.evaluation import evaluate
from eval.evaluation import planned as planned_run
from eval.papers import artefacts, budgets, grid, measures, strengths, ways
from eval.papers.artefacts import REFCOCO, Artefact, Planned
from eval.papers.task import Task


def overview() -> dict[str, Any]:
    """Shows and returns what can be reproduced, and the paper's tables with their counterparts here."""
    known = artefacts.artefacts()
    rows = [[a.name, a.title, len(a.runs) or a.measure, a.model, ", ".join(a.published)] for a in known.values()]
    tables.show(Table("What can be reproduced", ["name", "title", "runs", "made for", "published tables"], rows))
    shown = artefacts.paper()
    tables.show(
        Table(
            "The debiasing paper's tables and figures, and their counterparts here",
            ["in the paper", "shows", "artefact", "note"],
            [[item.item, item.shows, item.artefact, item.note] for item in shown],
            ["Read from a third-party summary; a ? stands for a number that it does not say."],
        )
    )
    return {
        "artefacts": {a.name: {"title": a.title, "runs": [r.label for r in a.runs]} for a in known.values()},
        "paper": [vars(item) for item in shown],
    }


def released(artefact: Artefact) -> Artefact:
    """An artefact with every run that the authors' release has done a second time, as released."""
    runs: list[Planned] = []
    for run in artefact.runs:
        runs.append(run)
        arms = tuple(arm for arm in run.arms if arm in ("none", "padding", "both"))
        if arms and run.method in RELEASES and run.stages in (None, "first"):
            runs.append(replace(run, label=f"{run.label}{artefacts.TWIN}", arms=arms, as_released=True))
    if len(runs) == len(artefact.runs):
        raise ValueError(f"{artefact.name} has no run of the release's methods ({', '.join(RELEASES)})")
    return replace(artefact, runs=tuple(runs))


def task(
    artefact: Artefact,
    out: Path,
    base: Settings,
    wanted: str | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> Task:
    """An artefact as a task. wanted: only these of its benchmarks; fields: of each method, what else is asked for."""
    asked = Task(artefact, out, base, some(artefact, wanted), fields or {})
    say(f"\n{artefact.name}: {artefact.title}")
    if base.model is None:
        say(f"on the embedded model; the published numbers belong to {artefact.model}")
    return asked


def listed(asked: Task) -> dict[str, Any]:
    """What of an artefact is done, shown and returned."""
    asked, absent = held(asked)
    runs = status(asked)
    tables.show(state_table(asked, runs))
    return {"name": asked.artefact.name, "runs": runs, "absent": absent}


def reproduced(asked: Task, dry: bool = False) -> dict[str, Any]:
    """Runs what is not done yet, measures, and shows and writes the tables. dry: only says what would run."""
    asked, absent = held(asked)
    artefact = asked.artefact
    if artefact.measure == "grid" and not dry:
        asked = grid.prepare(asked)
    failed = answer(asked, dry) if artefact.measure in ANSWERED else {}
    exit_code = 1 if failed or absent else 0
    if dry:
        say(f"{artefact.name}: nothing was run")
        return {"name": artefact.name, "failed": failed, "absent": absent, "exit": exit_code}
    asked.here.mkdir(parents=True, exist_ok=True)
    shown = MEASURES[artefact.measure](asked)
    if unfinished := asked.unfinished() if artefact.measure in ANSWERED else {}:
        open_ = "; ".join(f"{label} ({count} answers)" for label, count in unfinished.items())
        shown = [*shown[:-1], replace(shown[-1], notes=[*shown[-1].notes, f"Left out, as unfinished: {open_}."])]
    for table in shown:
        tables.show(table)
    tables.write(shown, asked.here)
    asked.write("artefact.json", plain(shown))
    if absent:
        say(f"missing in {asked.base.data}: {', '.join(absent)}; docs/benchmarks.md says where each comes from")
    for label, message in failed.items():
        say(f"{label} was not done: {message}")
    say(f"tables and runs are in {asked.here}")
    return {"name": artefact.name, "tables": plain(shown), "failed": failed, "absent": absent, "exit": exit_code}


def some(artefact: Artefact, text: str | None) -> tuple[str, ...]:
    """The artefact's benchmarks, or those of them that are asked for."""
    if text is None:
        return artefact.benchmarks
    known = artefact.benchmarks
    return tuple(one_of(f"benchmark of {artefact.name}", names.benchmark(word), known) for word in text.split(","))


def plain(shown: Sequence[Table]) -> list[dict[str, Any]]:
    """Tables as JSON holds them."""
    return [{"title": t.title, "head": t.head, "rows": t.rows, "notes": t.notes} for t in shown]


def held(task: Task) -> tuple[Task, list[str]]:
    """The task on the benchmarks that the data holds, and the names of the others; without runs for other models."""
    tokens = layout(task.checkpoint).tokens
    runs = tuple(run for run in task.artefact.runs if run.tokens in (None, tokens))
    task, data = replace(task, artefact=replace(task.artefact, runs=runs)), task.base.data
    world = world_of(task.base.model)
    if task.artefact.measure == "scores" and not world.boxes and set(task.benchmarks) <= set(REFCOCO):
        raise ValueError(
            f"{Path(task.checkpoint).name} was not taught to answer with a box, so {task.artefact.name} cannot score "
            "its answers; `reproduce iou` measures where the tokens that are kept lie"
        )
    there = data or data_of(task.base.model, benchmarks=task.benchmarks)
    present = tuple(name for name in task.benchmarks if benchmarks.get(name).lies_in(there))
    if not present:
        whose = f"the {world.name}" if data is None else f"--data {data}"
        wanted = ", ".join(task.benchmarks)
        raise ValueError(f"{whose} holds none of {wanted}; docs/benchmarks.md says where each comes from")
    absent = [name for name in task.benchmarks if name not in present and data is not None]
    return replace(task, benchmarks=present), absent


def answer(task: Task, dry: bool) -> dict[str, str]:
    """Answer what is not answered; returns what could not be done, and why."""
    failed = {}
    probes: Probes = {}  # one measurement of a method at a layer serves all its budgets and kinds of trend
    for planned in task.artefact.runs:
        say(f"\n{task.artefact.name} / {planned.label}")
        try:
            settings = task.settings(planned)
            if dry:
                plan = planned_run(settings)
                count = sum(plan["benchmarks"].values())
                say(f"{count:,} questions in {len(plan['arms'])} arms; rows would go to {plan['out']}")
                continue
            if planned.method == "d2pruner" and task.prior is not None:
                prepare_prior(task, planned, settings, task.prior)
            report = evaluate(settings, probes)
            if task.artefact.measure != "iou":  # which is about tokens, not about answers
                report.outcome.show(wide=False)
            if not report.complete:
                failed[planned.label] = f"{report.open} answers are to come from other processes"
            elif report.unjudged:
                failed[planned.label] = "some answers were not judged"
        except (ValueError, OSError) as error:  # the others can still run
            failed[planned.label] = str(error)
            say(str(error))
    return failed


def prepare_prior(task: Task, planned: Planned, settings: Settings, out: Path) -> None:
    """Measure the average attention that D2Pruner divides by, once, when the checkpoint comes without it."""
    if out.is_file():
        return
    fields = {name: value for name, value in settings.fields.items() if name != "prior"}
    media, limit = task.media, min(1000, settings.limit or 1000)
    with task.resolved(planned, fields=fields) as chosen:
        tiled = chosen.layout[media].tokens is None
        prior(chosen.adapter(media), chosen.pruner, media, tiled, settings.data or chosen.heldout(media), out, limit)


# -- what is done --------------------------------------------------------------------------------------------------


def status(task: Task) -> dict[str, dict[str, Any]]:
    """Of every run: its state, how many answers there are, of how many (None: it was not begun), and its command."""
    states = {}
    for planned in task.artefact.runs:
        there, wanted = task.answers(planned)
        info = {} if wanted is None else Folder(task.folder(planned)).info()["benchmarks"]
        lacking = [name for name in task.benchmarks if name not in info]
        done = wanted is not None and there >= wanted and not lacking
        typed = " ".join(map(shlex.quote, command_line(task.settings(planned))))
        states[planned.label] = {
            "state": "done" if done else "not begun" if wanted is None else "open",
            "answers": there,
            "of": wanted,
            "benchmarks_to_come": lacking,
            "command": f"python -m eval run {typed}",
        }
    return states


def state_table(task: Task, states: Mapping[str, Mapping[str, Any]]) -> Table:
    """How far every run is, and the command that runs it; `states` as `status` gives them."""
    columns = ("state", "answers", "of", "command")
    rows = [[label, *(facts[column] for column in columns)] for label, facts in states.items()]
    if not rows:
        state = "done" if (task.here / "artefact.json").exists() else "not begun"
        rows.append([task.artefact.measure, state, 0, 0, ""])
    return Table(task.artefact.title, ["run", "state", "answers", "of", "as a command"], rows)


# Measures of answers, so that the runs come first.
ANSWERED = ("scores", "gains", "fillings", "budgets", "iou", "grid", "ways")
MEASURES: dict[str, Callable[[Task], list[Table]]] = {
    "scores": measures.scores,
    "gains": budgets.gains,
    "fillings": budgets.fillings,
    "ways": ways.ways,
    "budgets": budgets.budgets,
    "strength": strengths.strength,
    "sinks": measures.sinks,
    "grid": grid.grid,
    "bias": measures.bias_strengths,
    "layers": measures.layers,
    "fit_sizes": measures.fit_sizes,
    "iou": measures.iou,
    "overhead": measures.overhead,
}
