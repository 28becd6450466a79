"""What goes wrong inside an evaluation's process. Each fault is installed around the untouched product."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from typing import Any

Main = Callable[[], int]
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REMOUNT, MS_BIND, MS_RDONLY, MS_REC, MS_PRIVATE = 32, 4096, 1, 16384, 1 << 18


def live_through(main: Main, faults: Sequence[Sequence[Any]]) -> int:
    for name, *values in faults:
        main = FAULTS[name](main, *values)
    return main()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: str, flags: int, options: str = "", source: str = "none") -> None:
    words = [text.encode() for text in (source, place, kind)]
    if _libc().mount(words[0], words[1], words[2], flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def own_mounts() -> None:
    """Mounts of this process are its own from now on."""
    if _libc().unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("", "/", MS_REC | MS_PRIVATE)


def may_mount() -> bool:
    """Whether this machine lets a process have its own mounts (asked in a process of its own)."""
    pid = os.fork()
    if pid == 0:
        try:
            own_mounts()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def small_disk(main: Main, folder: str, first: str) -> Main:
    """The run folder on a file system of `first` bytes; once that was full, on one with room. 3: it never was."""

    def run() -> int:
        own_mounts()
        disk = folder + ".disk"
        os.makedirs(disk)
        mount("tmpfs", disk, 0, f"size={first}")
        os.makedirs(f"{disk}/run")
        os.makedirs(folder)
        mount("", folder, MS_BIND, source=f"{disk}/run")
        code = main()
        if code != 1:
            return 3
        mount("tmpfs", disk, MS_REMOUNT, "size=64m")
        code = main()
        shutil.copytree(folder, folder + ".kept")
        return code

    return run


def read_only(main: Main, folder: str) -> Main:
    def run() -> int:
        own_mounts()
        mount("", folder, MS_BIND, source=folder)
        mount("", folder, MS_BIND | MS_REMOUNT | MS_RDONLY)
        return main()

    return run


def file_limit(main: Main, size: int) -> Main:
    """No file can grow beyond `size` bytes: the kernel writes what fits, and refuses the rest."""

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return main()

    return run


def no_space(main: Main, rows: int) -> Main:
    """After so many rows the disk takes half of the next one and no more."""
    from eval.answering.store import Shard

    left = [rows]

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if left[0] <= 0:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            return int(self.file.write(data))

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def fileno(self) -> int:
            return int(self.file.fileno())

    opened = Shard.__init__

    def init(self: Any, *arguments: Any) -> None:
        opened(self, *arguments)
        self.file = Full(self.file)

    Shard.__init__ = init  # type: ignore[method-assign]
    return main


def little_memory(main: Main, most: int) -> Main:
    """The fourth decoder layer asks for far too much memory when it sees more than `most` sequences."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    forward, notes = LlamaDecoderLayer.forward, os.environ["FAULT_NOTES"]

    def greedy(self: Any, hidden_states: Any, *arguments: Any, **named: Any) -> Any:
        if len(hidden_states) > most and self.self_attn.layer_idx == 3:
            with open(notes, "a") as file:
                file.write(f"{len(hidden_states)}\n")
            torch.empty(1 << 60, dtype=torch.uint8)
        return forward(self, hidden_states, *arguments, **named)

    LlamaDecoderLayer.forward = greedy
    return main


def poison(main: Main) -> Main:
    """Pictures of one single colour are NaN behind the projector."""
    import torch
    from transformers import LlavaModel

    features = LlavaModel.get_image_features

    def sick(self: Any, pixel_values: Any = None, *arguments: Any, **named: Any) -> Any:
        found = features(self, pixel_values, *arguments, **named)
        flat = pixel_values.flatten(2).std(-1).amax(-1) < 1e-3
        for i in torch.nonzero(flat).flatten().tolist():
            found.pooler_output[i].fill_(float("nan"))
        return found

    LlavaModel.get_image_features = sick
    return main


def impatient(main: Main) -> Main:
    """Nobody waits between two attempts at a judge."""
    from eval.scoring import judge

    judge._wait = lambda state, longest: 0.0
    return main


FAULTS: dict[str, Callable[..., Main]] = {
    found.__name__: found for found in (small_disk, read_only, file_limit, no_space, little_memory, poison, impatient)
}
