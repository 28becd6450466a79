"""Who answers: `native` prunes unmodified transformers models; eval/forks/backend.py runs the authors' code.

A backend has `answer(samples, arm, benchmark)`, which yields (key, text, metadata) of one batch in order;
`ahead(batches, benchmark)`, told once which batches come; and `close()`.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import torch

from debias import Debias, Trend
from debias.core import layout, slots_valid
from eval.answering.features import Features
from eval.answering.store import encode
from eval.benchmarks.base import Benchmark
from eval.core.settings import UNPRUNED
from eval.reading.media import Media, Shelf
from eval.reading.sample import Sample
from pruners import Pruner
from pruners.blank import Blanks
from pruners.engine.prefix import Prefix
from pruners.engine.trace import Image, Trace
from pruners.models import Encoded, Request

log = logging.getLogger("debias")
Answer = tuple[str, str, dict[str, Any]]
Answers = dict[str, tuple[str, dict[str, Any]]]  # by question


class Backend(Protocol):
    """What answers questions, one arm at a time."""

    def answer(self, samples: Sequence[Sample], arm: str, benchmark: Benchmark) -> Iterator[Answer]:
        """The answers to one batch in order: (key of the question, text, what is noted beside it)."""

    def ahead(self, batches: Sequence[Sequence[Sample]], benchmark: Benchmark) -> None:
        """Told which batches come, so that their pictures can be read ahead."""

    def close(self) -> None:
        """Let go of threads or processes."""


class Poison:
    """A logits processor that changes nothing and remembers which rows of a batch saw NaN, or infinity."""

    def __init__(self) -> None:
        self.seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = ~scores.amax(-1).isfinite()
        self.seen = bad if self.seen is None else self.seen | bad
        return scores

    def rows(self, count: int) -> list[bool]:
        """Of each row of a batch, whether its logits were not finite."""
        return [False] * count if self.seen is None else [bool(row) for row in self.seen.tolist()]


@dataclass
class Batch:
    """Questions that are answered together, with their pictures read and everything encoded."""

    samples: list[Sample]  # those that could be read
    requests: list[Any]
    encoded: Any
    media: list[Media]
    broken: dict[str, str]  # key -> what is wrong with its picture


class Native(Backend):
    """Answers with our own pruners on an unmodified model. Pictures are read ahead by `workers` threads."""

    def __init__(
        self,
        adapter: Any,
        pruner: Pruner,
        debias: Callable[[Benchmark, str], Debias],
        longest: Callable[[Benchmark], int] = lambda benchmark: benchmark.max_new_tokens,
        workers: int = 4,
        feature_bytes: int = 2 << 30,
        skip_broken: bool = False,
        share_prefix: bool = False,
        share_arms: bool = True,
    ) -> None:
        self.adapter, self.pruner, self.debias, self.longest = adapter, pruner, debias, longest
        self.skip_broken, self.share_arms = skip_broken, share_arms
        self.model = adapter.model
        self.features = Features(feature_bytes)
        self.shelf = Shelf(adapter)
        self.prefix = Prefix() if share_prefix else None
        self.blanks: Blanks | None = None
        self.busy = 0.0  # seconds that the model was at work
        self.pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="media")
        self.lookahead = 2 * workers
        self._coming: OrderedDict[tuple[str, ...], list[Sample]] = OrderedDict()
        self._ready: dict[tuple[str, ...], Future[Batch]] = {}
        self._last: tuple[tuple[str, ...], Batch] | None = None
        self._done: tuple[Batch | None, dict[str, Answers]] = (None, {})  # of the arms that leave padding alone
        self.batch_limit: int | None = None  # what fitted into memory, once something did not

    # -- pictures and prompts, made ready in worker threads ------------------------------------------------------

    def ahead(self, batches: Sequence[Sequence[Sample]], benchmark: Benchmark) -> None:
        self._coming = OrderedDict((_name(batch), list(batch)) for batch in batches)
        for future in self._ready.values():
            future.cancel()
        self._ready, self._last = {}, None

    def _batch(self, samples: Sequence[Sample], benchmark: Benchmark) -> Batch:
        name = _name(samples)
        if self._last and self._last[0] == name:
            return self._last[1]
        self._coming.pop(name, None)
        while self._coming and len(self._ready) < self.lookahead:
            key, coming = self._coming.popitem(last=False)
            self._ready[key] = self.pool.submit(self._prepare, coming, benchmark)
        future = self._ready.pop(name, None)
        batch = future.result() if future else self._prepare(samples, benchmark)
        self._last = (name, batch)
        return batch

    def _prepare(self, samples: Sequence[Sample], benchmark: Benchmark) -> Batch:
        good: list[Sample] = []
        media: list[Media] = []
        requests: list[Any] = []
        broken: dict[str, str] = {}
        for sample in samples:
            try:
                prepared = self.shelf(sample)
            except ValueError as error:
                if not self.skip_broken:
                    raise ValueError(f"{error}. Go on without such pictures, counted as wrong: --skip-broken") from None
                broken[sample.key] = str(error)
                continue
            good.append(sample)
            media.append(prepared)
            requests.append(Request(sample.text, prepared.images, prepared.video, conversation=benchmark.conversation))
        encoded = self.adapter.encode(requests, device="cpu") if requests else None
        if encoded is not None and self.adapter.device.type == "cuda":
            encoded = encoded.pinned()  # so that the copy to the device waits for nothing
        return Batch(good, requests, encoded, media, broken)

    # -- answers -------------------------------------------------------------------------------------------------

    def answer(self, samples: Sequence[Sample], arm: str, benchmark: Benchmark) -> Iterator[Answer]:
        size = self.batch_limit
        if size is not None and len(samples) > size:
            for first in range(0, len(samples), size):
                yield from self.answer(samples[first : first + size], arm, benchmark)
            return
        batch = self._batch(samples, benchmark)
        try:
            answers = self._answers(batch, arm, benchmark) if batch.samples else {}
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if getattr(self.model, "_tp_size", None):  # the other processes go on with the whole batch
                raise ValueError("a batch does not fit into memory: give a smaller --batch-size") from error
            if len(samples) == 1:
                raise ValueError(
                    f"question {samples[0].key!r} of {benchmark.name} does not fit into memory even alone. "
                    "Use a smaller model, --dtype bfloat16, or a device with more memory."
                ) from error
            if self.prefix is not None:
                self.prefix.forget()
            torch.cuda.empty_cache()
            self.batch_limit = len(samples) // 2
            log.info("out of memory with %d questions at once; going on with %d", len(samples), self.batch_limit)
            answers = None
        if answers is None:  # outside the handler, which would keep the failed call's tensors alive
            yield from self.answer(samples, arm, benchmark)
            return
        for sample in samples:
            text, metadata = answers.get(sample.key) or ("", {"error": batch.broken[sample.key]})
            yield sample.key, text, metadata

    def _answers(self, batch: Batch, arm: str, benchmark: Benchmark) -> Answers:
        """Where a question shows no padding, silencing it changes nothing, and the arm without it has the answer."""
        if arm == UNPRUNED or not self.share_arms:
            return self._generate(batch, arm, benchmark)
        debias = self.debias(benchmark, arm)
        if self._done[0] is not batch:
            self._done = batch, {}
        known, name = self._done[1], repr(replace(debias, padding=None))
        if debias.padding is None:
            known[name] = self._generate(batch, arm, benchmark)
            return known[name]
        padded = self._padded(batch, debias) if name in known else range(len(batch.samples))
        if len(padded) == len(batch.samples):
            return self._generate(batch, arm, benchmark)
        answers = {key: (text, dict(metadata)) for key, (text, metadata) in known[name].items()}
        if padded:
            if self.prefix is not None:
                self.prefix.rows = torch.tensor(padded)
            try:
                answers |= self._generate(self._part(batch, padded), arm, benchmark)
            finally:
                if self.prefix is not None:
                    self.prefix.rows = None
        return answers

    def _padded(self, batch: Batch, debias: Debias) -> Sequence[int]:
        """The rows of a batch in which a debias finds padding to silence."""
        assert debias.padding is not None
        if not debias.padding.placed:  # what is silenced shows in the hidden states alone
            return range(len(batch.samples))
        shown = self.adapter.spans(batch.encoded.inputs, batch.encoded.sizes)
        host = torch.device("cpu")
        return [
            row
            for row, spans in enumerate(shown)
            if any(slots_valid(debias.padding, *layout(span), host) is not None for span in spans)
        ]

    def _part(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Some rows of a batch, as long as they were in it."""
        requests = [batch.requests[row] for row in rows]
        encoded = self.adapter.encode(requests, device="cpu")
        whole = batch.encoded.inputs
        width = encoded.inputs["input_ids"].shape[1]
        for name, value in encoded.inputs.items():
            if value.shape == (len(rows), width):
                encoded.inputs[name] = torch.cat([whole[name][rows, :-width], value], 1)
        samples, media = [batch.samples[row] for row in rows], [batch.media[row] for row in rows]
        return Batch(samples, requests, encoded, media, {})

    def _generate(self, batch: Batch, arm: str, benchmark: Benchmark) -> Answers:
        begun = time.perf_counter()
        debias = None if arm == UNPRUNED else self.debias(benchmark, arm)
        trends = None if debias is None else self._measured(debias, batch, benchmark)
        encoded = batch.encoded.to(self.adapter.device, self.model.dtype)
        pruned = None
        if debias is not None:
            pruned = self.pruner(self.model, debias, sizes=encoded.sizes, prefix=self.prefix, trends=trends)
        keys = [media.key for media in batch.media if media.key]
        with nullcontext() if self._looks(arm) else self.features.shared(self.model, keys):
            done = generate(self.adapter, encoded, greedy(self.model, self.longest(benchmark)), pruned)
        texts = self.adapter.decode(done.new)
        self.busy += time.perf_counter() - begun
        answers = {}
        for row, (sample, media) in enumerate(zip(batch.samples, batch.media, strict=True)):
            metadata: dict[str, Any] = {"size": list(media.size)} if media.key else {}
            if shown := done.pictures(row):
                metadata |= done.noted(shown)
            if done.bad[row]:
                metadata["error"] = "the model's logits hold NaN or infinity; this is no answer"
            answers[sample.key] = ("" if done.bad[row] else texts[row].strip(), metadata)
        return answers

    def _measured(self, debias: Debias, batch: Batch, benchmark: Benchmark) -> list[Trend] | None:
        """The trend of each picture, where it is that of a picture without content; None: the debias's own."""
        if debias.trend is None or debias.trend.kind != "blank":
            return None
        if self.blanks is None:
            self.blanks = Blanks(self.adapter, self.pruner)
        return self.blanks(debias, batch.encoded, benchmark.conversation)

    def _looks(self, arm: str) -> bool:
        """Whether the arm's method has to see the vision tower at work, so that its output cannot be taken over."""
        layers = getattr(self.model.config, "vision_config", None)
        return arm != UNPRUNED and self.pruner.needs_tower(getattr(layers, "num_hidden_layers", 24))

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host, whoever noticed."""
    said = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in said)


def greedy(model: Any, max_new_tokens: int) -> Any:
    """Greedy decoding, whatever the checkpoint's own generation config says."""
    from transformers import GenerationConfig

    own = model.generation_config
    end = own.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else (end[0] if isinstance(end, list) else end)
    special = {"bos_token_id": own.bos_token_id, "eos_token_id": end, "pad_token_id": pad}
    return GenerationConfig(do_sample=False, num_beams=1, use_cache=True, max_new_tokens=max_new_tokens, **special)


