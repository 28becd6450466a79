"""Questions from many clients, answered by one model in one thread: those that want the same go together.

A row of a batch is watched token by token: its text goes out as it grows, and it ends when its own client is gone, its
own time is up or its own length is reached, whatever the others do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from eval.answering.backends import greedy, out_of_memory
from eval.answering.store import decode
from eval.harnesses.pruned import Pruned
from eval.serving import media
from eval.serving.limits import Limits
from eval.serving.metrics import Metrics
from eval.serving.protocol import Ask, Refused, out_of_time
from pruners.models import Request
from pruners.models.request import IMAGE, VIDEO, asked

log = logging.getLogger("debias")
REMEMBERED = 64  # combinations of method, budget and arm that are held ready


@dataclass(frozen=True)
class Done:
    """A whole answer."""

    text: str
    finish: str  # "stop" or "length"
    tokens: int
    pruning: dict[str, Any]  # the method, the arm, and what was kept of each picture


class ServerJob:
    """A question on its way. `send` gets pieces of text (if the client wants a stream), then a Done or a Refused."""

    def __init__(self, ask: Ask, request: Request, prompt: int, visual: int, deadline: float) -> None:
        self.ask, self.request, self.prompt, self.visual, self.deadline = ask, request, prompt, visual, deadline
        self.send: Callable[[str | Done | Refused], None] = lambda event: None
        self.gone = False  # nobody waits for the answer any more
        self.sent = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What has to be equal for two questions to be answered together; a seed is for one question alone."""
        ask = self.ask
        alone = id(self) if ask.temperature and ask.seed is not None else None
        return ask.method, ask.keep, ask.arm, ask.temperature, ask.top_p, alone

    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() > self.deadline


class GrowingRows:
    """The rows of a batch while they grow; a stopping criterion of transformers."""

    def __init__(self, jobs: Sequence[ServerJob], adapter: Any, ends: Collection[int]) -> None:
        self.jobs, self.adapter, self.ends = jobs, adapter, ends
        self.ids: list[list[int]] = [[] for _ in jobs]
        self.finish = [""] * len(jobs)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for row, (job, token) in enumerate(zip(self.jobs, input_ids[:, -1].tolist(), strict=True)):
            if self.finish[row]:
                continue
            self.ids[row].append(token)
            if token in self.ends:
                self.finish[row] = "stop"
            elif len(self.ids[row]) >= job.ask.max_tokens:
                self.finish[row] = "length"
            elif job.gone or job.late():
                self.finish[row] = "late"
            elif job.ask.stream:
                self._tell(job, self.text(row))
        return torch.tensor([bool(word) for word in self.finish], device=input_ids.device)

    def text(self, row: int) -> str:
        """What the row says so far."""
        return str(self.adapter.decode([self.ids[row]])[0])

    @staticmethod
    def _tell(job: ServerJob, text: str) -> None:
        """The text that is new. Half a character, and what the next token may still change, waits."""
        if len(text) > len(job.sent) and text.startswith(job.sent) and not text.endswith("\ufffd"):
            job.send(text[len(job.sent) :])
            job.sent = text


