"""The flags of `run`, and of everything else that answers questions; and the settings that they mean."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from debias import names
from debias.names import one_of
from eval.answering import early
from eval.core import versions
from eval.core.fields import parse_fields, refused
from eval.core.settings import JudgeSettings, Settings, several
from eval.serving.limits import Limits, Place
from pruners import catalogue
from pruners.catalogue import names as known

T = TypeVar("T")
FIELDS = {entry.name: entry for entry in dataclasses.fields(Settings)}
LISTED = {"method": known(), "benchmarks": names.BENCHMARKS}  # what may stand behind a flag, and is in its help


def add(
    parser: argparse._ActionsContainer, *settings: str, of: Any = Settings, prefix: str = "", **changes: Any
) -> None:
    """Flags of the fields `settings` of a dataclass, or of all that are flags. changes: another help or default."""
    entries = {entry.name: entry for entry in dataclasses.fields(of) if entry.metadata}
    for name in settings or entries:
        default, kind = entries[name].default, str(entries[name].type).removesuffix(" | None")
        if isinstance(default, tuple):
            default = ",".join(map(str, default)) or None
        given = {"default": None if default is dataclasses.MISSING else default, **entries[name].metadata, **changes}
        if name in LISTED and "help" not in changes:
            given["help"] += f": {', '.join(LISTED[name])}"
        if kind == "bool":
            given["action"] = "store_true"
        else:
            given.setdefault("type", device if name == "device" else KINDS.get(kind))
        parser.add_argument(f"--{prefix}{name.replace('_', '-')}", **given)


def read(of: type[T], args: argparse.Namespace) -> T:
    """The value whose fields the flags of `add` are; what is not given has its default."""
    given = {entry.name: getattr(args, entry.name) for entry in dataclasses.fields(of) if entry.metadata}  # type: ignore[arg-type]
    return refused(of, **{name: value for name, value in given.items() if value is not None})


def running(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`."""
    answering(parser)
    judging(parser)
    add(parser, "out", "backend", "tensor_parallel", "zero", "share_prefix", "check", "skip_broken", "draws")
    add(parser, "report_samples")
    parser.add_argument("--wide", action="store_true", help="show all arms and columns, not one row a benchmark")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")


def answering(parser: argparse.ArgumentParser) -> None:
    """The flags of everything that answers questions: the method, what it runs on, and how many go together."""
    add(parser, "method", help=f"one or more of {', '.join(known())}, or all")
    choosing(parser)
    add(parser, "batch_size", "workers", "feature_memory")


def choosing(parser: argparse.ArgumentParser) -> None:
    """The flags that choose model, data and arms; and how the model is loaded and debiased."""
    add(parser, "arms", "benchmarks", "model", "video_model", "data", "full")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="BENCHMARK.NAME=VALUE",
        help="how a benchmark is read, as in vqav2.split=test-dev or textvqa.ocr=false; may be given several times",
    )
    add(parser, "limit", "max_new_tokens", "as_released")
    loading(parser)


def loading(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a model is loaded and debiased; and those of the methods, behind them."""
    add(parser, "trend", "padding", "stages", "dtype", "attention", "allow_missing", "device", "fill", "max_patches")
    lines = []
    for name in known():
        fields = [f"--{field.name.replace('_', '-')} {field.default or '...'}" for field in catalogue.fields(name)]
        lines.append(f"  {name:<12} {' '.join(fields)}")
    parser.epilog = "flags of the methods, with their defaults:\n" + "\n".join(lines)
    parser.set_defaults(takes_fields=of_methods)


def serving(parser: argparse.ArgumentParser) -> None:
    """The flags of a server: the model and its method, where it listens, and its limits."""
    add(parser, "method", "model")
    more = parser.add_argument
    more("--arm", help="unpruned, none, trend, padding or both (default: all the debiasing that the method knows)")
    more("--host", default=Place.host, help="the address to listen on (default: %(default)s, this machine alone)")
    more("--port", type=positive, default=Place.port, help="the port to listen on")
    more("--allow-host", action="append", default=[], metavar="NAME", help="another name it may be called by; *: any")
    more("--media-host", action="append", default=[], metavar="NAME", help="a host whose pictures may be fetched")
    more("--key-variable", metavar="NAME", help="the environment variable with the key that clients have to send")
    add(parser, of=Limits)
    loading(parser)


def served(args: argparse.Namespace, name: str) -> tuple[Settings, Limits, Place]:
    """What the flags of a server mean; a ValueError unless the packages of a server are installed."""
    limits = read(Limits, args)
    place = Place(args.host, args.port, tuple(args.allow_host), tuple(args.media_host), args.key_variable)
    asked = settings(args, args.method, arms=[args.arm] if args.arm else ())
    missing = [package for package in ("starlette", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}: pip install 'attention-debiasing[serve]'")
    return asked, limits, place


def methods(text: str) -> list[str]:
    """The methods that a flag names: a single name, several with commas, or all."""
    wanted = known() if text == "all" else [name.strip() for name in text.split(",")]
    return [refused(one_of, "method", name, known()) for name in dict.fromkeys(wanted)]


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
    told = "for MM-Vet and the video benchmarks; without a judge, their offline stand-ins"
    add(parser.add_argument_group("judge", told), of=JudgeSettings, prefix="judge-")


def judge(args: argparse.Namespace) -> JudgeSettings | None:
    """The judge that the flags name, if any."""
    given = {entry.name: getattr(args, f"judge_{entry.name}") for entry in dataclasses.fields(JudgeSettings)}
    return JudgeSettings(**given) if given["url"] or given["model"] else None


def settings(args: argparse.Namespace, method: str, **more: Any) -> Settings:
    """What the flags of a command mean for one method. `more` stands in for flags that the command does not have."""
    return refused(_settings, args, method, more)


def _settings(args: argparse.Namespace, method: str, more: Mapping[str, Any]) -> Settings:
    values = {name: value for name, value in vars(args).items() if name in FIELDS and value is not None}
    own = parse_fields(method, getattr(args, "fields", []))
    if "option" in args:
        values["options"] = options(args.option)
    if "judge_url" in args:
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
    """A whole number of at least 1, from its text."""
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


# How the text of a flag is read, by the type of its field.
KINDS = {
    "int": positive,
    "float": float,
    "Path": Path,
    "Sequence[int]": numbers,
    "Sequence[int | float]": budgets,
}


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