@dataclass
class Generated:
    """What a model wrote behind the prompts of a batch, and what a method kept of its pictures.

    new     [B, n] ids
    bad     of each row, whether its logits held NaN or infinity
    logits  [B, vocabulary] of each new token, where the configuration asks for them
    trace   None: nothing was pruned, or beams were searched, which repeat the rows
    """

    new: torch.Tensor
    bad: list[bool]
    logits: Sequence[torch.Tensor] | None
    trace: Trace | None

    def pictures(self, row: int) -> list[Image]:
        """The way through the cuts of each picture of a row, and of each frame of a clip with words between them."""
        return [] if self.trace is None else [image for image in self.trace.images if image.row == row]

    def noted(self, images: Sequence[Image]) -> dict[str, Any]:
        """Of some pictures, or the frames of a clip, one record: the tokens that stayed at each cut, as ranges counted
        through all of them, and how many that were."""
        assert self.trace is not None
        starts = accumulate((image.tokens.span.total for image in images[:-1]), initial=0)
        placed = list(zip(starts, images, strict=True))
        kept = [
            encode(sorted(start + place for start, image in placed for place in image.raster(stage).tolist()))
            for stage in range(self.trace.stages)
        ]
        counts = [image.counts(self.trace.layers) for image in images]

        def summed(name: str) -> Any:
            values = [each[name] for each in counts]
            return [*map(sum, zip(*values, strict=True))] if name in ("after", "padding") else sum(values)

        return {"kept": kept, "counts": {name: summed(name) for name in counts[0]}}


def generate(
    adapter: Any,
    encoded: Encoded,
    config: Any,
    pruned: AbstractContextManager[Trace] | None = None,
    stopping: Sequence[Any] = (),
) -> Generated:
    """What the adapter's model writes behind a batch of prompts.

    pruned: a pruner on the model; None: as it is. stopping: further criteria, as transformers takes them.
    """
    poison = Poison()
    with torch.inference_mode(), nullcontext() if pruned is None else pruned as trace:
        out = adapter.model.generate(
            **encoded.inputs,
            generation_config=config,
            logits_processor=[poison],
            stopping_criteria=list(stopping),
            return_dict_in_generate=True,
        )
    new = out.sequences[:, encoded.inputs["input_ids"].shape[1] :]
    return Generated(new, poison.rows(len(new)), out.logits, trace if config.num_beams == 1 else None)


def _name(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(sample.key for sample in samples)
