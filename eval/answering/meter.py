"""Counts answers, and how busy the model and the GPU are meanwhile."""

from __future__ import annotations

import importlib.util
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Meter:
    """Counts answers, and the seconds that they and the model took."""

    questions: int = 0
    answers: int = 0
    seconds: float = 0.0
    busy: float = 0.0  # of them, in the model
    gpu: list[float] = field(default_factory=list)  # per cent, sampled

    def summary(self) -> dict[str, Any]:
        """The counts, the rates by the second, and the shares of the time in the model and on the GPU (or None)."""
        spent = max(self.seconds, 1e-9)
        return {
            "questions": self.questions,
            "answers": self.answers,
            "seconds": self.seconds,
            "questions_per_second": self.questions / spent,
            "answers_per_second": self.answers / spent,
            "model_share": self.busy / spent,
            "gpu_busy": statistics.mean(self.gpu) / 100 if self.gpu else None,
        }

    def line(self) -> str:
        """The same in one sentence, for people."""
        summary = self.summary()
        gpu = "" if summary["gpu_busy"] is None else f", GPU busy {summary['gpu_busy']:.0%}"
        return (
            f"{self.answers:,} answers to {self.questions:,} questions in {self.seconds:.1f} s: "
            f"{summary['questions_per_second']:.2f} questions/s, {summary['answers_per_second']:.2f} answers/s; "
            f"{summary['model_share']:.0%} of the time in the model{gpu}"
        )

    @contextmanager
    def watching(self, device: str, every: float = 0.5) -> Iterator[None]:
        """Samples inside the block how busy the GPU is; nothing without a GPU, or without pynvml."""
        if not (device.startswith("cuda") and importlib.util.find_spec("pynvml")):
            yield
            return
        over = threading.Event()

        def sample() -> None:
            while not over.wait(every):
                try:
                    self.gpu.append(float(torch.cuda.utilization(device)))
                except (RuntimeError, ImportError, OSError):  # a driver that does not tell
                    return

        thread = threading.Thread(target=sample, daemon=True, name="gpu-watch")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
