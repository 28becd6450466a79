"""Where files may be written, and where this package keeps what it can do without."""

from __future__ import annotations

import os
from pathlib import Path


def writable(path: str | Path) -> Path:
    """`path`, where something may be written: nothing is there, or a regular file or folder. No device is replaced."""
    if os.path.lexists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f"{path}: is there and is neither a regular file nor a folder; give another name to write to")
    return Path(path)


def cache_home() -> Path:
    """Where this package keeps what it can do without: $XDG_CACHE_HOME/debias."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debias"
