"""Real evaluations, started cheaply and hurt from outside or inside.

`python evaluations.py` is a server: it imports torch and transformers once, and forks one process per order that comes
as a line of JSON. Such a process is an ordinary `python -m eval run ...`, with the faults of the order built in. The
class `Evaluations` is the other end: it starts processes, kills them, and waits for them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Process:
    """One evaluation that was started."""

    def __init__(self, server: Evaluations, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self.status: int | None = None

    def running(self) -> bool:
        if self.status is None:
            self.status = self.server.order(poll=self.pid)
        return self.status is None

    def wait(self) -> int:
        """The exit status; minus the signal's number when a signal ended it."""
        if self.status is None:
            self.status = self.server.order(wait=self.pid)
        return self.status

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Evaluations:
    """Where evaluations are started from: a process that has everything imported and forks."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch, self.number = scratch, 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "evaluations.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip

    def order(self, **what: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the server of evaluations ended")
        return json.loads(line)

    def start(
        self, arguments: Sequence[object], faults: Sequence[Any] = (), environment: Mapping[str, str] | None = None
    ) -> Process:
        """`python -m eval run ARGUMENTS` with faults: lists of a name from faults.py and its values."""
        self.number += 1
        log = self.scratch / f"{self.number}.log"
        words = ["run", *map(str, arguments)]
        pid = self.order(words=words, faults=list(faults), environment=dict(environment or {}), log=str(log))
        return Process(self, pid, log)

    def run(self, arguments: Sequence[object], faults: Sequence[Any] = (), **more: Any) -> Process:
        """The same, to its end."""
        process = self.start(arguments, faults, **more)
        process.wait()
        return process

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(120)


# -- the server's side ---------------------------------------------------------------------------------------------


def status_of(code: int) -> int:
    return os.waitstatus_to_exitcode(code)


def child(order: Mapping[str, Any]) -> None:
    """Becomes the evaluation, and ends with its exit status."""
    import faults

    from eval.cli import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    code = 70
    try:
        code = faults.live_through(lambda: main(order["words"]), order["faults"])
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def prepare(given: Path) -> None:
    """Tiny random checkpoints, and a dozen questions of every benchmark."""
    import importlib.util

    from tiny.benchmarks import ensure

    spec = importlib.util.spec_from_file_location("builders", ROOT / "tests" / "pruners" / "builders.py")
    assert spec is not None
    assert spec.loader is not None
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    for family in ("llava", "video_llava"):
        builders.checkpoint(family, given / family)
    ensure(given / "world", size="ci")


def blacken(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        form = image.format
    Image.new("RGB", (64, 64)).save(path, form)  # square, so that no border is added


def serve() -> None:
    import faults

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed, it is no answer
    for module in ("torch", "transformers", "av", "numpy", "PIL.Image", "eval.commands.run", "eval.answering.backends", "pruners.models",
                   "transformers.models.llava.modeling_llava", "transformers.models.video_llava", "rich.table",
                   "eval.scoring.judge", "openai", "tenacity", "eval.showing.report", "jinja2"):  # fmt: skip
        __import__(module)
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any
        if "words" in order:
            answer = os.fork()
            if answer == 0:
                child(order)
        elif "prepare" in order:
            answer = prepare(Path(order["prepare"]))
        elif "may_mount" in order:
            answer = faults.may_mount()
        elif "blacken" in order:
            answer = blacken(Path(order["blacken"]))
        elif "wait" in order:
            answer = status_of(os.waitpid(order["wait"], 0)[1])
        else:
            pid, code = os.waitpid(order["poll"], os.WNOHANG)
            answer = status_of(code) if pid else None
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
    os._exit(0)  # nothing is left to tidy
