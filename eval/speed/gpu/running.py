"""Runs a step: its parts one after the other, each written down when it is done, so that nothing is lost on the way."""

from __future__ import annotations

import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from shutil import which
from typing import Any

import torch
import transformers

from eval import cli
from eval.core.files import whole, write_json
from eval.core.tables import say
from eval.forks.setup import ROOT
from eval.speed.gpu.pages import page
from eval.speed.gpu.steps import FULL, REHEARSAL, SECONDS, STEPS, Part
from eval.speed.gpu.verdicts import verdicts

LINES = 12  # of a program's output that are kept


class Stop(BaseException):
    """The time of a step is up, or somebody ended it; no `except Exception` on the way may keep it."""


def run(step: str, out: Path, rehearse: bool = False, seconds: float = SECONDS) -> dict[str, Any]:
    """Do the step, or what an earlier call left of it; returns what was written to `out`/STEP.json.

    Parts that the same code has finished on the same machine are not done again: delete the file to begin anew.
    """
    begun, path = time.perf_counter(), out / f"{step}.json"
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"step": step, "rehearsal": rehearse, "machine": machine(), "parts": [], "verdicts": []}
    done = earlier(path, result)
    if rehearse:
        torch.set_num_threads(1)
    with Deadline(seconds) as deadline:
        for part in STEPS[step](REHEARSAL if rehearse else FULL, out):
            record = done.get(part.command)
            if record is None:
                record = {"name": part.name, "command": part.command}
                if lacking := deadline.reason or part.lacking:
                    record["missing"] = lacking
                else:
                    say(f"gpu {step}: {part.name} ({time.perf_counter() - begun:.0f} s so far)")
                    record |= performed(part, rehearse, deadline)
            result["parts"].append(record)
            result["verdicts"] = verdicts(result)
            written(path, result)
    return result


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    cuda = torch.cuda.is_available()
    git, commit = which("git"), ""
    if git is not None:  # says nothing where the code came without its history
        told = subprocess.run(
            [git, "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        commit = told.stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores, no GPU",
        "cuda": str(torch.version.cuda) if cuda else "none",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "date": date.today().isoformat(),
    }


def earlier(path: Path, now: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Finished parts by their command, when they were done by the same code on the same machine."""
    if not path.exists():
        return {}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = {key: value for key, value in before["machine"].items() if key != "date"}
        if before["rehearsal"] != now["rehearsal"] or same | {"date": now["machine"]["date"]} != now["machine"]:
            return {}
        return {part["command"]: part for part in before["parts"] if "result" in part}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not what this command writes: delete it, or name another folder") from None


class Deadline:
    """Inside the block, `reason` says why the step is over: its time is up, or the process is asked to end.

    What happens in a `part` is ended by a `Stop`; what is written down between two parts is not.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.reason, self.running = seconds, "", False
        self.before: dict[int, Any] = {}

    def stop(self, number: int, frame: Any) -> None:
        """The handler of the signals that end a step."""
        late = number == signal.SIGALRM
        self.reason = f"the step's {self.seconds:g} s were up" if late else "the step was ended from outside"
        if self.running:
            raise Stop(self.reason)

    @contextmanager
    def part(self) -> Iterator[None]:
        """Inside the block, the end of the step is a `Stop`."""
        self.running = True
        try:
            if self.reason:
                raise Stop(self.reason)
            yield
        finally:
            self.running = False

    def __enter__(self) -> Deadline:
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self.stop)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *error: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)


def performed(part: Part, rehearse: bool, deadline: Deadline) -> dict[str, Any]:
    """What came of a part: its result, or what it said when it failed, or why it was ended."""
    begun = time.perf_counter()
    try:
        with deadline.part():
            result = inside(part) if part.words[0] == "eval" else beside(part, rehearse)
        outcome: dict[str, Any] = {"result": result}
    except Stop as stop:
        outcome = {"missing": str(stop)}
    except (Exception, SystemExit) as error:
        outcome = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        say(f"gpu: {part.name} failed: {error}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"seconds": round(time.perf_counter() - begun, 1), **outcome}


def inside(part: Part) -> dict[str, Any]:
    """A command of `eval`, in this process: torch is loaded already."""
    parser, work = cli.build(part.words[1])
    return work(cli.parse(parser, part.words[2:])) or {}


def beside(part: Part, rehearse: bool) -> dict[str, Any]:
    """Another program, in a process that ends with this one's part; its last lines are the result."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    env |= {"PYTHONUNBUFFERED": "1", **({"GPU_REHEARSAL": "1", "TRITON_INTERPRET": "1"} if rehearse else {})}
    words, last = [sys.executable, "-m", *part.words], deque[str](maxlen=LINES)
    with subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last.append(line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        say("\n".join(last))
        raise RuntimeError(f"status {process.returncode}, {last[-1] if last else 'and said nothing'}")
    return {"said": list(last)}


def written(path: Path, result: dict[str, Any]) -> None:
    """JSON for programs and a page for people, each replaced as a whole."""
    write_json(path, result)
    with whole(path.with_suffix(".md")) as file:
        file.write(page(result).encode())
