"""What a client may ask, in the shape of OpenAI's chat completions, and how it is refused. Knows no model.

A question is one user message; what system messages say goes in front of it. Everything that is not understood is
refused by name, so that nothing that was asked for is left out in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from debias.names import nearest
from eval.core.settings import arm
from eval.serving.limits import Limits
from pruners import catalogue

DEFAULT_TOKENS = 256  # of an answer, where the client does not say
MEDIA = {"image_url": "image", "video_url": "video"}
# Fields that ask for nothing: they may hold anything.
IDLE = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
# Fields that are understood as long as they ask for what happens anyway.
ANYWAY: dict[str, tuple[Any, ...]] = {
    "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,), "tools": ([],),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "tool_choice": ("none", "auto"),
    "logit_bias": ({},), "stop": ([], ""),
}  # fmt: skip
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", list: "a list",
         dict: "an object"}  # fmt: skip


class Refused(Exception):
    """A request that is not answered, with the status and the words for the client."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else None
        kind = kind or ("authentication_error" if self.status == 401 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def out_of_time() -> Refused:
    """What is said where a request took too long."""
    return Refused(504, "the time for this request is up", code="timeout")


@dataclass(frozen=True)
class Ask:
    """One request, understood."""

    model: str
    parts: tuple[tuple[str, str, str], ...]  # (text, image or video; words or URL; where it stood) in their order
    max_tokens: int
    method: str | None = None  # None: as the server was started
    keep: int | float | None = None
    arm: str | None = None
    return_kept: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stream: bool = False
    usage: bool = False  # whether a stream ends with the counts of tokens


def understood(body: bytes, limits: Limits) -> Ask:
    """The request in a body, or Refused."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON ({error.args[0] if error.args else error})"[:300]) from None
    if not isinstance(given, dict):
        raise Refused(400, "the body has to be a JSON object")
    fields = {name: _read(name, value) for name, value in given.items() if value is not None}
    tokens = [fields.pop(name, None) for name in ("max_tokens", "max_completion_tokens")]
    wanted = next((count for count in tokens if count is not None), min(DEFAULT_TOKENS, limits.max_tokens))
    if wanted > limits.max_tokens:
        raise Refused(400, f"max_tokens={wanted}: this server gives at most {limits.max_tokens}", "max_tokens")
    usage = fields.pop("stream_options", {}).get("include_usage")
    return Ask(
        model=_a(str, fields.pop("model", None), "model"),
        parts=_parts(_a(list, fields.pop("messages", None), "messages"), limits),
        max_tokens=wanted,
        usage=usage is not None and _a(bool, usage, "include_usage"),
        **{name: value for name, value in fields.items() if name in FIELDS},
    )


def _read(name: str, value: Any) -> Any:
    """What a field says."""
    if name in ANYWAY and value not in ANYWAY[name]:
        raise Refused(400, f"{name} is not supported by this server", name[:100], "unsupported_parameter")
    if name in FIELDS:
        return FIELDS[name](value, name)
    if name not in ANYWAY and name not in IDLE:
        raise Refused(
            400, f"unknown field {name[:100]!r}{nearest(name[:100], FIELDS)}", name[:100], "unknown_parameter"
        )
    return value


def _a(kind: type, value: Any, where: str) -> Any:
    """A value that has to be of a kind."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        found = "nothing" if value is None else KINDS.get(type(value), "something else")
        raise Refused(400, f"{where}: expected {KINDS[kind]}, found {found}", where)
    return value


def _number(kind: type, low: float, high: float, value: Any, name: str) -> Any:
    """A number within bounds."""
    right = isinstance(value, int) or (kind is float and isinstance(value, float))
    if not right or isinstance(value, bool) or not low <= value <= high:
        upper = "" if high == math.inf else f" to {high}"
        raise Refused(400, f"{name}: expected {KINDS[kind]} of {low}{upper}, found {str(value)[:40]}", name)
    return kind(value)


def _top_p(value: Any, name: str) -> Any:
    if value == 0:
        raise Refused(400, f"{name}: expected a number above 0", name)
    return _number(float, 0, 1, value, name)


def _keep(value: Any, name: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 31
    if not whole and not (isinstance(value, float) and 0 < value < 1):
        raise Refused(400, f"{name}: expected a count of at least 1 or a share below 1, found {str(value)[:40]}", name)
    return value


def _named(find: Callable[[str], str], value: Any, name: str) -> Any:
    """A name that `find` knows, which raises a ValueError for others."""
    try:
        return find(_a(str, value, name)[:100])
    except ValueError as error:
        raise Refused(400, str(error), name) from None


# The fields that are understood, and how each is read.
FIELDS: dict[str, Callable[[Any, str], Any]] = {
    "model": partial(_a, str),
    "messages": partial(_a, list),
    "max_tokens": partial(_number, int, 1, math.inf),
    "max_completion_tokens": partial(_number, int, 1, math.inf),
    "temperature": partial(_number, float, 0, 2),
    "top_p": _top_p,
    "seed": partial(_number, int, -(2**63), 2**63 - 1),
    "stream": partial(_a, bool),
    "stream_options": partial(_a, dict),
    "method": partial(_named, catalogue.named),
    "keep": _keep,
    "arm": partial(_named, arm),
    "return_kept": partial(_a, bool),
}


def _parts(messages: Sequence[Any], limits: Limits) -> tuple[tuple[str, str, str], ...]:
    """The parts of all messages in order; refused unless they are one question."""
    parts: list[tuple[str, str, str]] = []
    roles = []
    for number, message in enumerate(messages[:100]):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where}: expected an object", "messages")
        role = _a(str, message.get("role"), f"{where}.role")
        if role not in ("system", "developer", "user"):
            said = "answers single questions, without what was said before" if role == "assistant" else "has no tools"
            raise Refused(400, f"{where}.role: {role[:40]!r}; this server {said}", f"{where}.role")
        roles.append(role)
        content = message.get("content")
        texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(texts, list) or not texts:
            raise Refused(400, f"{where}.content: expected a string or a list of parts", f"{where}.content")
        mine = [_part(part, f"{where}.content[{at}]", role) for at, part in enumerate(texts)]
        # What a system message says stands before the question, on a line of its own.
        parts += mine if role == "user" else [(kind, f"{value}\n", place) for kind, value, place in mine]
    if len(messages) > 100 or roles.count("user") != 1 or roles[-1:] != ["user"]:
        raise Refused(400, "messages: expected one user message, with system messages before it at most", "messages")
    kinds = [kind for kind, _, _ in parts]
    if kinds.count("image") > limits.max_pictures or kinds.count("video") > 1:
        raise Refused(400, f"expected at most {limits.max_pictures} pictures and one clip in a request", "messages")
    if not any(value.strip() for kind, value, _ in parts if kind == "text"):
        raise Refused(400, "messages: the question has no words", "messages")
    return tuple(parts)


def _part(part: Any, where: str, role: str) -> tuple[str, str, str]:
    if not isinstance(part, dict):
        raise Refused(400, f"{where}: expected an object with a type", where)
    kind = _a(str, part.get("type"), f"{where}.type")
    if kind == "text":
        return "text", _a(str, part.get("text"), f"{where}.text"), where
    if kind not in MEDIA or role != "user":
        raise Refused(400, f"{where}.type: expected text, or image_url or video_url of a user", f"{where}.type")
    held = part.get(kind)
    url = held.get("url") if isinstance(held, dict) else held
    return MEDIA[kind], _a(str, url, f"{where}.{kind}.url"), where
