"""Processes that hold one model together (`--tensor-parallel`, `--zero`): all answer all questions, and one writes."""

from __future__ import annotations

import atexit
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from eval.answering.plan import Process

T = TypeVar("T")


class Team:
    """All processes of a launch. The first is the leader; what the others write goes to a temporary folder."""

    def __init__(self, place: Process, device: str) -> None:
        import torch
        import torch.distributed as dist

        self.leads, self._held = place.rank == 0, ExitStack()
        gpu = device.startswith("cuda")
        if gpu:
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if gpu else "gloo", rank=place.rank, world_size=place.size)
            atexit.register(dist.destroy_process_group)  # and no sooner: the next method's model is split in it, too

    def folder(self, out: Path) -> Path:
        """Where this process writes: the run folder for the leader, a temporary folder for others."""
        return out if self.leads else Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="debias-team-")))

    def agree(self, value: T) -> T:
        """The leader's value, in every process."""
        import torch.distributed as dist

        told: list[Any] = [value]
        dist.broadcast_object_list(told, src=0)
        agreed: T = told[0]
        return agreed

    def close(self) -> None:
        """Remove the temporary folder."""
        self._held.close()
