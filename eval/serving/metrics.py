"""Counters of a server in Prometheus's text format."""

from __future__ import annotations

from collections import defaultdict
from threading import Lock

BUCKETS = {"request_seconds": (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
           "batch_size": (1, 2, 4, 8, 16, 32, 64)}  # fmt: skip
ABOUT = {
    "requests_total": ("counter", "Requests by path and status; status 499: the client left."),
    "requests_running": ("gauge", "Questions that are being answered or wait for it."),
    "request_seconds": ("histogram", "Seconds from a question's first byte to the end of its answer."),
    "batch_size": ("histogram", "Questions that were answered together."),
    "prompt_tokens_total": ("counter", "Tokens of prompts, the visual ones among them."),
    "completion_tokens_total": ("counter", "Tokens of answers."),
    "visual_tokens_total": ("counter", "Visual tokens of prompts."),
    "visual_tokens_kept_total": ("counter", "Visual tokens behind the last cut."),
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What happened so far. Labels are words of this program, never a client's."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._seen: dict[str, list[float]] = {name: [0.0] * (len(edges) + 1) for name, edges in BUCKETS.items()}
        self._sums: dict[str, float] = dict.fromkeys(BUCKETS, 0.0)
        self._lock = Lock()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count something; a gauge goes down with a negative value."""
        with self._lock:
            self._values[name][tuple(labels.items())] += value

    def observe(self, name: str, value: float) -> None:
        """One value of a histogram."""
        place = sum(value > edge for edge in BUCKETS[name])
        with self._lock:
            self._seen[name][place] += 1
            self._sums[name] += value

    def value(self, name: str, **labels: str) -> float:
        """What was counted under these labels."""
        with self._lock:
            return self._values[name][tuple(labels.items())]

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        lines = []
        with self._lock:
            for name, (kind, about) in ABOUT.items():
                full = f"debias_{name}"
                lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}"]
                if kind == "histogram":
                    held = 0.0
                    for edge, count in zip((*BUCKETS[name], "+Inf"), self._seen[name], strict=True):
                        held += count
                        lines.append(f'{full}_bucket{{le="{edge}"}} {held:g}')
                    lines += [f"{full}_sum {self._sums[name]:.9g}", f"{full}_count {held:g}"]
                    continue
                for labels, value in sorted(self._values[name].items()) or [((), 0.0)]:
                    said = ",".join(f'{label}="{word}"' for label, word in labels)
                    lines.append(f"{full}{{{said}}} {value:.12g}" if said else f"{full} {value:.12g}")
        return "\n".join(lines) + "\n"
