"""What a run is: a frozen value. Flags are read into it by eval/commands/flags.py, and nowhere else.

from eval import Settings, evaluate
report = evaluate(Settings(method="fastv", keep=0.25, benchmarks=["pope"], limit=100))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from debias import names
from pruners import catalogue

UNPRUNED = "unpruned"  # the arm that answers with every token
BACKENDS = ("native", "fork")
DTYPES = ("auto", "float32", "float16", "bfloat16", "8bit", "4bit")
STAGES = ("first", "all")
# Trends for which attention itself is read in another way, or measured on pictures without content.
MEASURED = ("rope-heads", "unrotated", *(f"{way}-{blank}" for way in ("blank", "minus") for blank in names.PICTURES))
TRENDS = ("auto", "published", "online", "fitted", "average", "inverse_cubic", "rope", *MEASURED)
FILLS = ("mean", "constant", "random", "mirror")
HARNESS = ("device", "dtype", "attention", "trend", "stages")  # what harnesses may set besides the method's fields
QUESTIONS = 64  # of each benchmark, that `fit` measures a trend on


@dataclass(frozen=True)
class JudgeSettings:
    """The server that grades free-form answers."""

    url: str  # of a server that speaks OpenAI's protocol
    model: str  # the model to ask there
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key
    timeout: float = 60.0  # seconds for one reply
    cache: Path | None = None  # where verdicts are kept; None: the user's cache folder


@dataclass(frozen=True)
class Settings:
    """What a run is: its method, model, data and everything else that it depends on.

    Defaults are those of `python -m eval run`.

    Sequences are kept as tuples, and names in their one spelling, so that equal runs are equal values.
    """

    method: str = "fastv"  # a pruning method, by name
    keep: int | float | None = None  # tokens to keep: a count, or a share; None: the method's own budget
    fields: Mapping[str, Any] = field(default_factory=dict)  # the method's other fields, such as {"layer": 3}
    arms: Sequence[str] = ()  # among none, trend, padding, both and unpruned; empty: all that the method has
    unpruned: bool = True  # whether the unpruned model answers too, where `arms` is empty
    benchmarks: Sequence[str] = ()  # by name; empty: all that the data holds
    model: str | None = None  # a checkpoint folder or hub id; None: the embedded model
    video_model: str | None = None  # the model for clips; None: `model`, or the embedded video model
    data: Path | None = None  # the data root, LLaVA's playground/data/eval; None: the embedded tiny world
    full: bool = False  # all of the embedded data, not its subset
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by benchmark: {"vqav2": {"split": "val"}}
    limit: int | None = None  # at most so many questions of each benchmark
    max_new_tokens: int | None = None  # longest answer; None: each benchmark's own
    trend: str = "auto"  # which trend to divide by: auto, published, online, a way of fitting, or a trends file
    padding: str = "auto"  # by which rule padding is told; auto: each method's released rule. See docs/ways.md
    as_released: bool = False  # compute what the authors' release computes, without our corrections
    stages: str = "first"  # which cuts are debiased: first or all
    dtype: str = "auto"  # auto (the checkpoint's; float32 on a CPU), float32, float16, bfloat16, 8bit or 4bit
    attention: str = "auto"  # the attention kernel: auto, sdpa, eager or flash_attention_2
    device: str | None = None  # cpu, cuda, cuda:1 or auto; None: a GPU, where the machine has any
    fill: Literal["mean", "constant", "random", "mirror"] = "mean"  # what the border shows that makes pictures square
    max_patches: int | None = None  # at most so many tiles of a picture, where the family cuts tiles
    batch_size: int = 8  # questions at once; answers do not depend on it
    workers: int = 4  # threads that read pictures ahead
    feature_memory: float = 2.0  # GiB for vision features shared by questions and arms
    backend: str = "native"  # native, or fork: the authors' code in its own environment
    tensor_parallel: bool = False  # split every layer of one model over the processes of this launch
    zero: bool = False  # split every weight of one model over them
    share_prefix: bool = False  # compute the layers before the first cut once for all arms of a batch
    check: bool = False  # read every record and picture before a model is loaded
    allow_missing: bool = False  # load a checkpoint that lacks tensors; they are drawn at random
    skip_broken: bool = False  # continue without unreadable pictures; they count as wrong
    draws: int = 10_000  # bootstrap draws
    report_samples: int = 12  # questions of each benchmark in report.html
    judge: JudgeSettings | None = None  # who grades free-form answers; None: the benchmarks' offline stand-ins
    out: Path | None = None  # the run folder; None: runs/METHOD-HASH

    def __post_init__(self) -> None:
        self._set("method", catalogue.named(self.method))
        self._set("arms", tuple(dict.fromkeys(map(arm, several(self.arms)))))
        self._set("benchmarks", tuple(dict.fromkeys(map(names.benchmark, several(self.benchmarks)))))
        self._set("options", {names.benchmark(name): dict(given) for name, given in self.options.items()})
        self._set("fields", dict(self.fields))
        for name in ("data", "out"):
            value = getattr(self, name)
            self._set(name, None if value is None else Path(value))
        for name in ("model", "video_model"):
            value = getattr(self, name)
            self._set(name, None if value is None else str(value))
        for name, known in (("backend", BACKENDS), ("dtype", DTYPES), ("stages", STAGES), ("fill", FILLS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}")
        for name in ("limit", "max_new_tokens", "max_patches", "batch_size", "workers", "draws"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
        if self.full and self.data is not None:
            raise ValueError("--full belongs to the embedded data; --data is always taken whole (or see --limit)")
        if "keep" in self.fields:
            raise ValueError("keep is a setting of its own; it does not belong in fields")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash(repr(self))

    def given(self) -> dict[str, Any]:
        """The settings that differ from the defaults, by name."""
        plain = Settings()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}


def several(value: Sequence[str] | str) -> list[str]:
    """Names from a sequence, or from a text with commas."""
    words = value.split(",") if isinstance(value, str) else value
    return [word.strip() for word in words if word.strip()]


def arm(name: str) -> str:
    """An arm in its canonical spelling, `unpruned` among them."""
    return UNPRUNED if name == UNPRUNED else names.arm(name)


def command_line(settings: Settings) -> list[str]:
    """The flags of `run` that mean these settings."""
    words: list[str] = []
    for name, value in settings.given().items():
        flag = f"--{name.replace('_', '-')}"
        if name == "fields":
            words += [w for name, held in value.items() for w in _named(settings.method, name, held)]
        elif name == "options":
            words += [w for b, o in value.items() for k, v in o.items() for w in ("--option", f"{b}.{k}={v}")]
        elif name == "judge":
            words += [
                w for k, v in vars(value).items() if v is not None for w in (f"--judge-{k.replace('_', '-')}", str(v))
            ]
        elif isinstance(value, bool):
            words.append(flag)
        else:
            words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def _named(method: str, name: str, value: Any) -> list[str]:
    """A method's field as flags; preceded by its kind's name where the field may hold several kinds.

    --selection suppression --selection.radius 3.0
    """
    first = {field.name: field.annotation for field in catalogue.fields(method)}.get(name, "").split(" | ")[0]
    kind = type(value).__name__
    said = [f"--{name.replace('_', '-')}", kind.lower()] if is_dataclass(value) and kind != first else []
    return [*said, *_typed(name, value)]


def _typed(field: str, value: Any) -> list[str]:
    """A method's field as flags."""
    flag = f"--{field.replace('_', '-')}"
    if isinstance(value, bool):
        head, dot, last = flag[2:].rpartition(".")
        return [flag if value else f"--{head}{dot}no-{last}"]
    if isinstance(value, (tuple, list)):
        return [flag, *map(str, value)]
    if is_dataclass(value):
        return [w for entry in fields(value) for w in _typed(f"{field}.{entry.name}", getattr(value, entry.name))]
    return [flag, str(value)]
