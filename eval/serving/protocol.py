"""What a client may ask, in the shape of OpenAI's chat completions, and how it is refused. Knows no model.

A question is one user message; what system messages say goes in front of it. Everything that is not understood is
refused by name, so that nothing that was asked for is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    fields = {name: value for name, value in given.items() if value is not None}
    _known(fields)
    tokens = [_number(fields, name, 1, None, int) for name in ("max_tokens", "max_completion_tokens")]
    wanted = next((count for count in tokens if count is not None), min(DEFAULT_TOKENS, limits.max_tokens))
    if wanted > limits.max_tokens:
        raise Refused(400, f"max_tokens={wanted}: this server gives at most {limits.max_tokens}", "max_tokens")
    options = _of(fields, "stream_options", dict) or {}
    return Ask(
        model=_of(fields, "model", str, needed=True),
        parts=_parts(_of(fields, "messages", list, needed=True), limits),
        max_tokens=wanted,
        method=_named(fields, "method", catalogue.named),
        keep=_keep(fields),
        arm=_named(fields, "arm", arm),
        return_kept=bool(_of(fields, "return_kept", bool)),
        temperature=float(_number(fields, "temperature", 0, 2) or 0),
        top_p=_top_p(fields),
        seed=_number(fields, "seed", -(2**63), 2**63 - 1, int),
        stream=bool(_of(fields, "stream", bool)),
        usage=bool(_of(options, "include_usage", bool)),
    )


OURS = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream",
        "stream_options", "method", "keep", "arm", "return_kept")  # fmt: skip


def _known(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in ANYWAY:
            if value not in ANYWAY[name]:
                raise Refused(400, f"{name} is not supported by this server", name[:100], "unsupported_parameter")
        elif name not in OURS and name not in IDLE:
            hint = nearest(name[:100], OURS)
            raise Refused(400, f"unknown field {name[:100]!r}{hint}", name[:100], "unknown_parameter")


def _of(fields: Mapping[str, Any], name: str, kind: type, needed: bool = False, where: str = "") -> Any:
    value = fields.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kind_of = "nothing" if value is None else KINDS.get(type(value), "something else")
        raise Refused(400, f"{where}{name}: expected {KINDS[kind]}, found {kind_of}", f"{where}{name}")
    return value


def _number(fields: Mapping[str, Any], name: str, low: float, high: float | None, kind: type = float) -> Any:
    value = fields.get(name)
    if value is None:
        return None
    right = isinstance(value, int) or (kind is float and isinstance(value, float))
    if not right or isinstance(value, bool) or not low <= value <= (high if high is not None else value):
        upper = "" if high is None else f" to {high}"
        raise Refused(400, f"{name}: expected {KINDS[kind]} of {low}{upper}, found {str(value)[:40]}", name)
    return value


def _top_p(fields: Mapping[str, Any]) -> float:
    value = _number(fields, "top_p", 0, 1)
    if value == 0:
        raise Refused(400, "top_p: expected a number above 0", "top_p")
    return 1.0 if value is None else float(value)


def _keep(fields: Mapping[str, Any]) -> int | float | None:
    value = fields.get("keep")
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 31
    if not whole and not (isinstance(value, float) and 0 < value < 1):
        raise Refused(400, f"keep: expected a count of at least 1 or a share below 1, found {str(value)[:40]}", "keep")
    keep: int | float = value
    return keep


def _named(fields: Mapping[str, Any], name: str, find: Any) -> str | None:
    value: str | None = _of(fields, name, str)
    if value is None:
        return None
    try:
        return str(find(value[:100]))
    except ValueError as error:
        raise Refused(400, str(error), name) from None


def _parts(messages: Sequence[Any], limits: Limits) -> tuple[tuple[str, str, str], ...]:
    """The parts of all messages in order; refused unless they are one question."""
    parts: list[tuple[str, str, str]] = []
    roles = []
    for number, message in enumerate(messages[:100]):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where}: expected an object", "messages")
        role = _of(message, "role", str, needed=True, where=f"{where}.")
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
    kind = _of(part, "type", str, needed=True, where=f"{where}.")
    if kind == "text":
        return "text", _of(part, "text", str, needed=True, where=f"{where}."), where
    if kind not in MEDIA or role != "user":
        raise Refused(400, f"{where}.type: expected text, or image_url or video_url of a user", f"{where}.type")
    held = part.get(kind)
    url = held.get("url") if isinstance(held, dict) else held
    if not isinstance(url, str):
        raise Refused(400, f"{where}.{kind}.url: expected a string", f"{where}.{kind}.url")
    return MEDIA[kind], url, where
