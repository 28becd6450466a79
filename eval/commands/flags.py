"""The flags of `run`, and of everything else that answers questions; and the settings that they mean."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from debias import names
from debias.names import one_of
from eval import benchmarks, versions
from eval.answering import early
from eval.fields import parse_fields
from eval.serving.limits import Limits, Place
from eval.settings import BACKENDS, DTYPES, FILLS, STAGES, JudgeSettings, Settings, several
from pruners import catalogue
from pruners.catalogue import names as known


def running(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`."""
    answering(parser)
    judging(parser)
    add = parser.add_argument
    add(
        "--out", type=Path, help="the run folder; the same command goes on where it stopped (default: runs/METHOD-HASH)"
    )
    add("--backend", default="native", choices=BACKENDS, help="fork: the authors' code in its own environment")
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
    add("--skip-broken", action="store_true", help="continue without unreadable pictures; they count as wrong")
    add("--draws", type=positive, default=10_000, help="bootstrap draws (default %(default)s)")
    add(
        "--report-samples",
        type=int,
        default=12,
        help="questions of each benchmark in report.html (default %(default)s)",
    )
    add("--wide", action="store_true", help="show all arms and columns at the end, not one row a benchmark")
    add("--dry-run", action="store_true", help="say what would run, and stop")


def answering(parser: argparse.ArgumentParser) -> None:
    """The flags of everything that answers questions: the method, what it runs on, and how many go together."""
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
    """The flags that choose model, data and arms; and how the model is loaded and debiased."""
    add = parser.add_argument
    add(
        "--arms",
        help="of unpruned, none, trend, padding, both (or paper, before, after); default: those that the method has",
    )
    add("--benchmarks", help=f"names with commas (default: all that --data holds): {', '.join(benchmarks.NAMES)}")
    add("--model", help="a checkpoint folder or hub id (default: the embedded model)")
    add("--video-model", help="the model for the video benchmarks (default: --model, or the embedded model)")
    add("--data", help="the data root, LLaVA's playground/data/eval (default: the embedded tiny world)")
    add("--full", action="store_true", help="all of the embedded data, not the subset")
    add(
        "--option",
        action="append",
        default=[],
        metavar="BENCHMARK.NAME=VALUE",
        help="how a benchmark is read, as in vqav2.split=test-dev or textvqa.ocr=false; may be given several times",
    )
    add(
        "--limit",
        type=positive,
        help="about so many questions of each benchmark, the same ones every time; those of one picture stay together",
    )
    add("--max-new-tokens", type=positive, help="longest answer (default: each benchmark's own, 128 or 1024)")
    add(
        "--as-released",
        action="store_true",
        help="compute what the authors' release computes, to the last token, without our corrections: what published "
        "numbers belong to (FastV in mode mask; arms none, padding, both)",
    )
    loading(parser)


