"""What can be seen wrong from the methods' files and a checkpoint's configuration: told before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from debias.names import ARMS, RULES, nearest
from eval import benchmarks
from eval.answering.checkpoints import config_of
from eval.answering.store import may_be_written
from eval.benchmarks.base import Benchmark
from eval.embedded import BARE, EMBEDDED, SMOL
from eval.reading.parquet import is_parquet, there
from eval.settings import TRENDS, Settings
from pruners import catalogue
from pruners.budget import check_budget


def check(settings: Settings) -> None:
    """ValueError for everything that can be known without torch: it is told before torch is loaded."""
    check_arms(settings)
    check_keep(settings.keep)
    rule, colon, _ = settings.padding.partition(":")
    if rule not in ("auto", *RULES) or (colon and rule != "sink"):
        raise ValueError(
            f"--padding {settings.padding}: expected auto, {', '.join(RULES)}, or sink:THRESHOLD{nearest(rule, RULES)}"
        )
    check_trend(settings.trend)
    if settings.data is not None and is_parquet(settings.data):
        there(settings.data)
    elif settings.data is not None:
        lying_in(settings.data, settings.benchmarks)
    if settings.out is not None and not (settings.out / "run.json").exists():
        may_be_written(settings.out)
    for model in dict.fromkeys([settings.model or str(EMBEDDED["image"]), settings.video_model or ""]):
        if model not in ("", SMOL, BARE):  # those two are put together later
            check_layers(settings, model)


def check_trend(trend: str) -> None:
    """ValueError for a trend that is neither a known word nor a file."""
    if trend not in TRENDS and not Path(trend).is_file():
        raise ValueError(
            f"--trend {trend}: no such file{nearest(trend, TRENDS)}; expected {', '.join(TRENDS)}, "
            "or a trends file that `fit` wrote"
        )


def check_arms(settings: Settings) -> None:
    """ValueError for an arm that the method does not have."""
    odd = [arm for arm in settings.arms if arm in ARMS and arm not in catalogue.arms(settings.method)]
    if odd:
        raise ValueError(
            f"--arms {odd[0]}: {catalogue.title(settings.method)} reads no attention of the decoder, so there is no "
            "trend to divide by; it has the arms none and padding"
        )


def check_keep(keep: Any) -> None:
    """ValueError for a budget that no model can have."""
    if keep is not None:
        check_budget(keep)
    if keep == 0:
        raise ValueError("--keep 0 leaves nothing of a picture; give a count of at least 1, or a share such as 0.25")


def check_layers(settings: Settings, model: str) -> None:
    """ValueError for a layer to cut before that the model does not have, or for a model that is not there."""
    depth = depth_of(model)
    asked = [settings.fields.get("layer"), *(settings.fields.get("layers") or ())]
    for layer in asked:
        if layer is not None and not 0 <= layer < depth:
            raise ValueError(f"cannot cut before layer {layer}: {Path(model).name} has layers 0 to {depth - 1}")


def depth_of(model: str) -> int:
    """How many layers a checkpoint's decoder has."""
    config = config_of(model)
    return int((config.get("text_config") or config).get("num_hidden_layers", 32))


def layers_named(text: str, depth: int) -> list[int]:
    """The layers that --layers names, of a decoder with `depth` layers."""
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if not (word.isdecimal() and int(word) < depth)]:
        raise ValueError(f"--layers {text}: expected layers 0 to {depth - 1} with commas, found {wrong[0]!r}")
    return [int(word) for word in words]


def lying_in(data: Path, wanted: Sequence[str]) -> list[Benchmark]:
    """The benchmarks that are wanted, or that a data root holds; one model's after the other's."""
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such folder; expected LLaVA's playground/data/eval, or a folder like it")
    chosen = [benchmarks.get(name) for name in wanted or benchmarks.NAMES]
    if not wanted:
        chosen = [benchmark for benchmark in chosen if benchmark.lies_in(data)]
    if not chosen:
        raise ValueError(f"--data {data} holds none of the benchmarks; expected folders such as {data}/pope")
    return sorted(chosen, key=lambda benchmark: benchmark.media)
