"""What flags ask for that cannot be had, told in one sentence before anything is loaded or a folder is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from debias.names import ARMS
from eval.answering.checkpoints import config_of
from eval.settings import Settings
from pruners.engine.limits import checked
from pruners.models import Adapter, families, family

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5}


def check_arms(method: str, trended: bool, asked: Sequence[str]) -> None:
    """ValueError for an arm that the method does not have."""
    odd = [arm for arm in asked if arm in ARMS and arm not in ("none", "padding")]
    if odd and not trended:
        raise ValueError(
            f"--arms {odd[0]}: {method} reads no attention of the decoder, so there is no trend to divide by; "
            "it has the arms none and padding"
        )


def check_fill(settings: Settings, chosen: Sequence[type[Adapter]]) -> None:
    """ValueError for another filling of a border that a family does not add, or that the authors' code adds itself."""
    if settings.fill == "mean":
        return
    if settings.backend == "fork":
        raise ValueError(
            f"--fill {settings.fill} belongs to the native backend; the authors' code pads pictures itself"
        )
    if not all(one.fills for one in chosen):
        padded = ", ".join(name for name in families() if family(name).fills)
        raise ValueError(f"--fill {settings.fill} belongs to families that pad pictures to a square: {padded}")


def cuts(pruner: Any, model: str, tokens: int | None, depth: int) -> None:
    """ValueError for a budget or a layer that the model does not have."""
    keep = getattr(pruner, "keep", None)
    if keep == 0:
        raise ValueError("--keep 0 leaves nothing of a picture; give a count of at least 1, or a share such as 0.25")
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
