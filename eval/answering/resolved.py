"""The resolved configuration of a run: its method, model, data, arms, and the debias of each arm."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from debias import Debias, Reading, Trend
from debias import trends as files
from eval.answering import able, early, heap, trends
from eval.answering.backends import Backend, Native
from eval.answering.checkpoints import digest_of, folder_of, layout
from eval.answering.plan import digest, this_process
from eval.benchmarks.base import Benchmark
from eval.bias import fitting
from eval.core.embedded import data_of, named, world_of
from eval.core.fields import assembled
from eval.core.settings import UNPRUNED, Settings
from eval.core.tables import say
from eval.forks.backend import Fork
from eval.forks.setup import code_of, described
from eval.reading.parquet import laid_out
from pruners import Pruner, find
from pruners.models import adapter
from pruners.parts.budget import REFERENCE_TOKENS

log = logging.getLogger("debias")


def resolve(settings: Settings) -> Resolved:
    """The run that `settings` describe, on the benchmarks that their data holds."""
    size, names = "full" if settings.full else "default", settings.benchmarks
    data = laid_out(settings.data) if settings.data else data_of(settings.model, size, benchmarks=names)
    asked = early.lying_in(data, settings.benchmarks)
    chosen = early.models_of(settings)
    chosen = {media: named(model) for media, model in chosen.items()}
    if set(settings.arms) != {UNPRUNED}:
        asked = _possible(settings, asked, chosen)
    needed = {benchmark.media for benchmark in asked}
    chosen = {media: model for media, model in chosen.items() if media in needed}
    return Resolved(settings, [(benchmark, data) for benchmark in asked], chosen)


def pruner_of(settings: Settings, tokens: Iterable[int | None]) -> Pruner:
    """The method of a run on models whose pictures have so many tokens; a budget of its own becomes a share where that
    is not what the papers' model has."""
    kind, values = find(settings.method), dict(settings.fields)
    if settings.keep is not None:
        values["keep"] = settings.keep
    else:
        default = next(field.default for field in dataclasses.fields(kind) if field.name == "keep")
        if isinstance(default, int) and {*tokens} != {REFERENCE_TOKENS}:
            values["keep"] = default / REFERENCE_TOKENS
            log.info("keep: %d of %d tokens, as a share of this model's", default, REFERENCE_TOKENS)
    if settings.as_released and settings.method == "fastv":
        values.setdefault("mode", "mask")  # the release ranks anew for every token
    return assembled(settings.method, values)


def _possible(settings: Settings, asked: list[Benchmark], models: dict[str, str]) -> list[Benchmark]:
    """The benchmarks that the method can do on these models. Any that was asked for by name must be among them."""
    kept: list[Benchmark] = []
    reasons = []
    for media in dict.fromkeys(benchmark.media for benchmark in asked):
        mine = [benchmark for benchmark in asked if benchmark.media == media]
        pruner = pruner_of(settings, [layout(models[media]).tokens])
        reason = able.refusal(settings.method, pruner, settings.backend, models[media], media)
        kept += mine if reason is None else []
        if reason is not None:
            reasons.append(f"{', '.join(benchmark.name for benchmark in mine)}: {reason}")
    if reasons and (settings.benchmarks or not kept):
        raise ValueError(f"{settings.method} cannot answer {reasons[0]}")
    for reason in reasons:
        say(f"{settings.method} leaves out {reason}")
    return kept


