"""The authors' code as a backend: one worker process, in that fork's own environment, patched or not.

Benchmarks, prompts, pictures, arms and scorers are those of the native backend; what differs is whose code prunes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from debias import Debias
from eval.answering.store import encode
from eval.benchmarks.base import Benchmark
from eval.core.settings import UNPRUNED
from eval.forks import layout
from eval.forks.options import options, wire
from eval.forks.reader import BrokenPicture, Reader
from eval.forks.setup import ROOT, code_of, environment, setup
from eval.reading.sample import Sample
from pruners import Pruner

Answer = tuple[str, str, dict[str, Any]]


class Fork:
    """A backend: `answer(samples, arm, benchmark)` yields (key, text, metadata), one question at a time."""

    def __init__(
        self,
        method: str,
        pruner: Pruner,
        model: str | Path,
        debias: Callable[[Benchmark, str], Debias],
        longest: Callable[[Benchmark], int] = lambda benchmark: benchmark.max_new_tokens,
        device: str = "cpu",
        dtype: str = "float32",
        skip_broken: bool = False,
        arms: Sequence[str] = (),
        media: str = "image",
    ) -> None:
        self.method, self.pruner, self.debias, self.longest = method, pruner, debias, longest
        self.skip_broken = skip_broken
        self.folder = folder_of(str(model))
        film = layout.is_video(layout.read_config(self.folder))
        self.code = code_of(method, film)
        if media == "video" and not film:
            raise ValueError(f"{model} answers about pictures; for clips name a Video-LLaVA with --video-model")
        environment(self.code)
        self.patched = setup(self.code).patched
        self.refuse_unpatched(arms)
        self.reader = Reader(self.folder)
        self.tokens, self.layers = self.reader.tokens(media), self.reader.layers
        self.options = options(method, pruner, self.tokens, self.layers)
        self.worker = Worker(self.code)
        self.worker.ask(
            {
                "method": method,
                "folder": str(self.folder.resolve()),
                "options": self.options,
                "normal": self.reader.normal,
                "towers": self.reader.towers,
                "device": device,
                "dtype": {"auto": "float16" if device.startswith("cuda") else "float32"}.get(dtype, dtype),
            },
            "starting it",
        )

    def refuse_unpatched(self, arms: Sequence[str]) -> None:
        """ValueError if an arm needs our lines in code that has none."""
        if not self.patched and any(arm not in ("none", UNPRUNED) for arm in arms):
            raise ValueError(
                f"third_party/{setup(self.code).submodule} is not patched: it runs the arms none and unpruned only. "
                f"Patch it with: bash scripts/apply_patches.sh {self.code}"
            )

    def answer(self, samples: Sequence[Sample], arm: str, benchmark: Benchmark) -> Iterator[Answer]:
        """(key, text, metadata) of each question; one whose picture is broken has an error, where these are skipped."""
        self.refuse_unpatched([arm])
        for sample in samples:
            try:
                reply = self.ask(sample, arm, benchmark)
            except BrokenPicture as error:
                if not self.skip_broken:
                    raise ValueError(f"{error}. Go on without such pictures, counted as wrong: --skip-broken") from None
                yield sample.key, "", {"error": str(error)}
                continue
            metadata: dict[str, Any] = {"fork": self.method, "patched": self.patched, "ms": round(reply["ms"], 1)}
            if reply["size"] is not None:
                metadata["size"] = reply["size"]
                if arm != UNPRUNED:
                    metadata["counts"] = self.counts()
                if reply["kept"]:
                    metadata["kept"] = [encode(sorted(i for i in stage if i >= 0)) for stage in reply["kept"]]
            yield sample.key, reply["text"], metadata

    def counts(self) -> dict[str, Any]:
        """How many tokens there are, as the native trace says it."""
        shape = self.layers, self.tokens
        return {
            "after": self.pruner.counts(*shape),
            "mean": self.pruner.mean_count(*shape),
            "own": self.pruner.own_count(*shape),
        }

    def ask(self, sample: Sample, arm: str, benchmark: Benchmark, logits: bool = False) -> dict[str, Any]:
        """The worker's reply to one question: text, ids, kept, and on request the prompt's ids and last logits."""
        question = {
            **self.reader.question(sample, benchmark.conversation),
            "debias": wire(Debias() if arm == UNPRUNED else self.debias(benchmark, arm)),
            "prune": arm != UNPRUNED,
            "new_tokens": self.longest(benchmark),
            "logits": logits,
        }
        reply = self.worker.ask(question, f"question {sample.key!r} of {benchmark.name}")
        if reply["text"] is None:
            reply["text"] = self.reader.decode(reply["ids"])
        return {**reply, "size": question["size"] and list(question["size"])}

    def ahead(self, batches: Sequence[Sequence[Sample]], benchmark: Benchmark) -> None:
        """Nothing is prepared ahead."""

    def close(self) -> None:
        """End the worker."""
        self.worker.close()


class Worker:
    """The other process. What it prints is kept, and its end is shown when it fails."""

    def __init__(self, code: str, threads: int | None = None) -> None:
        python, path = environment(code)
        self.code = code
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        if threads is not None:
            environ["OMP_NUM_THREADS"] = str(threads)
        command = [str(python), str(ROOT / "eval" / "forks" / "worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.log, env=environ, encoding="utf-8"
        )

    def ask(self, question: dict[str, Any], what: str) -> dict[str, Any]:
        """The reply to a question, a JSON object each. `what`: how an error names the question."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the fork of {self.code} stopped at {what}, exit {self.process.wait()}:\n{self.tail()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the fork of {self.code} failed at {what}: {reply['error']}\n{self.tail()}")
        return reply

    def tail(self) -> str:
        """The last lines that the process printed."""
        self.log.seek(0)
        return b"\n".join(self.log.read().splitlines()[-12:]).decode(errors="replace")

    def close(self) -> None:
        """End the process; within 20 seconds, or by force."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def folder_of(model: str) -> Path:
    """A checkpoint's folder; a hub id is looked up in, or fetched into, the hub's cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "pytorch_model*.bin"]))
