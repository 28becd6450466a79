"""Scores an answer file, from any script. Only the benchmark's annotations are needed: no pictures, no model.

examples:
  python -m eval score pope --answers answers.jsonl --data playground/data/eval
  python -m eval score vizwiz --answers answers.jsonl --data playground/data/eval --split val --json
  python -m eval score gqa --answers runs/fastv/gqa/none.*.jsonl --data playground/data/eval      all shards of a run
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.benchmarks import NAMES, get
from eval.commands import flags
from eval.core.tables import say, tell
from eval.reading.parquet import laid_out
from eval.reading.sample import Score, read_rows
from eval.scoring import judge as judging
from eval.scoring.judge import Judge
from eval.scoring.results import not_judged


def score_file(
    name: str, answers: str | Path | Sequence[str | Path], data: str | Path, judge: Judge | None = None, **options: Any
) -> Score:
    """Scores the rows of one or more answer files. Options are the benchmark's: split, ocr, frame, ..."""
    benchmark = get(name)
    if name == "scienceqa":
        options.setdefault("text_only", True)  # other people's files answer those too
    samples = benchmark.load(data, media=False, **options)
    paths = [answers] if isinstance(answers, str | Path) else list(answers)
    try:
        score = benchmark.score(read_rows(paths), samples, judge)
    except ValueError as error:
        message = str(error)
        named = any(message.startswith(str(path)) for path in paths)
        raise ValueError(message if named else f"{', '.join(map(str, paths))}: {message}") from None
    odd = "; ".join(benchmark.unofficial(samples))
    return replace(score, info={**score.info, "size": odd}) if odd else score


def as_json(score: Score, items: bool = False) -> dict[str, Any]:
    """A score as plain values; `items`: with that of every question."""
    values = {**asdict(score), "unjudged": len(score.unjudged)}
    if not items:
        del values["items"], values["groups"]
    return values


def arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark, the answers and annotations, and how they are read."""
    add = parser.add_argument
    add("benchmark", choices=NAMES, metavar="BENCHMARK", help=", ".join(NAMES))
    add("--answers", type=Path, nargs="+", required=True, metavar="FILE", help="answer files, or shards")
    add("--data", type=Path, required=True, metavar="DIR", help="data root, or the benchmark's folder")
    add("--items", action="store_true", help="with --json: also the score of every question")
    add("--split", help="vqav2: test-dev, val2014; vizwiz: test, val; refcoco: its splits")
    add("--frame", help="refcoco: what boxes are relative to, square or original")
    flags.judging(parser)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the score; returns it."""
    options = {name: getattr(args, name) for name in ("split", "frame") if getattr(args, name) is not None}
    judge = judging.judge_of(flags.judge(args))
    score = score_file(args.benchmark, args.answers, laid_out(args.data), judge, **options)
    if not args.json:
        tell(as_text(score))
    result = as_json(score, args.items)
    if score.unjudged:
        say(not_judged(len(score.unjudged)))
        result["exit"] = 1
    return result


def as_text(score: Score) -> str:
    """A score with its parts and conditions, one a line."""
    part = f"; {score.missing:,} of {score.n:,} unanswered, which count as wrong" if score.missing else ""
    lines = [f"{score.name}  {score.value:.2f}  ({score.metric}{part})"]
    lines.append(f"  {score.n:,} questions, {score.missing:,} without an answer, {score.unparsed:,} not understood")
    if score.unjudged:
        lines.append(f"  answers not judged, and left out: {len(score.unjudged):,}")
    lines += [f"  {name:<40} {value:8.2f}" for name, value in score.parts.items()]
    lines += [f"  {name}: {value}" for name, value in score.info.items()]
    return "\n".join(lines)
