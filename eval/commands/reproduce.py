"""The tables and figures of the papers: declared runs, answered, scored and shown beside what was published.

examples:
  python -m eval reproduce --list                              what there is
  python -m eval reproduce main --limit 8                      the embedded model and data
  python -m eval reproduce main --model llava-hf/llava-1.5-7b-hf --data playground/data/eval
  python -m eval reproduce main --as-released --model ...      also as the release's code computes it
  python -m eval reproduce main --list                         what of it is done, and what is missing
  python -m eval reproduce all --limit 8                       all of them, in turn
  python -m eval reproduce grid --model smol --runs '*-64'     only some of its runs
  python -m eval reproduce methods --benchmarks gqa,pope       only some of its benchmarks
  python -m eval reproduce ways --axis budgets=64,128 --axis methods=fastv      another part of its runs

Each run is a run folder in OUT/NAME/LABEL: the same command goes on where it stopped, and `report`, `compare` and
`figures` read it like any other. Other flags are passed on to `run`: --batch-size, --device, --dtype, --judge-url, ...
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.cli import Parser
from eval.commands import flags
from eval.core.fields import parse_fields
from eval.core.settings import Settings
from eval.papers import artefacts
from eval.papers.artefacts import Artefact


def arguments(parser: argparse.ArgumentParser) -> None:
    """The artefact, which part of it, and its model and data. Flags of `run` may follow."""
    add = parser.add_argument
    add("name", nargs="?", help=f"one of {', '.join(artefacts.artefacts())}, or all")
    add("--list", action="store_true", help="say what there is, or what of NAME is done, and stop")
    flags.add(parser, "model", "data")
    again = "do the release's methods a second time, as its code computes them; published numbers stand beside these"
    flags.add(parser, "as_released", help=again)
    add("--benchmarks", help="only these of an artefact's benchmarks, with commas (default: all that the data holds)")
    add("--runs", help="only these runs, with commas; * stands for anything (default: all; see NAME --list)")
    add(
        "--axis",
        action="append",
        default=[],
        metavar="AXIS=VALUES",
        help="of the artefact ways: budgets=64,128, layers=2,8, methods=fastv, ways=online,rope; several times",
    )
    add("--out", type=Path, default=Path("runs/reproduce"), help="where the runs go")
    add("--limit", type=flags.positive, help="at most so many questions of each benchmark, pictures or repetitions")
    parser.set_defaults(takes_fields=of_runs)


def of_runs() -> set[str]:
    """The flags that go on to the runs."""
    parser = Parser()
    flags.running(parser)
    return {*parser._option_string_actions, *flags.of_methods()}


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Runs or lists artefacts; returns their tables."""
    if args.name is None:
        if not args.list:
            raise ValueError("name an artefact, or ask for the list of them: --list")
        from eval.papers.reproduce import overview

        return overview()
    if args.name == "all":
        done = {name: run_artefact(artefact, args) for name, artefact in artefacts.artefacts().items()}
        return {"artefacts": done, "exit": max(result.get("exit", 0) for result in done.values())}
    return run_artefact(artefacts.artefact(args.name), args)


def run_artefact(artefact: Artefact, args: argparse.Namespace) -> dict[str, Any]:
    """One artefact: what there is of it (--list), what would run (--dry-run), or the whole."""
    from eval.papers.reproduce import listed, released, reproduced, task

    artefact = artefact.narrowed(args.axis)
    artefact = released(artefact) if args.as_released else artefact
    artefact = artefact.only(args.runs) if args.runs else artefact
    base, fields, dry = common(artefact, args)
    asked = task(artefact, args.out, base, args.benchmarks, fields)
    return listed(asked) if args.list else reproduced(asked, dry)


def common(artefact: Artefact, args: argparse.Namespace) -> tuple[Settings, dict[str, dict[str, Any]], bool]:
    """What the flags mean for the runs: what all have in common, the fields of each method, and whether to run."""
    parser = Parser(prog="python -m eval run")
    flags.running(parser)
    given, words = parser.parse_known_args(args.fields)
    given.model, given.data, given.limit, given.fields = args.model, args.data, args.limit, []
    fields = {planned.method: parse_fields(planned.method, words) for planned in artefact.runs}
    keep = next((own.pop("keep") for own in fields.values() if "keep" in own), None)
    return replace(flags.settings(given, "fastv"), keep=keep), fields, bool(given.dry_run)