def loading(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a model is loaded and debiased; and those of the methods, behind them."""
    add = parser.add_argument
    add(
        "--trend",
        default="auto",
        help="auto, published, online (fitted to each score), a trends file that `fit` wrote, or fitted now on "
        "held-out questions: fitted (exponential), average (the mean attention itself), inverse_cubic, rope,"
        " rope-heads; unrotated: scores before the rotary embedding; blank-mean, minus-black, ...: those of a picture "
        "without content; docs/ways.md says what each computes",
    )
    add(
        "--padding",
        default="auto",
        help="how padding is told: auto (the method's released rule), area, even, bilinear, antialiased, cropped, sink "
        "(tokens whose hidden state is an attention sink's; sink:12 by another threshold)",
    )
    add("--stages", default="first", choices=STAGES, help="debias the first cut, as the paper, or all of them")
    add(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="auto: the checkpoint's; float32 on a CPU. 8bit, 4bit: the decoder's weights, by bitsandbytes or torchao",
    )
    add(
        "--attention",
        default="auto",
        help="attention kernel: sdpa, eager or flash_attention_2; auto: the last where it is installed, else sdpa",
    )
    add(
        "--allow-missing",
        action="store_true",
        help="go on with a checkpoint that lacks tensors of its model or holds others; what is lacking is random",
    )
    placing(parser)
    add(
        "--fill",
        default="mean",
        choices=FILLS,
        help="what the border of a padded picture shows: the mean colour, black, noise, or the picture mirrored",
    )
    add(
        "--max-patches",
        type=positive,
        metavar="N",
        help="at most N tiles of a picture, for families that cut pictures into tiles (default: the checkpoint's)",
    )
    lines = []
    for name in known():
        fields = [f"--{field.name.replace('_', '-')} {field.default or '...'}" for field in catalogue.fields(name)]
        lines.append(f"  {name:<12} {' '.join(fields)}")
    parser.epilog = "flags of the methods, with their defaults:\n" + "\n".join(lines)
    parser.set_defaults(takes_fields=of_methods)


def placing(parser: argparse.ArgumentParser) -> None:
    """The flag that says where a model runs."""
    parser.add_argument(
        "--device",
        type=device,
        help="cpu, cuda, cuda:1, or auto to spread a large model (default: cuda where there is a GPU)",
    )


def serving(parser: argparse.ArgumentParser) -> None:
    """The flags of a server: the model and its method, where it listens, and its limits."""
    add = parser.add_argument
    add("--method", default="fastv", help=f"one of {', '.join(known())} (default: %(default)s)")
    add("--arm", help="unpruned, none, trend, padding or both (default: all the debiasing that the method knows)")
    add("--model", help="a checkpoint folder or hub id (default: the embedded model)")
    add("--host", default=Place.host, help="the address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=positive, default=Place.port, help="default: %(default)s")
    add("--allow-host", action="append", default=[], metavar="NAME", help="another name it may be called by; *: any")
    add("--media-host", action="append", default=[], metavar="NAME", help="a host whose pictures may be fetched")
    add("--key-variable", metavar="NAME", help="the environment variable with the key that clients have to send")
    for entry in dataclasses.fields(Limits):
        flag, kind = f"--{entry.name.replace('_', '-')}", type(entry.default)
        add(flag, type=kind, default=entry.default, help=f"{entry.metadata['help']} (default: %(default)s)")
    loading(parser)


def served(args: argparse.Namespace) -> tuple[Settings, Limits, Place]:
    """What the flags of a server mean."""
    limits = Limits(**{entry.name: getattr(args, entry.name) for entry in dataclasses.fields(Limits)})
    place = Place(args.host, args.port, tuple(args.allow_host), tuple(args.media_host), args.key_variable)
    return settings(args, args.method, arms=[args.arm] if args.arm else ()), limits, place


def needs_server(name: str) -> None:
    """A ValueError unless the packages of a server are installed."""
    missing = [package for package in ("starlette", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}: pip install 'attention-debiasing[serve]'")


def methods(text: str) -> list[str]:
    """The methods that a flag names: a single name, several with commas, or all."""
    wanted = known() if text == "all" else [name.strip() for name in text.split(",")]
    return [one_of("method", name, known()) for name in dict.fromkeys(wanted)]


def sets(text: str) -> list[str]:
    """The benchmarks that a flag names, with commas, in any spelling."""
    chosen = list(dict.fromkeys(map(names.benchmark, several(text))))
    if not chosen:
        raise ValueError(f"--benchmarks {text!r} names none; known: {', '.join(names.BENCHMARKS)}")
    return chosen


def of_methods() -> set[str]:
    """The flags of the fields of every method."""
    fields = {(field.name.replace("_", "-"), field.annotation) for name in known() for field in catalogue.fields(name)}
    return {flag for name, kind in fields for flag in (f"--{name}", *([f"--no-{name}"] if kind == "bool" else []))}


def judging(parser: argparse.ArgumentParser) -> None:
    """The flags that name a judge."""
    group = parser.add_argument_group(
        "judge", "for MM-Vet and the video benchmarks; without a judge, their offline stand-ins"
    )
    add = group.add_argument
    add(
        "--judge-url",
        metavar="URL",
        help="a server that speaks OpenAI's protocol, for example http://localhost:8000/v1",
    )
    add("--judge-model", metavar="NAME", help="the model to ask there")
    add("--judge-key-variable", default="OPENAI_API_KEY", metavar="NAME", help="the environment variable with the key")
    add("--judge-timeout", type=float, default=60.0, metavar="SECONDS", help="for one reply (default %(default)s)")
    add("--judge-cache", type=Path, metavar="FILE", help="where verdicts are kept (default: the user's cache folder)")


def judge(args: argparse.Namespace) -> JudgeSettings | None:
    """The judge that the flags name, if any."""
    if not args.judge_url and not args.judge_model:
        return None
    if not args.judge_url or not args.judge_model:
        raise ValueError("a judge needs both --judge-url and --judge-model")
    return JudgeSettings(
        args.judge_url, args.judge_model, args.judge_key_variable, args.judge_timeout, args.judge_cache
    )


def settings(args: argparse.Namespace, method: str, **more: Any) -> Settings:
    """What the flags of a command mean for one method. `more` stands in for flags that the command does not have."""
    given = vars(args)
    names_ = [field.name for field in dataclasses.fields(Settings) if field.name in given and field.name != "fields"]
    values: dict[str, Any] = {name: given[name] for name in names_ if given[name] is not None}
    own = parse_fields(method, getattr(args, "fields", []))
    if "option" in given:
        values["options"] = options(given["option"])
    if "judge_url" in given:
        values["judge"] = judge(args)
    asked = Settings(**{**values, "method": method, "keep": own.pop("keep", None), "fields": own, **more})
    early.check(asked)
    return asked


def device(text: str) -> str:
    """The value of --device, when there is such a device."""
    if not re.fullmatch(r"auto|cpu|mps|xpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:1 or auto, not {text}")
    if not text.startswith("cuda"):
        return text
    if (build := versions.of("torch")).endswith("+cpu"):
        raise argparse.ArgumentTypeError(f"{text} is not there: torch {build} sees no GPU; leave it out")
    import torch  # not at the top: messages and help pages are quicker without

    wanted = torch.device(text)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise argparse.ArgumentTypeError(f"{text} is not there: torch {torch.__version__} sees no GPU; leave it out")
    if wanted.index is not None and wanted.index >= count:
        raise argparse.ArgumentTypeError(f"{text} is not there: torch sees {count}, cuda:0 to cuda:{count - 1}")
    return text


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas."""
    return [positive(word.strip()) for word in text.split(",")]


def budgets(text: str) -> list[int | float]:
    """Counts of tokens, or shares such as 0.25, with commas."""
    values: list[int | float] = []
    for word in text.split(","):
        share = float(word) if "." in word else None
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"{word} is no share of an image's tokens: expected a number above 0 and up to 1.0")
        values.append(positive(word.strip()) if share is None else share)
    return values


def options(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{"vqav2": {"split": "test-dev"}} from vqav2.split=test-dev."""
    by_benchmark: dict[str, dict[str, Any]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        name, dot, option = place.partition(".")
        if not (equals and dot and option):
            raise ValueError(f"--option {word}: expected BENCHMARK.NAME=VALUE, such as vqav2.split=test-dev")
        plain: Any = {"true": True, "false": False}.get(value.lower(), value)
        by_benchmark.setdefault(names.benchmark(name), {})[option] = plain
    return by_benchmark
