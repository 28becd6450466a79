"""Opening files for reading: only regular files, and without blocking."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def opened(path: Path) -> IO[bytes]:
    """A regular file, to read. A pipe, a device, a socket or a folder is refused and never waited for.

    FileNotFoundError and every other OSError are the caller's to put into words.
    """
    only_regular(path)
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 (the caller's)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # exchanged in between
        file.close()
        raise ValueError(f"{path}: expected a regular file")
    return file


def only_regular(path: Path) -> None:
    """Refuse anything but a regular file."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: expected a regular file, found {KINDS.get(stat.S_IFMT(mode), 'something else')}")
