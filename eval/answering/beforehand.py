"""What flags ask for that cannot be had, told in one sentence before anything is loaded or a folder is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from debias import Debias, Trend
from eval.answering import early, trends
from eval.answering.checkpoints import config_of
from eval.settings import UNPRUNED, Settings
from pruners import Pruner
from pruners.engine.limits import checked, refuse_reading, refuse_sinks
from pruners.engine.prefix import check_shared
from pruners.models import Adapter, families, family
from pruners.models.folder import checked as checked_folder
from pruners.models.loading import known_kernel

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5}


@dataclass(frozen=True)
class Shape:
    """A checkpoint by its configuration: name, visual tokens (None: it depends on the picture), layers."""

    name: str
    tokens: int | None
    depth: int
    tower: int

    @classmethod
    def of(cls, model: str, tokens: int | None) -> Shape:
        tower = (config_of(model).get("vision_config") or {}).get("num_hidden_layers", 24)
        return cls(Path(model).name, tokens, early.depth_of(model), tower)


def check_models(settings: Settings, models: Iterable[str]) -> None:
    """Whatever of a checkpoint can be seen wrong without building it; the authors' code has its own layouts."""
    if settings.backend == "fork":
        return
    if settings.attention != "auto":
        known_kernel(settings.attention)
    for model in models:
        if Path(model).is_dir():
            checked_folder(Path(model))


def check_arms(settings: Settings, arms: Sequence[str]) -> None:
    """ValueError for an arm that the method does not have, or that the authors' release cannot compute."""
    early.check_arms(settings)
    if settings.as_released:
        trend = Trend.online() if settings.trend == "online" else None
        for arm in arms:
            released = Debias.paper(settings.method, None, "none" if arm == UNPRUNED else arm, as_released=True)
            replace(released, stages=settings.stages, trend=trend or released.trend)


def check_reading(settings: Settings, pruner: Pruner) -> None:
    """ValueError for another reading of attention, or of padding, where nobody can read it so."""
    padding = trends.padded(settings.padding)
    if padding is not None:
        if settings.as_released:
            raise ValueError("--padding: the authors' release tells padding by its own rules; leave it out")
        if not padding.placed and settings.backend == "fork":
            raise ValueError("--padding sink reads hidden states, which only our own methods can do")
        refuse_sinks(Debias(padding=padding), pruner.cuts(32))
    mode, reading = settings.trend, trends.READINGS.get(settings.trend)
    if reading is None and mode not in trends.BLANKS:
        return
    if settings.backend == "fork" or settings.as_released:
        raise ValueError(f"--trend {mode} measures attention in another way, which only our own methods can do")
    refuse_reading(Debias(reading=reading), pruner)


def check_split(settings: Settings, split: int, device: str, dtype: str) -> None:
    """ValueError for a model in `split` processes that cannot be held so."""
    if dtype.endswith("bit") and (settings.backend == "fork" or split > 1):
        raise ValueError(f"--dtype {dtype} belongs to the native backend in one process a model")
    if split == 1:
        return
    if settings.zero and settings.tensor_parallel:
        raise ValueError("--zero and --tensor-parallel are two ways to hold one model together; choose either")
    if device == "auto":
        flag = "--zero" if settings.zero else "--tensor-parallel"
        raise ValueError(f"--device auto spreads a model in one process, {flag} over several; choose either")


def check_fork(settings: Settings) -> None:
    """ValueError for what the authors' code cannot do."""
    reasons = {
        "--zero": (settings.zero, "runs on one device"),
        "--tensor-parallel": (settings.tensor_parallel, "runs on one device"),
        "--share-prefix": (settings.share_prefix, "runs every arm whole"),
        f"--fill {settings.fill}": (settings.fill != "mean", "pads pictures itself"),
    }
    for flag, (asked, why) in reasons.items():
        if asked and settings.backend == "fork":
            raise ValueError(f"{flag} belongs to the native backend; the authors' code {why}")


def check_pictures(settings: Settings, chosen: Sequence[type[Adapter]]) -> None:
    """ValueError for a filling of borders that a family does not add, or a limit on tiles that it does not cut."""
    if settings.fill != "mean" and not all(kind.fills for kind in chosen):
        padded = ", ".join(name for name in families() if family(name).fills)
        raise ValueError(f"--fill {settings.fill} belongs to families that pad pictures to a square: {padded}")
    if settings.max_patches and not all(kind.cuts_tiles for kind in chosen):
        tiled = ", ".join(name for name in families() if family(name).cuts_tiles)
        raise ValueError(f"--max-patches belongs to families that cut a picture into so many tiles: {tiled}")


def check_sizes(shape: Shape, pruner: Pruner, share_prefix: bool) -> None:
    """ValueError for a budget or a layer that a model does not have, and for arms that share no layer of it."""
    cuts(pruner, shape.name, shape.tokens, shape.depth)
    if share_prefix:
        try:
            check_shared(pruner, shape.depth, shape.tower)
        except ValueError as error:
            raise ValueError(f"{error}; leave out --share-prefix") from None


def cuts(pruner: Any, model: str, tokens: int | None, depth: int) -> None:
    """ValueError for a budget or a layer that the model does not have."""
    keep = getattr(pruner, "keep", None)
    early.check_keep(keep)
    if isinstance(keep, int) and tokens is not None and keep > tokens:
        raise ValueError(f"--keep {keep}: {model} sees a picture as {tokens} tokens; give at most so many, or a share")
    checked(pruner, depth)


def memory(what: str, needed: float, device: str, instead: str) -> None:
    """ValueError where so many bytes of weights are more than the device has free."""
    if torch.device(device).type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
    else:
        free = available()
    if needed > free:
        sizes = f"about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free on {device}"
        raise ValueError(f"{what} needs {sizes}: {instead}")


def weights(model: str, dtype: str) -> float:
    """Bytes of a checkpoint's weights once they are loaded; 0 where its files are not here."""
    folder = Path(model)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = config_of(model) if stored else {}
    said = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    own = BYTES.get(str(said), 4.0)
    return stored * BYTES.get(dtype, own) / own


def available() -> float:
    """Bytes of main memory that are free, or can be freed; infinity where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")
