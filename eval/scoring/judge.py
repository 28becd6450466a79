"""Judges for free-form answers: any server that speaks OpenAI's chat protocol, asked for a structured verdict.

The instructions are our own wording of MM-Vet's and Video-ChatGPT's tasks, so a score belongs to (judge model, our
wording) and is stored with both; it is not a number of the official graders. Every verdict is cached on disk by the
hash of all that decides it: a stopped grading goes on where it was, and arms with the same answer get the same score.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from eval.core.files import cache_home
from eval.core.settings import JudgeSettings

LONGEST_REPLY = 1 << 20  # bytes of a server's whole reply
LONGEST_VERDICT = 2_000  # characters of the judge's words


@dataclass(frozen=True)
class Rules:
    """What a judge is told, and which reply counts."""

    system: str
    schema: dict[str, Any]
    parse: Callable[[dict[str, Any]], dict[str, Any]]  # the verdict, or ValueError/KeyError/TypeError

    @property
    def version(self) -> str:
        """A digest of the wording, which every verdict is stored with."""
        return hashlib.sha256(json.dumps([self.system, self.schema]).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Answered:
    """A question with the right answer and the answer to grade."""

    question: str
    reference: str
    prediction: str

    def text(self) -> str:
        """What the judge is shown."""
        return (
            f"Question: {self.question}\nReference answer: {self.reference}\n"
            f"Answer to grade: {self.prediction.strip() or '(empty)'}"
        )


def _graded(reply: dict[str, Any]) -> dict[str, Any]:
    score = reply["score"]
    if isinstance(score, bool):
        raise TypeError
    score = float(score)
    if not 0 <= score <= 1:
        raise ValueError
    return {"score": round(score, 1)}


def _yes_no(reply: dict[str, Any]) -> dict[str, Any]:
    word, score = str(reply["pred"]).strip().lower(), int(float(reply["score"]))
    if word not in ("yes", "no") or not 0 <= score <= 5:
        raise ValueError
    return {"pred": word, "score": score}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


TASKS = {
    "mmvet": Rules(
        "You grade answers to questions about pictures by comparing them with a reference answer; you do not see the "
        "picture. Give the share of the reference that the answer gets right, as a number between 0.0 (nothing) and "
        "1.0 (all of it) in steps of 0.1. If the reference joins elements with <AND>, each of them is needed and has "
        "its share; if it joins them with <OR>, matching any one of them is enough for 1.0. Other words for the same "
        "thing are right; additional remarks cost nothing unless they contradict the reference. For a reference that "
        "explains or describes, judge how much of its meaning is there.\n"
        'Example: reference "7 <AND> -2", answer "x is 7" gets {"score": 0.5}.\n'
        'Example: reference "car <OR> automobile", answer "It is an automobile." gets {"score": 1.0}.\n'
        'Reply with one JSON object and nothing else: {"score": number}.',
        _object(score={"type": "number"}),
        _graded,
    ),
    "video": Rules(
        "You check answers to questions about short videos against the correct answer; you do not see the video. "
        "Decide whether the answer means the same as the correct one: other words for the same thing are a match, and "
        "a longer answer that contains the correct one without contradicting it is a match. Also rate the match with a "
        "whole number from 0 (unrelated) to 5 (the same).\n"
        'Reply with one JSON object and nothing else: {"pred": "yes" or "no", "score": whole number from 0 to 5}.',
        _object(pred={"type": "string", "enum": ["yes", "no"]}, score={"type": "integer"}),
        _yes_no,
    ),
}


class NoVerdict(Exception):
    """The reply holds no verdict."""


@dataclass(frozen=True)
class Verdict:
    """A judge's grade of one answer."""

    value: dict[str, Any] | None  # None: not judged, no reply was understood; not cached, and asked again next time
    reply: str
    judge: str  # the model as the server names it, and the version of our wording


class Cache:
    """Verdicts by key, in one file of JSON lines that several processes may append to."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock, self._found = path, Lock(), {}
        if path.exists():
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    entry = json.loads(line)
                    self._found[entry["key"]] = Verdict(entry["value"], entry["reply"], entry["judge"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # a torn line: that verdict is asked for again

    def get(self, key: str) -> Verdict | None:
        """The verdict of a key; None where there is none."""
        return self._found.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, here and in the file."""
        line = json.dumps({"key": key, "value": verdict.value, "reply": verdict.reply, "judge": verdict.judge})
        with self._lock:
            self._found[key] = verdict
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"
                file.write((b"\n" if torn else b"") + line.encode() + b"\n")


