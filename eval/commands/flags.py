"""The flags of `run`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from debias import names
from eval import benchmarks
from eval.cli import one_of
from eval.commands.fields import flags_of


def arguments(parser: argparse.ArgumentParser) -> None:
    answering(parser)
    add = parser.add_argument
    add("--out", help="the run folder; the same command goes on where it stopped (default: runs/METHOD-HASH)")
    add(
        "--backend", default="native", choices=["native", "fork"], help="fork: the authors' code in its own environment"
    )
    add(
        "--tensor-parallel",
        action="store_true",
        help="the processes of this launch (torchrun) hold one model together, each a part of every layer",
    )
    add(
        "--zero",
        action="store_true",
        help="they hold it together, each a part of every weight, and all compute everything (DeepSpeed's ZeRO)",
    )
    add(
        "--share-prefix",
        action="store_true",
        help="compute the layers before the first cut once for all arms of a batch; answers stay the same",
    )
    add("--check", action="store_true", help="read every record and picture before a model is loaded")
    add("--skip-broken", action="store_true", help="go on without unreadable pictures; they count as wrong")
    add("--draws", type=positive, default=10_000, help="bootstrap draws (default %(default)s)")
    add(
        "--report-samples",
        type=int,
        default=12,
        help="questions of each benchmark in report.html (default %(default)s)",
    )
    add("--dry-run", action="store_true", help="say what would run, and stop")


def answering(parser: argparse.ArgumentParser) -> None:
    """The flags of everything that answers questions: the method, what it runs on, and how many go together."""
    from pruners import names as known

    add = parser.add_argument
    add("--method", default="fastv", help=f"one or more of {', '.join(known())}, or all")
    choosing(parser)
    add(
        "--batch-size",
        type=positive,
        default=8,
        help="questions at once (default %(default)s); answers do not depend on it",
    )
    add("--workers", type=positive, default=4, help="threads that read pictures ahead (default %(default)s)")
    add(
        "--feature-memory",
        type=float,
        default=2.0,
        metavar="GIB",
        help="for vision features shared by questions and arms (default %(default)s)",
    )


def choosing(parser: argparse.ArgumentParser) -> None:
    """The flags that choose model, data, arms and their debias; and those of the methods, behind them."""
    from pruners import find
    from pruners import names as known

    add = parser.add_argument
    add(
        "--arms",
        help="of none, trend, padding, both (or paper, before, after), and unpruned (default: those the method has)",
    )
    add("--benchmarks", help=f"names with commas (default: all that --data holds): {', '.join(benchmarks.NAMES)}")
    add("--model", help="a checkpoint folder or hub id (default: the embedded model)")
    add("--video-model", help="the model for the video benchmarks (default: --model, or the embedded one)")
    add("--data", help="the data root, LLaVA's playground/data/eval (default: the embedded tiny world)")
    add("--full", action="store_true", help="all of the embedded data, not the subset")
    add(
        "--option",
        action="append",
        default=[],
        metavar="BENCHMARK.NAME=VALUE",
        help="how a benchmark is read, as in vqav2.split=test-dev or textvqa.ocr=false; may be given several times",
    )
    add("--limit", type=positive, help="at most so many questions of each benchmark, the same ones every time")
    add("--max-new-tokens", type=positive, help="longest answer (default: each benchmark's own, 128 or 1024)")
    add(
        "--trend",
        default="auto",
        help="auto, published, online (fitted to each score), a trends file that `fit` wrote, or fitted now on "
        "held-out questions: fitted (exponential), average (the mean attention itself), inverse_cubic, rope",
    )
    add(
        "--as-released",
        action="store_true",
        help="compute what the authors' release computes, to the last token, without our corrections: what published "
        "numbers belong to (FastV in mode mask; arms none, padding, both)",
    )
    add(
        "--stages", default="first", choices=["first", "all"], help="debias the first cut, as the paper, or all of them"
    )
    add(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "float16", "bfloat16", "8bit", "4bit"],
        help="auto: the checkpoint's; float32 on a CPU. 8bit, 4bit: the decoder's weights, by bitsandbytes or torchao",
    )
    add(
        "--attention",
        default="auto",
        help="attention kernel: sdpa, eager or flash_attention_2; auto: the last where it is installed, else sdpa",
    )
    add("--device", help="cpu, cuda, cuda:1, or auto to spread a large model (default: cuda when there is one)")
    add(
        "--max-patches",
        type=positive,
        metavar="N",
        help="InternVL: at most N tiles of a picture (default: the checkpoint's)",
    )
    lines = []
    for name in known():
        fields = [f"--{field.name.replace('_', '-')} {_default(field)}" for field in dataclasses.fields(find(name))]
        lines.append(f"  {name:<12} {' '.join(fields)}")
    parser.epilog = "flags of the methods, with their defaults:\n" + "\n".join(lines)
    parser.set_defaults(takes_fields=of_methods)


def methods(text: str) -> list[str]:
    """The methods that a flag names: one, several with commas, or all."""
    from pruners import names as known

    wanted = known() if text == "all" else [name.strip() for name in text.split(",")]
    return [one_of("method", name, known()) for name in dict.fromkeys(wanted)]


def sets(text: str) -> list[str]:
    """The benchmarks that a flag names, with commas, in any spelling."""
    found = list(dict.fromkeys(names.benchmark(name) for name in text.split(",") if name.strip()))
    if not found:
        raise ValueError(f"--benchmarks {text!r} names none; known: {', '.join(names.BENCHMARKS)}")
    return found


def of_methods() -> set[str]:
    """The flags of the fields of every method."""
    from pruners import find
    from pruners import names as known

    return {flag for name in known() for flag in flags_of(find(name))}


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    return str(field.default_factory()) if field.default_factory is not dataclasses.MISSING else "..."


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas."""
    return [positive(word.strip()) for word in text.split(",")]


def options(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{"vqav2": {"split": "test-dev"}} from vqav2.split=test-dev."""
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        name, dot, option = place.partition(".")
        if not (equals and dot and option):
            raise ValueError(f"--option {word}: expected BENCHMARK.NAME=VALUE, such as vqav2.split=test-dev")
        plain: Any = {"true": True, "false": False}.get(value.lower(), value)
        found.setdefault(names.benchmark(name), {})[option] = plain
    return found