class Resolved:
    """A run with everything worked out. Models are loaded when their first question is asked, one at a time.

    benchmarks: each with the root of its data. models: a checkpoint for each medium.
    """

    def __init__(
        self, settings: Settings, benchmarks: Sequence[tuple[Benchmark, Path]], models: dict[str, str]
    ) -> None:
        self.settings, self.benchmarks = settings, list(benchmarks)
        self.models = {media: named(model) for media, model in models.items()}
        early.check_on(settings, self.models)
        process = this_process()
        self.split = process.size if settings.zero or settings.tensor_parallel else 1
        # SLURM may show each process only its own GPU
        gpu = f"cuda:{process.local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        self.device = settings.device or gpu
        self.dtype = "float32" if settings.dtype == "auto" and self.device == "cpu" else settings.dtype
        self.layout = {media: layout(model) for media, model in self.models.items()}
        self.pruner = pruner_of(settings, [layout.tokens for layout in self.layout.values()])
        own = [arm for arm in self.pruner.arms() if arm != "trend" or not settings.as_released]
        self.arms = list(settings.arms) or own
        for model in self.models.values():
            able.check(settings, self.pruner, model)
            if early.surely(settings.device) is None and self.split == 1:
                early.check_memory(model, settings.dtype, self.device)
        self._loaded: tuple[str, Any, Backend] | None = None
        self._fork: tuple[str, Fork] | None = None
        self._fitted: dict[tuple[str, str, Reading | None], Trend] = {}
        self.probes: fitting.Probes = {}  # other runs may share it

    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers, in plain words; it names the run."""
        settings = self.settings
        tiles = f", at most {settings.max_patches} tiles" if settings.max_patches else ""
        tiles += f", borders filled: {settings.fill}" if settings.fill != "mean" else ""
        shared = self.split > 1 and not settings.zero
        return {
            "method": repr(self.pruner),
            "backend": "native" if settings.backend == "native" else self._forks(),
            "models": {media: f"{Path(model).name} {digest_of(model)}{tiles}" for media, model in self.models.items()},
            "dtype": self.dtype,
            "attention": settings.attention,
            "device": self.device.split(":")[0] + (f", split in {self.split}" if shared else ""),
            "trend": trends.identity(settings.trend, settings.stages, settings.as_released, settings.padding),
        }

    def _forks(self) -> str:
        films = [layout.family.trend_media == "video" for layout in self.layout.values()]
        return ", ".join(dict.fromkeys(described(code_of(self.settings.method, film)) for film in films))

    def facts(self, benchmark: Benchmark) -> dict[str, Any]:
        """What the run folder says about one benchmark."""
        settings = {arm: repr(self.debias(benchmark, arm)) for arm in self.arms if arm != UNPRUNED}
        return {
            "media": benchmark.media,
            "options": self.settings.options.get(benchmark.name, {}),
            "tokens": self.layout[benchmark.media].tokens,
            "max_new_tokens": self.longest(benchmark),
            "conversation": benchmark.conversation,
            "debias": settings,
            **({"max_patches": self.settings.max_patches} if self.settings.max_patches else {}),
        }

    def longest(self, benchmark: Benchmark) -> int:
        """How many tokens an answer may have."""
        return self.settings.max_new_tokens or benchmark.max_new_tokens

    def debias(self, benchmark: Benchmark, arm: str) -> Debias:
        """The debias of one arm on one benchmark."""
        return self.debias_for(benchmark.name, benchmark.media, arm)

    def debias_for(self, benchmark: str | None, media: str, arm: str) -> Debias:
        """The same for a benchmark that is not ours; None: the mean of the method's rates."""
        if self.settings.as_released:
            base = Debias.paper(self.settings.method, None, arm, as_released=True)
        else:
            padding = Debias.paper(self.settings.method, benchmark, "padding").with_arm(arm)
            base = dataclasses.replace(padding, stages=self.settings.stages)
            asked = trends.padded(self.settings.padding)
            if base.padding is not None and asked is not None:
                base = dataclasses.replace(base, padding=asked)
        if arm not in ("trend", "both") or not trends.trended(self.pruner):
            return base
        tokens = self.layout[media].tokens if world_of(self.models[media]).released else None
        known = trends.Known(self.settings.method, benchmark, media, tokens, self.own_trends(media))
        choice, reading = known.choose(self.settings.trend), trends.READINGS.get(self.settings.trend)
        trend = self.fitted(media, choice, reading) if isinstance(choice, str) else choice
        return dataclasses.replace(base, trend=trend, reading=reading)

    def own_trends(self, media: str) -> Path | None:
        """The trends that came with the model."""
        path = folder_of(self.models[media]) / "trends.toml"
        return path if path.is_file() else None

    def fitted(self, media: str, kind: str = "exponential", reading: Reading | None = None) -> Trend:
        """A trend fitted now, on pictures that no benchmark scores."""
        if (media, kind, reading) not in self._fitted:
            log.info("fitting the trend of %s on held-out %ss", self.settings.method, media)
            record, _ = self.record(media, self.heldout(media), None, None, fitting.Fit(kind, reading=reading))
            seen = record.get("found", "trend"), record.get("rate", 0.0), record.get("r2", 0.0)
            log.info("fitted: %s, rate %.6f per token, r2 %.3f", *seen)
            # Rounded, so that another process or a later start, whose sums differ in the last bit, divides by the same.
            self._fitted[media, kind, reading] = files.make(fitting.rounded(record), "fitted on the way")
        return self._fitted[media, kind, reading]

    def heldout(self, media: str) -> Path:
        """Questions that are never scored, of the world that the model of one medium was made for."""
        return data_of(self.models[media], half="heldout")

    def record(
        self, media: str, data: Path, only: Sequence[str] | None, limit: int | None, how: fitting.Fit
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """A trend of the method on the model of one medium, as a record of a trends file; and the measured curve."""
        asked, model = fitting.calibration(media, data, only, limit), self.models[media]
        known = {"method": self.settings.method, "model": f"{Path(model).name} {digest_of(model)}"}
        own = world_of(model).name if data == self.heldout(media) else ""
        probe = self._probe(media, data, asked, how.reading)
        return fitting.record(self.adapter(media), self.pruner, probe, asked, data, how, known, own)

    def _probe(self, media: str, data: Path, asked: fitting.Asked, reading: Reading | None) -> fitting.ScoreProbe:
        """The scores of the first cut over some questions, measured once for every kind of trend and every budget."""
        method = {entry.name: getattr(self.pruner, entry.name) for entry in dataclasses.fields(self.pruner)}
        # Where the tower is cut first, what the first cut in the decoder ranks depends on the budget.
        if self.pruner.cuts(32)[0].source != "tower":
            del method["keep"]
        facts = self.identity() | {"method": (self.settings.method, method), "trend": reading}
        key = repr((facts, media, str(data), [(entry.name, digest(samples)) for entry, samples in asked]))
        if key not in self.probes:
            self.probes[key] = fitting.measure(self.adapter(media), self.pruner, asked, reading)
        return self.probes[key]

    def adapter(self, media: str) -> Any:
        """The model for pictures or clips, loaded once; the other model leaves."""
        if self._loaded is None or self._loaded[0] != self.models[media]:
            from transformers.utils import logging as noise

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
                self.settings.attention,
                tensor_parallel=1 if self.settings.zero else self.split,
                zero=self.settings.zero,
                allow_missing=self.settings.allow_missing,
            )
            loaded.fill = self.settings.fill
            if self.settings.max_patches:
                loaded.processor.max_patches = self.settings.max_patches
            self._loaded = (model, loaded, self._native(loaded))
        return self._loaded[1]

    def share(self, other: Resolved) -> None:
        """Take over the model that another configuration has loaded, and what it measured to fit trends."""
        if other._loaded is not None:
            model, loaded, _ = other._loaded
            self._loaded = (model, loaded, self._native(loaded))
        self.probes = other.probes

    def _native(self, loaded: Any) -> Native:
        settings = self.settings
        budget = int(settings.feature_memory * 2**30)
        rest = (settings.workers, budget, settings.skip_broken, settings.share_prefix)
        return Native(loaded, self.pruner, self.debias, self.longest, *rest)

    def backend(self, benchmark: Benchmark) -> Backend:
        """What answers the questions of a benchmark."""
        if self.settings.backend == "fork":
            authors: Backend = self.fork(benchmark.media)
            return authors
        self.adapter(benchmark.media)
        assert self._loaded is not None
        return self._loaded[2]

    def fork(self, media: str) -> Fork:
        """The authors' code, in a process of its own that lives as long as its media are asked about."""
        if self._fork is not None and self._fork[0] != media:
            self._fork[1].close()
            self._fork = None
        if self._fork is None:
            log.info("starting the authors' code of %s (%s)", self.settings.method, self.device)
            fork = Fork(
                self.settings.method,
                self.pruner,
                self.models[media],
                self.debias,
                longest=self.longest,
                device=self.device,
                dtype=self.dtype,
                skip_broken=self.settings.skip_broken,
                arms=self.arms,
                media=media,
            )
            self._fork = (media, fork)
        return self._fork[1]

    def unload(self) -> None:
        """Let go of the model."""
        if self._loaded is not None:
            self._loaded[2].close()
            self._loaded = None

    def close(self) -> None:
        """Let go of the model and of the authors' code."""
        self.unload()
        if self._fork is not None:
            self._fork[1].close()
            self._fork = None