class Engine:
    """Answers jobs until it is closed. pruned: the model, as the server was started."""

    def __init__(self, pruned: Pruned, limits: Limits, hosts: Collection[str] = (), name: str = "") -> None:
        self.pruned, self.limits, self.hosts, self.name = pruned, limits, frozenset(hosts), name
        self.metrics = Metrics()
        self._known: OrderedDict[tuple[Any, ...], Pruned] = OrderedDict()
        self._waiting: deque[ServerJob] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._turn = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- on any thread -------------------------------------------------------------------------------------------------
    def prepare(self, ask: Ask, deadline: float) -> ServerJob:
        """The job of a request: its pictures read and made ready, its prompt measured; or Refused."""
        adapter = self.pruned.adapter
        parts: list[tuple[str, Any]] = []
        for kind, url, where in ask.parts:
            if kind == "text":
                self._check_words(url, where)
                parts.append((kind, url))
            elif kind == "image":
                parts.append((kind, adapter.picture(media.picture(url, where, self.limits, self.hosts))))
            elif not type(adapter).takes_clips():
                raise Refused(400, f"{where}: {self.name} takes pictures, not clips", where)
            else:
                parts.append((kind, adapter.clip(media.clip(url, where, self.limits, self.hosts))))
        request = asked(parts)
        try:
            encoded = adapter.encode([request], device="cpu")
            (spans,) = adapter.spans(encoded.inputs, encoded.sizes)
        except ValueError as error:
            raise Refused(400, str(error), "messages") from None
        prompt = int(encoded.inputs["input_ids"].shape[1])
        if prompt > self.limits.max_prompt:
            said = f"the prompt has {prompt} tokens; this server takes at most {self.limits.max_prompt}"
            raise Refused(400, said, "messages", "context_length_exceeded")
        # What stays in memory is what the model needs; the URLs with the pictures' bytes go.
        return ServerJob(replace(ask, parts=()), request, prompt, sum(span.total for span in spans), deadline)

    def _check_words(self, text: str, where: str) -> None:
        """Refuse what the tokenizer would not take for words: markers of pictures, ends of turns."""
        tokenizer = self.pruned.adapter.tokenizer
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        reserved = special & {*tokenizer(text, add_special_tokens=False).input_ids} - {tokenizer.unk_token_id}
        if reserved or IMAGE in text or VIDEO in text:
            words = tokenizer.convert_ids_to_tokens(sorted(reserved)) or [IMAGE if IMAGE in text else VIDEO]
            raise Refused(400, f"{where}: {words[0]!r} is a mark of the model's and cannot stand in a text", where)

    def submit(self, job: ServerJob) -> None:
        """Answer this job when its turn comes."""
        self._enter(self._waiting, job)

    def call(self, work: Callable[[], None]) -> None:
        """Run something on the model's thread."""
        self._enter(self._calls, work)

    def _enter(self, queue: deque[Any], entry: Any) -> None:
        with self._turn:
            if self._closed:
                raise Refused(503, "the server is stopping")
            queue.append(entry)
            self._turn.notify()

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Answer nothing more; who still waits is told."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._thread.join()

    # -- on the model's thread -----------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._turn:
                while not (self._waiting or self._calls or self._closed):
                    self._turn.wait()
                if self._closed:
                    for job in self._waiting:
                        job.send(Refused(503, "the server is stopping"))
                    return
                work = self._calls.popleft() if self._calls else None
            if work is not None:
                work()
            else:
                self._tried(self._together())

    def _tried(self, jobs: Sequence[ServerJob]) -> None:
        """Answer; whatever goes wrong, the next questions are answered."""
        try:
            self._answer(jobs)
        except Exception:
            log.exception("no answer to %d questions", len(jobs))
            for job in jobs:
                job.send(Refused(500, "the answer failed"))

    def _together(self) -> list[ServerJob]:
        """The job that waited longest, and those that can be answered with it, also those that come within a moment."""
        with self._turn:
            jobs = [self._waiting.popleft()]
            end = time.monotonic() + self.limits.wait
            while True:
                for job in [waiting for waiting in self._waiting if waiting.key == jobs[0].key]:
                    if len(jobs) < self.limits.batch_size:
                        jobs.append(job)
                        self._waiting.remove(job)
                left = end - time.monotonic()
                if len(jobs) == self.limits.batch_size or left <= 0 or self._closed:
                    return jobs
                self._turn.wait(left)

    def chosen(self, method: str | None, keep: int | float | None, arm: str | None) -> Pruned:
        """The model as a request wants it; ValueError where that means nothing."""
        own = self.pruned.chosen.settings
        if method in (None, own.method) and keep is None and arm is None:
            return self.pruned
        other = method is not None and method != own.method
        changes: dict[str, Any] = {
            "method": own.method if method is None else method,
            "keep": (None if other else own.keep) if keep is None else keep,
            "fields": {} if other else own.fields,
            "arms": ((arm,) if arm else () if other else (self.pruned.arm,)),
        }
        key = tuple(str(value) for value in changes.values())
        if key not in self._known:
            self._known[key] = self.pruned.beside(**changes)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def _answer(self, jobs: Sequence[ServerJob]) -> None:
        live = []
        for job in jobs:
            if job.late():
                job.send(out_of_time())
            elif not job.gone:
                live.append(job)
        if not live:
            return
        ask = live[0].ask
        try:
            pruned = self.chosen(ask.method, ask.keep, ask.arm)
        except ValueError as error:
            for job in live:
                job.send(Refused(400, str(error), "method"))
            return
        try:
            self._generate(pruned, live)
        except Exception as error:
            if len(live) > 1:  # one of them may have spoilt it for the others
                log.info("%d questions failed together (%s); each is asked alone", len(live), type(error).__name__)
            elif out_of_memory(error):
                live[0].send(Refused(503, "the request does not fit into this server's memory"))
                return
            else:
                raise
        else:
            return
        torch.cuda.empty_cache()
        for job in live:
            if job.sent:  # half an answer is out, and cannot be taken back
                job.send(Refused(500, "the answer failed"))
            else:
                self._tried([job])

    def _generate(self, pruned: Pruned, jobs: Sequence[ServerJob]) -> None:
        ask, model = jobs[0].ask, pruned.model
        config = greedy(model, max(job.ask.max_tokens for job in jobs))
        ends = config.eos_token_id
        watch = GrowingRows(jobs, pruned.adapter, ends if isinstance(ends, list) else [ends])
        self.metrics.observe("batch_size", len(jobs))
        with torch.random.fork_rng(enabled=bool(ask.temperature) and ask.seed is not None):
            if ask.temperature:
                config.do_sample, config.temperature, config.top_p, config.top_k = True, ask.temperature, ask.top_p, 0
                if ask.seed is not None:
                    torch.manual_seed(ask.seed)
            _, bad, kept = pruned.generate([job.request for job in jobs], config, [watch])
        for row, job in enumerate(jobs):
            if bad[row]:
                job.send(Refused(500, "the model's logits hold NaN or infinity; this is no answer"))
            elif watch.finish[row] == "late":
                job.send(out_of_time())
            else:
                self._done(pruned, job, watch.text(row), watch.finish[row], len(watch.ids[row]), kept[row])

    def _done(
        self, pruned: Pruned, job: ServerJob, text: str, finish: str, tokens: int, kept: list[dict[str, Any]]
    ) -> None:
        pictures = [
            {"after": picture["counts"]["after"], "mean": picture["counts"]["mean"],
             **({"kept": [decode(stage) for stage in picture["kept"]]} if job.ask.return_kept else {})}
            for picture in kept
        ]  # fmt: skip
        stayed = sum(picture["after"][-1] for picture in pictures) if pictures else job.visual
        for name, count in (("prompt_tokens_total", job.prompt), ("completion_tokens_total", tokens),
                            ("visual_tokens_total", job.visual), ("visual_tokens_kept_total", stayed)):  # fmt: skip
            self.metrics.add(name, count)
        if job.ask.stream and text[len(job.sent) :]:
            job.send(text[len(job.sent) :])
        job.send(Done(text, finish, tokens, {
            "method": repr(pruned.chosen.pruner), "arm": pruned.arm, "visual_tokens": job.visual, "pictures": pictures,
        }))  # fmt: skip
