"""The tables and figures of the papers: declared runs, answered, scored and shown beside what was published.

examples:
  python -m eval reproduce --list                              what there is
  python -m eval reproduce main --limit 8                      the embedded model and data
  python -m eval reproduce main --model llava-hf/llava-1.5-7b-hf --data playground/data/eval
  python -m eval reproduce main --as-released --model ...      also as the release's code computes it
  python -m eval reproduce main --list                         what of it is done, and what is missing
  python -m eval reproduce all --limit 8                       every one after the other
  python -m eval reproduce methods --benchmarks gqa,pope       only some of its benchmarks

Each run is a run folder in OUT/NAME/LABEL: the same command goes on where it stopped, and `report`, `compare` and
`figures` read it like any other. Other flags are passed on to `run`: --batch-size, --device, --dtype, --judge-url, ...
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from debias import names
from eval import benchmarks, tables
from eval.answering.resolved import Resolved
from eval.answering.store import Folder
from eval.bias.fitting import heldout, prior
from eval.cli import Parser, one_of
from eval.commands import flags
from eval.commands.fields import parse_fields
from eval.evaluation import evaluate
from eval.evaluation import planned as planned_run
from eval.papers import artefacts, budgets, measures
from eval.papers.artefacts import Artefact
from eval.papers.task import Task
from eval.settings import Settings
from eval.tables import Table, say
from pruners import find


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    add = parser.add_argument
    add("name", nargs="?", help=f"one of {', '.join(artefacts.artefacts())}, or all")
    add("--list", action="store_true", help="say what there is, or what of NAME is done, and stop")
    add("--model", help="a checkpoint folder or hub id (default: the embedded models)")
    add("--data", help="the data root, LLaVA's playground/data/eval (default: the embedded tiny world)")
    add(
        "--as-released",
        action="store_true",
        help="do the release's methods a second time, as its code computes them; published numbers stand beside these",
    )
    add("--benchmarks", help="only these of an artefact's benchmarks, with commas (default: all that the data holds)")
    add("--out", type=Path, default=Path("runs/reproduce"), help="where the runs go (default: %(default)s)")
    add("--limit", type=flags.positive, help="at most so many questions of each benchmark, pictures or repetitions")
    parser.set_defaults(takes_fields=of_runs)
    return work


def of_runs() -> set[str]:
    """The flags that go on to the runs."""
    parser = Parser()
    flags.running(parser)
    return {*parser._option_string_actions, *flags.of_methods()}


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.name is None:
        if not args.list:
            raise ValueError("name an artefact, or ask for the list of them: --list")
        return overview()
    if args.name == "all":
        done = {name: one(artefact, args) for name, artefact in artefacts.artefacts().items()}
        return {"artefacts": done, "exit": max(found.get("exit", 0) for found in done.values())}
    return one(artefacts.artefact(args.name), args)


def overview() -> dict[str, Any]:
    known = artefacts.artefacts()
    rows = [[a.name, a.title, len(a.runs) or a.measure, a.model, ", ".join(a.published)] for a in known.values()]
    tables.show(Table("What can be reproduced", ["name", "title", "runs", "made for", "published tables"], rows))
    return {"artefacts": {a.name: {"title": a.title, "runs": [r.label for r in a.runs]} for a in known.values()}}


def one(artefact: Artefact, args: argparse.Namespace) -> dict[str, Any]:
    if args.as_released:
        artefact = artefact.released()
    base, fields, dry = common(artefact, args)
    task = Task(artefact, args.out, base, some(artefact, args.benchmarks), fields)
    say(f"\n{artefact.name}: {artefact.title}")
    if args.model is None:
        say(f"on the embedded model; the published numbers belong to {artefact.model}")
    task, absent = held(task)
    if args.list:
        found = status(task)
        tables.show(state_table(task, found))
        return {"name": artefact.name, "runs": found, "absent": absent}
    failed = answer(task, dry) if artefact.measure in ("scores", "budgets", "iou") else {}
    exit_code = 1 if failed or absent else 0
    if dry:
        say(f"{artefact.name}: nothing was run")
        return {"name": artefact.name, "failed": failed, "absent": absent, "exit": exit_code}
    task.here.mkdir(parents=True, exist_ok=True)
    shown = MEASURES[artefact.measure](task)
    for table in shown:
        tables.show(table)
    tables.write(shown, task.here)
    (task.here / "artefact.json").write_text(json.dumps(plain(shown), indent=1) + "\n", encoding="utf-8")
    if absent:
        say(f"missing in {task.base.data}: {', '.join(absent)}; docs/benchmarks.md says where each comes from")
    for label, message in failed.items():
        say(f"{label} was not done: {message}")
    say(f"tables and runs are in {task.here}")
    return {"name": artefact.name, "tables": plain(shown), "failed": failed, "absent": absent, "exit": exit_code}


def common(artefact: Artefact, args: argparse.Namespace) -> tuple[Settings, dict[str, dict[str, Any]], bool]:
    """What the flags mean for the runs: what all have in common, the fields of each method, and whether to run."""
    parser = Parser(prog="python -m eval run")
    flags.running(parser)
    given, words = parser.parse_known_args(args.fields)
    given.model, given.data, given.limit, given.fields = args.model, args.data, args.limit, []
    methods = dict.fromkeys(planned.method for planned in artefact.runs)
    fields = {method: parse_fields(find(method), words, f"{parser.prog} --method {method}") for method in methods}
    keep = next((found.pop("keep") for found in fields.values() if "keep" in found), None)
    return replace(flags.settings(given, "fastv"), keep=keep), fields, bool(given.dry_run)


def some(artefact: Artefact, text: str | None) -> tuple[str, ...]:
    """The artefact's benchmarks, or those of them that are asked for."""
    if text is None:
        return artefact.benchmarks
    known = artefact.benchmarks
    return tuple(one_of(f"benchmark of {artefact.name}", names.benchmark(word), known) for word in text.split(","))