class Judge:
    """A server that grades. attempts: for one answer; longest_wait: seconds between two of them."""

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path | None = None,
        key_variable: str = "OPENAI_API_KEY",
        attempts: int = 6,
        timeout: float = 60.0,
        longest_wait: float = 60.0,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ValueError("a judge needs the packages openai and tenacity: pip install openai tenacity") from None
        self.url, self.model, self.attempts, self.longest_wait = url, model, attempts, longest_wait
        # The key goes from the environment to the client; no message, log or file of ours ever holds it.
        self._secret = os.environ.get(key_variable) or "none"
        if not (self._secret.isascii() and self._secret.isprintable()):
            raise ValueError(f"the key in ${key_variable} holds characters that no key has; expected plain ASCII")
        http = openai.DefaultHttpxClient(event_hooks={"response": [lambda response: _bound(response, timeout)]})
        self.client = openai.OpenAI(
            base_url=url, api_key=self._secret, timeout=timeout, max_retries=0, http_client=http
        )
        self.shown_url = re.sub(r"//[^/@]*@", "//", url)
        self.cache = Cache(cache or default_cache(url, model))
        self.structured = True

    def grade(self, task: str, questions: Sequence[Answered], workers: int = 8) -> list[Verdict]:
        """Verdicts in the order of the questions. A server that stays away raises; what was graded is cached."""
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self.ask, task, question) for question in questions]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def ask(self, task: str, question: Answered) -> Verdict:
        """The verdict on one answer, from the cache or from the server."""
        import openai
        import tenacity

        rules = TASKS[task]
        identity = [self.url, self.model, rules.system, rules.schema, question.text()]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        if (cached := self.cache.get(key)) is not None and _readable(rules, cached):
            return cached
        judge, reply, attempts = f"{self.model} (wording {rules.version})", "", 0
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, NoVerdict)
            ),
            wait=lambda state: _wait(state, self.longest_wait),
            stop=tenacity.stop_after_attempt(self.attempts),
            reraise=True,
        )
        try:
            for attempt in retry:
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    # A reply that cannot be read would only repeat itself at temperature 0.
                    model, reply = self._send(rules, question.text(), 0.0 if attempts == 1 else 0.5)
                    judge = f"{model} (wording {rules.version})"
                    verdict = Verdict(verdict_in(rules, reply), reply, judge)
        except NoVerdict:
            return Verdict(None, reply, judge)
        except openai.APIError as error:
            status = getattr(error, "status_code", None)
            reason = f"HTTP {status}" if status else type(error).__name__
            hint = " Is the key right?" if status in (401, 403) else ""
            raise ValueError(
                f"the judge {self.model} at {self.shown_url} did not answer ({reason}; "
                f"{attempts} attempt{'s' if attempts > 1 else ''})."
                f"{hint} What was graded so far is kept; start again to continue."
            ) from None
        self.cache.put(key, verdict)
        return verdict

    def _send(self, rules: Rules, text: str, temperature: float) -> tuple[str, str]:
        import openai

        extra: dict[str, Any] = {}
        if self.structured:
            schema = {"name": "verdict", "strict": True, "schema": rules.schema}
            extra["response_format"] = {"type": "json_schema", "json_schema": schema}
        messages: list[Any] = [{"role": "system", "content": rules.system}, {"role": "user", "content": text}]
        try:
            done: Any = self.client.chat.completions.create(
                model=self.model, messages=messages, temperature=temperature, max_tokens=64, **extra
            )
        except openai.BadRequestError:
            if not self.structured:
                raise
            self.structured = False  # this server knows no schemas: ask in words alone
            return self._send(rules, text, temperature)
        except (ValueError, TypeError, AttributeError):
            raise NoVerdict from None  # the body was no JSON
        try:
            model = self._without_key(done.model or self.model)[:100]
            return model, self._without_key(done.choices[0].message.content)[:LONGEST_VERDICT]
        except (AttributeError, IndexError, TypeError):
            raise NoVerdict from None

    def _without_key(self, text: object) -> str:
        """A server may send the key back; it is not written down."""
        said = str(text or "").encode(errors="replace").decode()
        return said if self._secret == "none" else said.replace(self._secret, "(the key)")


def _bound(response: Any, seconds: float) -> None:
    """The rest of a response must come in time and stay small; the client alone would wait from byte to byte."""
    http: Any = importlib.import_module(type(response).__module__.partition(".")[0])  # httpx, or what openai has now

    class Bounded(http.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            end, size = time.monotonic() + seconds, 0
            for part in self.stream:
                size += len(part)
                if size > LONGEST_REPLY:
                    raise http.RemoteProtocolError(f"more than {LONGEST_REPLY} bytes")
                if time.monotonic() > end:
                    raise http.ReadTimeout("the reply did not end in time")
                yield part

        def close(self) -> None:
            self.stream.close()

    response.stream = Bounded(response.stream)


def verdict_in(rules: Rules, reply: str) -> dict[str, Any]:
    """The verdict in a reply, which may be wrapped in words or in a code fence, but not in another object."""
    end = 0
    while (start := reply.find("{", end)) >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(reply, start)
        except (ValueError, RecursionError):
            end = start + 1
            continue
        try:
            return rules.parse(value)
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    raise NoVerdict


def _readable(rules: Rules, verdict: Verdict) -> bool:
    """Whether a cached entry is a verdict; a file can hold anything, and older files hold failures, too."""
    try:
        return verdict.value is not None and rules.parse(verdict.value) == verdict.value
    except (ValueError, KeyError, TypeError, OverflowError):
        return False


def default_cache(url: str, model: str) -> Path:
    """Where the verdicts of a judge are kept when no file is named."""
    return cache_home() / "judge" / f"{hashlib.sha256(f'{url} {model}'.encode()).hexdigest()[:16]}.jsonl"


def judge_ids(verdicts: Iterable[Verdict]) -> list[str]:
    """The judges that gave the verdicts."""
    return sorted({verdict.judge for verdict in verdicts})


def _wait(state: Any, longest: float) -> float:
    """Back off 1, 2, 4, ... seconds, or as long as the server asks."""
    error = state.outcome.exception()
    asked = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    seconds = float(asked) if re.fullmatch(r"\d+(\.\d+)?", asked) else 2.0 ** (state.attempt_number - 1)
    return min(seconds, longest)


def judge_of(settings: JudgeSettings | None) -> Judge | None:
    """The judge that the settings name, if any."""
    if settings is None:
        return None
    return Judge(settings.url, settings.model, settings.cache, settings.key_variable, timeout=settings.timeout)
