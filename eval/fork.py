"""The authors' code as a backend: one worker process, in that fork's own environment, patched or not.

Benchmarks, prompts, pictures, arms and scorers are those of the native backend; what differs is whose code prunes.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from debias import Debias
from eval.benchmarks.base import Benchmark
from eval.fork_options import options, wire
from eval.fork_setup import ROOT, environment, setup
from eval.forks import layout
from eval.images import open_image
from eval.sample import Sample
from eval.store import encode
from pruners import Pruner

UNPRUNED = "unpruned"
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
    ) -> None:
        self.method, self.pruner, self.debias, self.longest = method, pruner, debias, longest
        self.skip_broken = skip_broken
        self.folder = folder_of(str(model))
        config = layout.read_config(self.folder)
        self.adapter = None if layout.is_original(config) else reader(self.folder)
        self.prompts = self.adapter or reader_of_prompts()
        self.patched = setup(method).patched if environment(method) else False
        self.refuse_unpatched(arms)
        self.tokens, self.layers = shape(self.folder, config)
        normal = {} if self.adapter is None else {n: self.adapter.setting(n) for n in ("image_mean", "image_std")}
        self.worker = Worker(method)
        self.worker.ask(
            {
                "method": method,
                "folder": str(self.folder.resolve()),
                "options": options(method, pruner, self.tokens, self.layers),
                "normal": normal,
                "device": device,
                "dtype": {"auto": "float16" if device.startswith("cuda") else "float32"}.get(dtype, dtype),
            },
            "starting it",
        )

    def refuse_unpatched(self, arms: Sequence[str]) -> None:
        if not self.patched and any(arm not in ("none", UNPRUNED) for arm in arms):
            raise ValueError(
                f"third_party/{setup(self.method).submodule} is not patched: it runs the arms none and unpruned only. "
                f"Patch it with: bash scripts/apply_patches.sh {self.method}"
            )

    def answer(self, samples: Sequence[Sample], arm: str, benchmark: Benchmark) -> Iterator[Answer]:
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
        from pruners.models import Request

        if sample.video is not None:
            raise ValueError(f"{benchmark.name}: the forks answer about pictures; clips run with --backend native")
        image = None
        if sample.image is not None:
            try:
                image = open_image(sample)
            except ValueError as error:
                raise BrokenPicture(str(error)) from None
        request = Request(sample.text, [] if image is None else [image], conversation=benchmark.conversation)
        question = {
            "prompt": self.prompts.prompt(request),
            "ids": None if self.adapter is None else folded(self.adapter, request),
            "image": None if image is None else png(image),
            "debias": wire(Debias() if arm == UNPRUNED else self.debias(benchmark, arm)),
            "prune": arm != UNPRUNED,
            "new_tokens": self.longest(benchmark),
            "logits": logits,
        }
        reply = self.worker.ask(question, f"question {sample.key!r} of {benchmark.name}")
        if reply["text"] is None:
            import torch

            assert self.adapter is not None
            reply["text"] = self.adapter.decode(torch.tensor([reply["ids"]]))[0]
        return {**reply, "size": None if image is None else list(image.size)}

    def ahead(self, batches: Sequence[Sequence[Sample]], benchmark: Benchmark) -> None:
        """Nothing is prepared ahead."""

    def close(self) -> None:
        self.worker.close()


class BrokenPicture(ValueError):
    """A picture that cannot be read."""


class Worker:
    """The other process. What it prints is kept, and its end is shown when it fails."""

    def __init__(self, method: str) -> None:
        python, path = environment(method)
        self.method = method
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [str(python), str(ROOT / "eval" / "forks" / "worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.log, env=environ, encoding="utf-8"
        )

    def ask(self, question: dict[str, Any], what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"the fork of {self.method} stopped at {what}, exit {self.process.wait()}:\n{self.tail()}"
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the fork of {self.method} failed at {what}: {reply['error']}\n{self.tail()}")
        return reply

    def tail(self) -> str:
        self.log.seek(0)
        return b"\n".join(self.log.read().splitlines()[-12:]).decode(errors="replace")

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


# -- checkpoints, prompts and pictures on this side ----------------------------------------------------------------


def folder_of(model: str) -> Path:
    """A checkpoint's folder; a hub id is looked up in, or fetched into, the hub's cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "pytorch_model*.bin"]))


def shape(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    """(visual tokens, decoder layers). An original checkpoint names its tower; LLaVA-1.5 has only one."""
    if not layout.is_original(config):
        vision = config["vision_config"]
        return (vision["image_size"] // vision["patch_size"]) ** 2, int(
            config["text_config"].get("num_hidden_layers", 32)
        )
    name = Path(layout.tower_folder(folder, config))
    vision = layout.read_config(name) if name.is_dir() else {"image_size": 336, "patch_size": 14}
    vision = vision.get("vision_config", vision)
    return (vision["image_size"] // vision["patch_size"]) ** 2, int(config["num_hidden_layers"])


def reader(folder: Path) -> Any:
    """The native adapter of a checkpoint without its weights: prompts, tokens, settings of pictures."""
    from transformers import AutoConfig

    from pruners.models import adapter

    kind = adapter(folder)
    model = SimpleNamespace(config=AutoConfig.from_pretrained(folder), device="cpu", dtype=None)
    return kind(model, *kind.load_processor(str(folder)))


def reader_of_prompts() -> Any:
    """LLaVA-1.5's templates, for a checkpoint whose own tokenizer runs in the worker."""
    from pruners.models import family

    return family("llava")(SimpleNamespace(config=None))


def folded(adapter: Any, request: Any) -> list[int]:
    """The prompt's ids with one placeholder per picture, as the original layout has them."""
    token, run = int(adapter.model.config.image_token_id), adapter.side**2
    ids, made = adapter.encode([request]).inputs["input_ids"][0].tolist(), []
    while ids:
        if ids[0] == token:
            made.append(-200)
            ids = ids[run:]
        else:
            made.append(ids.pop(0))
    return made


def png(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