def plain(shown: Sequence[Table]) -> list[dict[str, Any]]:
    return [{"title": t.title, "head": t.head, "rows": t.rows, "notes": t.notes} for t in shown]


def held(task: Task) -> tuple[Task, list[str]]:
    """The task on the benchmarks that the data holds, and the names of the others."""
    data = task.base.data
    if data is None:
        return task, []
    found = tuple(name for name in task.benchmarks if benchmarks.get(name).lies_in(data))
    if not found:
        wanted = ", ".join(task.benchmarks)
        raise ValueError(f"--data {data} holds none of {wanted}; docs/benchmarks.md says where each comes from")
    return replace(task, benchmarks=found), [name for name in task.benchmarks if name not in found]


def answer(task: Task, dry: bool) -> dict[str, str]:
    """Answer what is not answered; returns what could not be done, and why."""
    failed = {}
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
                prepare_prior(task, settings, task.prior)
            found = evaluate(settings)
            if found.look is not None:
                found.look.show(wide=False)
            if not found.complete:
                failed[planned.label] = f"{found.open} answers are to come from other processes"
            elif found.unjudged:
                failed[planned.label] = "some answers were not judged"
        except (ValueError, OSError) as error:  # the others can still run
            failed[planned.label] = str(error)
            say(str(error))
    return failed


def prepare_prior(task: Task, settings: Settings, out: Path) -> None:
    """Measure the average attention that D2Pruner divides by, once, when the checkpoint comes without one."""
    if out.is_file():
        return
    fields = {name: value for name, value in settings.fields.items() if name != "prior"}
    media, limit = task.media, min(1000, settings.limit or 1000)
    chosen = Resolved(replace(settings, fields=fields), [], {media: task.checkpoint})
    try:
        tiled = chosen.layout[media].tokens is None
        prior(chosen.adapter(media), chosen.pruner, media, tiled, settings.data or heldout(), out, limit)
    finally:
        chosen.close()


# -- what is done --------------------------------------------------------------------------------------------------


def status(task: Task) -> dict[str, dict[str, Any]]:
    """Of every run: how many answers there are, of how many; None where it was not begun."""
    found = {}
    for planned in task.artefact.runs:
        folder = Folder(task.folder(planned))
        there, wanted = 0, None
        if (folder.path / "run.json").exists():
            info = folder.info()["benchmarks"]
            wanted = sum(facts["n"] for facts in info.values()) * len(planned.arms)
            there = sum(len(folder.rows(name, arm)) for name in info for arm in planned.arms)
        lacking = [name for name in task.benchmarks if wanted is None or name not in info]
        typed = " ".join(map(shlex.quote, flags.command_line(task.settings(planned))))
        found[planned.label] = {
            "answers": there,
            "of": wanted,
            "benchmarks_to_come": lacking,
            "command": f"python -m eval run {typed}",
        }
    return found


def state_table(task: Task, found: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for planned in task.artefact.runs:
        one = found[planned.label]
        done = one["of"] is not None and one["answers"] >= one["of"] and not one["benchmarks_to_come"]
        state = "done" if done else "not begun" if one["of"] is None else "open"
        rows.append([planned.label, state, one["answers"], one["of"], one["command"]])
    if not rows:
        rows.append(
            [task.artefact.measure, "done" if (task.here / "artefact.json").exists() else "not begun", 0, 0, ""]
        )
    return Table(task.artefact.title, ["run", "state", "answers", "of", "as a command"], rows)


MEASURES: dict[str, Callable[[Task], list[Table]]] = {
    "scores": measures.scores,
    "budgets": budgets.budgets,
    "bias": measures.bias_strengths,
    "layers": measures.layers,
    "fit_sizes": measures.fit_sizes,
    "iou": measures.iou,
    "overhead": measures.overhead,
}
