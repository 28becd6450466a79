"""What a run is: a frozen value, whose fields are the flags of `run`. eval/commands/flags.py reads them, nobody else.

from eval import Settings, evaluate
report = evaluate(Settings(method="fastv", keep=0.25, benchmarks=["pope"], limit=100))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from debias import names
from pruners import catalogue

UNPRUNED = "unpruned"  # the arm that answers with every token
# Trends for which attention itself is read in another way, or measured on pictures without content.
MEASURED = ("rope-heads", "unrotated", *(f"{way}-{blank}" for way in ("blank", "minus") for blank in names.PICTURES))
TRENDS = ("auto", "published", "online", "fitted", "average", "inverse_cubic", "rope", *MEASURED)
FILLS = ("mean", "constant", "random", "mirror")
HARNESS = ("device", "dtype", "attention", "trend", "stages")  # what harnesses may set besides the method's fields
QUESTIONS = 64  # of each benchmark, that `fit` measures a trend on


def setting(default: Any, about: str, **flag: Any) -> Any:
    """A field that is a flag as well: its default (or MISSING), what it does, and what else argparse is told of it."""
    return field(default=default, metadata={"help": about, **flag})


@dataclass(frozen=True)
class JudgeSettings:
    """The server that grades free-form answers."""

    url: str = setting(
        MISSING, "a server that speaks OpenAI's protocol, such as http://localhost:8000/v1", metavar="URL"
    )
    model: str = setting(MISSING, "the model to ask there", metavar="NAME")
    key_variable: str = setting("OPENAI_API_KEY", "the environment variable with the key", metavar="NAME")
    timeout: float = setting(60.0, "for one reply", metavar="SECONDS")
    cache: Path | None = setting(None, "where verdicts are kept (default: the user's cache folder)", metavar="FILE")

    def __post_init__(self) -> None:
        if not (self.url and self.model):
            raise ValueError("a judge needs both --judge-url and --judge-model")


@dataclass(frozen=True)
class Settings:
    """What a run is: its method, model, data and everything else that it depends on.

    Defaults are those of `python -m eval run`.

    Sequences are kept as tuples, and names in their one spelling, so that equal runs are equal values.
    """

    method: str = setting("fastv", "a pruning method")
    keep: int | float | None = None  # tokens to keep: a count, or a share; None: the method's own budget
    fields: Mapping[str, Any] = field(default_factory=dict)  # the method's other fields, such as {"layer": 3}
    arms: Sequence[str] = setting(
        (), "of unpruned, none, trend, padding, both (or paper, before, after); default: all of the method"
    )
    unpruned: bool = True  # whether the unpruned model answers too, where `arms` is empty
    benchmarks: Sequence[str] = setting((), "names with commas (default: all that --data holds)")
    model: str | None = setting(None, "a checkpoint folder or hub id (default: the embedded model)")
    video_model: str | None = setting(None, "the model for clips (default: --model, or the embedded model)")
    data: Path | None = setting(None, "the data root, LLaVA's playground/data/eval (default: the embedded tiny world)")
    full: bool = setting(False, "all of the embedded data, not the subset")
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by benchmark: {"vqav2": {"split": "val"}}
    limit: int | None = setting(
        None, "about so many questions of each benchmark, the same every time; those of one picture stay together"
    )
    max_new_tokens: int | None = setting(None, "longest answer (default: each benchmark's own, 128 or 1024)")
    trend: str = setting(
        "auto",
        "auto, published, online (fitted to each score), a trends file that `fit` wrote, or fitted now on held-out "
        "questions: fitted (exponential), average (the mean attention itself), inverse_cubic, rope, rope-heads; "
        "unrotated: scores before the rotary embedding; blank-mean, minus-black, ...: those of a picture without "
        "content; docs/ways.md says what each computes",
    )
    padding: str = setting(
        "auto",
        "how padding is told: auto (the method's released rule), area, even, bilinear, antialiased, cropped, sink "
        "(tokens whose hidden state is an attention sink's; sink:12 by another threshold)",
    )
    as_released: bool = setting(
        False,
        "compute what the authors' release computes, to the last token, without our corrections: what published "
        "numbers belong to (FastV in mode mask; arms none, padding, both)",
    )
    stages: str = setting("first", "debias the first cut, as the paper, or all of them", choices=("first", "all"))
    dtype: str = setting(
        "auto",
        "auto: the checkpoint's; float32 on a CPU. 8bit, 4bit: the decoder's weights, by bitsandbytes or torchao",
        choices=("auto", "float32", "float16", "bfloat16", "8bit", "4bit"),
    )
    attention: str = setting(
        "auto",
        "attention kernel: sdpa, eager or flash_attention_2; auto: the last where it is installed, else sdpa",
    )
    device: str | None = setting(
        None, "cpu, cuda, cuda:1, or auto to spread a large model (default: cuda where there is a GPU)"
    )
    fill: Literal["mean", "constant", "random", "mirror"] = setting(
        "mean",
        "what the border of a padded picture shows: the mean colour, black, noise, or the picture mirrored",
        choices=FILLS,
    )
    max_patches: int | None = setting(
        None,
        "at most N tiles of a picture, for families that cut pictures into tiles (default: the checkpoint's)",
        metavar="N",
    )
    batch_size: int = setting(8, "questions at once; answers do not depend on it")
    workers: int = setting(4, "threads that read pictures ahead")
    feature_memory: float = setting(2.0, "for vision features shared by questions and arms", metavar="GIB")
    backend: str = setting("native", "fork: the authors' code in its own environment", choices=("native", "fork"))
    tensor_parallel: bool = setting(
        False, "the processes of this launch (torchrun) hold one model, each a part of every layer"
    )
    zero: bool = setting(
        False, "they hold it together, each a part of every weight, and all compute everything (DeepSpeed's ZeRO)"
    )
    share_prefix: bool = setting(
        False, "compute the layers before the first cut once for all arms of a batch; answers stay the same"
    )
    check: bool = setting(False, "read every record and picture before a model is loaded")
    allow_missing: bool = setting(
        False, "go on with a checkpoint that lacks tensors of its model or holds others; what is lacking is random"
    )
    skip_broken: bool = setting(False, "continue without unreadable pictures; they count as wrong")
    draws: int = setting(10_000, "bootstrap draws")
    report_samples: int = setting(12, "questions of each benchmark in report.html", type=int)
    judge: JudgeSettings | None = None  # who grades free-form answers; None: the benchmarks' offline stand-ins
    out: Path | None = setting(None, "the run folder; the same command continues it (default: runs/METHOD-HASH)")

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
        for entry in fields(self):
            value, choices = getattr(self, entry.name), entry.metadata.get("choices")
            if choices and value not in choices:
                raise ValueError(f"{entry.name}={value!r}: expected one of {', '.join(choices)}")
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
