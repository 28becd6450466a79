"""What can be known of a checkpoint before it is loaded: where it lies, its visual tokens, a name for its weights."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debias.names import nearest
from eval.core.files import cache_home, sha256, whole
from pruners import models
from pruners.loading.folder import BESIDE, READ, config_in, local, opened
from pruners.models import families, family, kind_of, known_checkpoints, picture_tokens

REMEMBERED = 1 << 20  # bytes; smaller files are quicker read than looked up

EXAMPLE = "llava-hf/llava-1.5-7b-hf"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's config says about its visual tokens; None: it depends on the picture."""

    kind: str
    tokens: int | None
    family: type[models.Adapter]  # of a checkpoint for the authors' code alone, what holds for any


def layout(model: str) -> Checkpoint:
    """Which family a checkpoint is of, and its visual tokens; some are for the authors' code alone, without adapter."""
    config = config_of(model)
    kind = kind_of(config)
    known = family(kind) if kind in families() else models.Adapter
    return Checkpoint(kind, picture_tokens(config), known)


def config_of(model: str) -> dict[str, Any]:
    """What a checkpoint's config.json holds."""
    return config_in(folder_of(model))


def folder_of(model: str) -> Path:
    """The checkpoint's folder; of a hub id, the snapshot with its config."""
    if Path(model).is_dir():
        if not (Path(model) / "config.json").exists():
            raise ValueError(f"{model}: expected a checkpoint folder with a config.json")
        return Path(model)
    if Path(model).is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise ValueError(
            f"{model}: no such folder{like(model)}; expected a checkpoint folder or a hub id such as {EXAMPLE}"
        )
    try:
        return local(model, only="config.json")
    except ValueError as error:
        raise ValueError(f"{error}{like(model)}") from None


def like(model: str) -> str:
    """The folder beside it, or the known checkpoint, that a misspelt name is nearest to."""
    beside = Path(model).parent
    folders = [str(path) for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
    return nearest(model, [*known_checkpoints(), *folders])


def digest_of(model: str) -> str:
    """Names the weights: a hub commit, or a digest of every byte of the files that a folder's model is read from."""
    folder = folder_of(model)
    if not Path(model).is_dir():
        return folder.name
    seen = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        # a prior measured on the model lies beside its weights, and does not make it another model
        if path.suffix in READ and path.name not in BESIDE:
            seen.update(f"{path.name} {_digest(path)}\n".encode())
    return seen.hexdigest()[:16]


def _digest(path: Path) -> str:
    """A file's SHA-256; a large file's is remembered until anything about the file changes, its inode included."""
    with opened(path) as file:
        at = os.fstat(file.fileno())
        name = f"{at.st_dev} {at.st_ino} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns}"
        note = cache_home() / "digests" / hashlib.sha256(name.encode()).hexdigest()
        if at.st_size >= REMEMBERED and note.is_file() and re.fullmatch(r"[0-9a-f]{64}", said := note.read_text()):
            return said
        value = sha256(file)
    if at.st_size >= REMEMBERED:
        with suppress(OSError):  # without a place to remember it, it is computed again
            note.parent.mkdir(parents=True, exist_ok=True)
            with whole(note) as file:
                file.write(value.encode())
    return value
