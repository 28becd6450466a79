"""What the flags of `run` come to: method, model, data, arms, and the debias of each arm."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from debias import Debias, Trend, names
from eval import benchmarks
from eval.able import refusal
from eval.answering import heap, trends
from eval.answering.backends import UNPRUNED, Backend, Native
from eval.answering.checkpoints import config_of, digest_of, folder_of, layout
from eval.answering.plan import world
from eval.benchmarks.base import Benchmark
from eval.bias import fitting
from eval.commands.fields import parse_fields
from eval.commands.flags import options, sets
from eval.embedded import EMBEDDED
from eval.forks.setup import code_of, described
from eval.tables import say
from pruners.base import REFERENCE_TOKENS

log = logging.getLogger("debias")


def choose(args: argparse.Namespace) -> Choice:
    embedded_data = args.data is None
    if args.full and not embedded_data:
        raise ValueError("--full belongs to the embedded data; --data is always taken whole (or see --limit)")
    if embedded_data:
        from tiny.benchmarks import ensure

        data = ensure(size="full" if args.full else "default")
    else:
        data = Path(args.data)
        if not data.is_dir():
            raise ValueError(
                f"--data {data}: no such folder; expected LLaVA's playground/data/eval, or a folder like it"
            )
    arms = [_arm(name.strip()) for name in (args.arms or "").split(",") if name.strip()]
    found = _benchmarks(args.benchmarks, data)
    chosen = {media: str(folder) for media, folder in EMBEDDED.items()}
    if args.model:
        chosen = {"image": args.model, "video": args.video_model or args.model}
    elif args.video_model:
        chosen["video"] = args.video_model
    if set(arms) != {UNPRUNED}:
        found = _possible(args, found, chosen)
    needed = {benchmark.media for benchmark in found}
    chosen = {media: model for media, model in chosen.items() if media in needed}
    return Choice(args, list(dict.fromkeys(arms)), [(b, data) for b in found], chosen)


def _possible(args: argparse.Namespace, found: list[Benchmark], models: dict[str, str]) -> list[Benchmark]:
    """The benchmarks that the method can do on these models. One that was asked for by name must be among them."""
    from pruners import find

    kept: list[Benchmark] = []
    reasons = []
    pruner = parse_fields(find(args.method), list(args.fields), f"python -m eval run --method {args.method}")
    for media in dict.fromkeys(benchmark.media for benchmark in found):
        mine = [benchmark for benchmark in found if benchmark.media == media]
        folder_of(models[media])  # a model that is not there is no fault of the method's
        reason = refusal(args.method, pruner, getattr(args, "backend", "native"), models[media], media)
        kept += mine if reason is None else []
        if reason is not None:
            reasons.append(f"{', '.join(benchmark.name for benchmark in mine)}: {reason}")
    if reasons and (args.benchmarks or not kept):
        raise ValueError(f"{args.method} cannot answer {reasons[0]}")
    for reason in reasons:
        say(f"{args.method} leaves out {reason}")
    return kept


def _arm(name: str) -> str:
    return UNPRUNED if name == UNPRUNED else names.arm(name)


def _benchmarks(text: str | None, data: Path) -> list[Benchmark]:
    if text:
        found = [benchmarks.get(name) for name in sets(text)]
    else:
        found = [benchmark for benchmark in map(benchmarks.get, benchmarks.NAMES) if benchmark.lies_in(data)]
        if not found:
            raise ValueError(f"--data {data} holds none of the benchmarks; expected folders such as {data}/pope")
    return sorted(found, key=lambda benchmark: benchmark.media)  # one model after the other


class Choice:
    """What the flags come to. Models are loaded when their first question is asked, one at a time."""

    def __init__(
        self, args: argparse.Namespace, arms: list[str], found: list[tuple[Benchmark, Path]], models: dict[str, str]
    ) -> None:
        import torch

        self.args, self.arms, self.benchmarks, self.models = args, arms, found, models
        local = world().local
        self.zero = getattr(args, "zero", False)
        self.split = world().size if self.zero or getattr(args, "tensor_parallel", False) else 1
        self.device = args.device or (f"cuda:{own_gpu(local)}" if torch.cuda.is_available() else "cpu")
        self.dtype = "float32" if args.dtype == "auto" and self.device == "cpu" else args.dtype
        self.layout = {media: layout(model) for media, model in models.items()}
        self.as_released = getattr(args, "as_released", False)
        self.pruner = self._pruner()
        if not self.arms:  # without attention from the decoder there is no trend to divide by
            self.arms = list(names.ARMS) if trends.trended(self.pruner) else ["none", "padding"]
            self.arms = [arm for arm in self.arms if arm != "trend" or not self.as_released]
        self.options = options(getattr(args, "option", []))
        self.stages = getattr(args, "stages", "first")
        if self.as_released:
            self._check_release()
        self._check_split()
        if getattr(args, "share_prefix", False):
            self._check_prefix()
        self.max_patches: int | None = getattr(args, "max_patches", None)
        if self.max_patches and {one.kind for one in self.layout.values()} != {"internvl"}:
            raise ValueError(
                "--max-patches belongs to InternVL, the only family that cuts a picture into so many tiles"
            )
        self._loaded: tuple[str, Any, Backend] | None = None
        self._fork: tuple[str, Any] | None = None
        self._fitted: dict[tuple[str, str], Any] = {}

    def _pruner(self) -> Any:
        from pruners import find

        kind, rest = find(self.args.method), list(self.args.fields)
        if (
            self.as_released
            and self.args.method == "fastv"
            and not any(word.split("=")[0] == "--mode" for word in rest)
        ):
            rest += ["--mode", "mask"]
        if not any(word.split("=")[0] == "--keep" for word in rest):
            field = next(field for field in dataclasses.fields(kind) if field.name == "keep")
            tokens = {self.layout[media].tokens for media in self.models}
            if isinstance(field.default, int) and tokens != {REFERENCE_TOKENS}:
                rest += ["--keep", repr(field.default / REFERENCE_TOKENS)]
                log.info("keep: %d of %d tokens, as a share of this model's", field.default, REFERENCE_TOKENS)
        return parse_fields(kind, rest, f"python -m eval run --method {self.args.method}")

    def _check_release(self) -> None:
        """Refuse what the release does not run, before anything is loaded."""
        trend = Trend.online() if self.args.trend == "online" else None
        for arm in self.arms:
            known = Debias.paper(self.args.method, None, "none" if arm == UNPRUNED else arm, as_released=True)
            replace(known, stages=self.stages, trend=trend or known.trend)

    def _check_split(self) -> None:
        if self.dtype.endswith("bit") and (self.args.backend == "fork" or self.split > 1):
            raise ValueError(f"--dtype {self.dtype} belongs to the native backend in one process a model")
        if self.split == 1:
            return
        flag = "--zero" if self.zero else "--tensor-parallel"
        if self.zero and getattr(self.args, "tensor_parallel", False):
            raise ValueError("--zero and --tensor-parallel are two ways to hold one model together; choose one")
        if self.args.backend == "fork":
            raise ValueError(f"{flag} belongs to the native backend; the authors' code runs on one device")
        if self.device == "auto":
            raise ValueError(f"--device auto spreads a model in one process, {flag} over several; choose one")

    def _check_prefix(self) -> None:
        """Refuse --share-prefix for a method whose arms share no layer, before anything is loaded."""
        from pruners.engine.prefix import check_shared

        if self.args.backend == "fork":
            raise ValueError("--share-prefix belongs to the native backend; the authors' code runs every arm whole")
        for model in self.models.values():
            config = config_of(model)
            depth = (config.get("text_config") or {}).get("num_hidden_layers", 32)
            tower = (config.get("vision_config") or {}).get("num_hidden_layers", 24)
            try:
                check_shared(self.pruner, depth, tower)
            except ValueError as error:
                raise ValueError(f"{error}; leave out --share-prefix") from None

    def identity(self) -> dict[str, Any]:
        tiles = f", at most {self.max_patches} tiles" if self.max_patches else ""
        return {
            "method": repr(self.pruner),
            "backend": "native" if self.args.backend == "native" else self._forks(),
            "models": {media: f"{Path(model).name} {digest_of(model)}{tiles}" for media, model in self.models.items()},
            "dtype": self.dtype,
            "attention": self.args.attention,
            "device": self.device.split(":")[0] + ("" if self.zero or self.split == 1 else f", split in {self.split}"),
            "trend": trends.identity(self.args.trend, self.stages, self.as_released),
        }

    def _forks(self) -> str:
        kinds = [layout.kind == "video_llava" for layout in self.layout.values()]
        return ", ".join(dict.fromkeys(described(code_of(self.args.method, film)) for film in kinds))

    def facts(self, benchmark: Benchmark) -> dict[str, Any]:
        settings = {arm: repr(self.debias(benchmark, arm)) for arm in self.arms if arm != UNPRUNED}
        return {
            "media": benchmark.media,
            "options": self.options.get(benchmark.name, {}),
            "tokens": self.layout[benchmark.media].tokens,
            "max_new_tokens": self.longest(benchmark),
            "conversation": benchmark.conversation,
            "debias": settings,
            **({"max_patches": self.max_patches} if self.max_patches else {}),
        }

    def longest(self, benchmark: Benchmark) -> int:
        return getattr(self.args, "max_new_tokens", None) or benchmark.max_new_tokens

    def debias(self, benchmark: Benchmark, arm: str) -> Debias:
        return trends.debias(self, benchmark, arm)

    def own_trends(self, media: str) -> Path | None:
        """The trends that came with the model."""
        path = folder_of(self.models[media]) / "trends.toml"
        return path if path.is_file() else None

    def fitted(self, media: str, kind: str = "exponential") -> Any:
        """A trend fitted now, on pictures that no benchmark scores."""
        if (media, kind) not in self._fitted:
            from debias import trends as files

            log.info("fitting the trend of %s on the embedded held-out %ss", self.args.method, media)
            found, _ = fitting.record(self, media, fitting.heldout(), None, fitting.QUICK, fitting.Fit(kind))
            log.info("fitted: rate %.6f per token, r2 %.3f", found.get("rate", 0.0), found.get("r2", 0.0))
            # Rounded, so that another process or a later start, whose sums differ in the last bit, divides by the same.
            self._fitted[media, kind] = files.make(rounded(found), "fitted on the way")
        return self._fitted[media, kind]

    def adapter(self, media: str) -> Any:
        """The model for pictures or clips, loaded once; the other one leaves."""
        if self._loaded is None or self._loaded[0] != self.models[media]:
            from transformers.utils import logging as noise

            from pruners.models import adapter

            noise.disable_progress_bar()
            self.unload()
            if self.device == "cpu":
                heap.keep()
            model = self.models[media]
            log.info("loading %s (%s, %s)", model, self.dtype, self.device)
            loaded = adapter(model).load(
                model,
                self.dtype,
                self.device,
                self.args.attention,
                tensor_parallel=1 if self.zero else self.split,
                zero=self.zero,
            )
            if self.max_patches:
                loaded.processor.max_patches = self.max_patches
            self._loaded = (model, loaded, self._native(loaded))
        return self._loaded[1]

    def _native(self, loaded: Any) -> Native:
        budget = int(getattr(self.args, "feature_memory", 0) * 2**30)
        workers, skip = getattr(self.args, "workers", 1), getattr(self.args, "skip_broken", False)
        share = getattr(self.args, "share_prefix", False)
        return Native(loaded, self.pruner, self.debias, self.longest, workers, budget, skip, share)

    def backend(self, benchmark: Benchmark) -> Backend:
        if self.args.backend == "fork":
            authors: Backend = self.fork(benchmark.media)
            return authors
        self.adapter(benchmark.media)
        assert self._loaded is not None
        return self._loaded[2]

    def fork(self, media: str) -> Any:
        """The authors' code, in a process of its own that lives as long as its media are asked about."""
        if self._fork is not None and self._fork[0] != media:
            self._fork[1].close()
            self._fork = None
        if self._fork is None:
            from eval.forks.backend import Fork

            log.info("starting the authors' code of %s (%s)", self.args.method, self.device)
            fork = Fork(
                self.args.method,
                self.pruner,
                self.models[media],
                self.debias,
                longest=self.longest,
                device=self.device,
                dtype=self.dtype,
                skip_broken=getattr(self.args, "skip_broken", False),
                arms=self.arms,
                media=media,
            )
            self._fork = (media, fork)
        return self._fork[1]

    def unload(self) -> None:
        if self._loaded is not None:
            self._loaded[2].close()
            self._loaded = None

    def close(self) -> None:
        self.unload()
        if self._fork is not None:
            self._fork[1].close()
            self._fork = None


def own_gpu(local: int) -> int:
    """Which of the GPUs that this process sees is its own; SLURM may show each process only one."""
    import torch

    return local % torch.cuda.device_count()


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    """A trend's record with four significant digits."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, list):
            return [short(entry) for entry in value]
        return rounded(value) if isinstance(value, dict) else value

    return {name: short(value) for name, value in record.items()}
