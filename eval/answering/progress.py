"""How far a run is: a bar with rate and time left on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

log = logging.getLogger("debias")
SECONDS = 15.0  # between log lines


class Progress:
    """Counts answers towards a total. Used as a context manager; `advance` moves it."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done, self.begun_at = total, done, done
        self.start = self.last = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=total, completed=done, pace="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None and self.done > self.begun_at:
            self._line("done")

    def pace(self) -> str:
        """Answers a second and the time left, in words; "" before the first answer."""
        rate = (self.done - self.begun_at) / max(time.monotonic() - self.start, 1e-9)
        if not rate:
            return ""
        minutes, seconds = divmod(round((self.total - self.done) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{rate:.1f}/s, {f'{hours}:' if hours else ''}{minutes:02d}:{seconds:02d} left"

    def advance(self, count: int, what: str) -> None:
        """Count so many answers more; `what` names their benchmark and arm."""
        self.done += count
        if self.bar:
            self.bar.update(self.task, completed=self.done, description=what, pace=self.pace())
        elif time.monotonic() - self.last >= SECONDS:
            self._line(what)

    def _line(self, what: str) -> None:
        self.last = time.monotonic()
        log.info("%s: %d of %d answers, %s", what, self.done, self.total, self.pace())
