"""Counts answers, and how busy the model and the GPU are meanwhile."""

from __future__ import annotations

import importlib.util
import statistics
import threading
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
        summary = self.summary()
        gpu = "" if summary["gpu_busy"] is None else f", GPU busy {summary['gpu_busy']:.0%}"
        return (
            f"{self.answers:,} answers to {self.questions:,} questions in {self.seconds:.1f} s: "
            f"{summary['questions_per_second']:.2f} questions/s, {summary['answers_per_second']:.2f} answers/s; "
            f"{summary['model_share']:.0%} of the time in the model{gpu}"
        )


class Watch:
    """Inside the block, samples how busy this process's GPU is; samples nothing without a GPU, or without pynvml."""

    def __init__(self, meter: Meter, device: str, every: float = 0.5) -> None:
        self.meter, self.device, self.every = meter, device, every
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if self.device.startswith("cuda") and importlib.util.find_spec("pynvml"):
            self.thread = threading.Thread(target=self._sample, daemon=True, name="gpu-watch")
            self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join()

    def _sample(self) -> None:
        while not self.over.wait(self.every):
            try:
                self.meter.gpu.append(float(torch.cuda.utilization(self.device)))
            except (RuntimeError, ImportError, OSError):  # a driver that does not tell
                return
