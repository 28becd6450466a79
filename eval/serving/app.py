"""The server: OpenAI's chat completions over HTTP, with limits in front of everything that costs something."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, MutableMapping
from functools import cached_property
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from eval.serving.engine import Done, Engine, ServerJob
from eval.serving.limits import LOCAL
from eval.serving.protocol import Ask, Refused, out_of_time, understood

COMPLETIONS = "/v1/chat/completions"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def refusal(error: Refused) -> JSONResponse:
    """A refused request's answer."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return JSONResponse(error.body(), error.status, headers)


class Server:
    """One engine behind HTTP. hosts: names under which the server may be called; key: what clients have to know."""

    def __init__(self, engine: Engine, hosts: Collection[str] = LOCAL, key: str | None = None) -> None:
        self.engine, self.limits, self.hosts, self.key = engine, engine.limits, frozenset(hosts), key
        self.running, self.begun = 0, int(time.time())
        self.routes = [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.one_model),
            Route(COMPLETIONS, self.complete, methods=["POST"]),
        ]
        self.costly = {COMPLETIONS}  # paths that are counted against max_requests

    @cached_property
    def inner(self) -> Any:
        """What answers a request that was let through."""
        handlers: Any = {HTTPException: self._http_error, Refused: self._refused, ClientDisconnect: self._left}
        return Starlette(routes=self.routes, exception_handlers=handlers)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Every request passes here: hosts and keys are checked, and no more than `max_requests` are let through."""
        if scope["type"] != "http":
            raise ValueError("this server speaks HTTP alone")
        begun, status = time.monotonic(), 499
        known = {route.path for route in self.routes}
        path = scope["path"] if scope["path"] in known else "other"
        costly = path in self.costly

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        def reached(change: int) -> None:
            self.running += change
            self.engine.metrics.add("requests_running", change)

        scope["debias"] = {"begun": begun}
        reached(costly)
        try:
            self._check(scope, path)
            if costly and self.running > self.limits.max_requests:
                raise Refused(429, f"more than {self.limits.max_requests} requests at once; try again", code="busy")
            await self.inner(scope, receive, noted)
        except Refused as error:
            await refusal(error)(scope, receive, noted)
        finally:
            reached(-costly)
            job = scope["debias"].get("job")
            if job is not None:
                job.gone = True
            self.engine.metrics.add("requests_total", path=path, status=str(status))
            if costly:
                self.engine.metrics.observe("request_seconds", time.monotonic() - begun)

    def _check(self, scope: Message, path: str) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if "*" not in self.hosts and host.rsplit(":", 1)[0] not in self.hosts and host not in self.hosts:
            # A page on the web can make a browser call this server under that page's own name.
            raise Refused(421, "this server is not known under that name; see --allow-host", code="unknown_host")
        if self.key is not None and path != "/health":
            given = headers.get(b"authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):
                raise Refused(401, "expected this server's key as a bearer token", code="invalid_api_key")
        kind = headers.get(b"content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            # Which keeps pages of other sites out: a browser asks before it sends this type across sites.
            raise Refused(415, "expected Content-Type: application/json")

    # -- answers -------------------------------------------------------------------------------------------------------
    async def health(self, request: Request) -> Response:
        alive = self.engine.alive
        return JSONResponse(
            {"status": "ok" if alive else "stopped", "waiting": self.engine.waiting}, 200 if alive else 503
        )

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.engine.metrics.text(), media_type="text/plain; version=0.0.4")

    def _model(self) -> dict[str, Any]:
        return {"id": self.engine.name, "object": "model", "created": self.begun, "owned_by": "debias"}

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model())

    def _check_model(self, name: str) -> None:
        if name != self.engine.name:
            said = f"the model {name[:100]!r} is not served here; there is {self.engine.name!r}"
            raise Refused(404, said, "model", "model_not_found")

    async def complete(self, request: Request) -> Response:
        """One question, answered whole or piece by piece."""
        job = (await self.asked(request))[1]
        events = self.events(request, job)
        self.engine.submit(job)
        first = await self.next(request, job, events)
        if isinstance(first, Refused):
            raise first
        name = f"chatcmpl-{uuid.uuid4().hex}"
        if job.ask.stream:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(
                self._pieces(name, job, events, first), media_type="text/event-stream", headers=headers
            )
        assert isinstance(first, Done)
        choice = {"index": 0, "message": {"role": "assistant", "content": first.text, "refusal": None},
                  "finish_reason": first.finish, "logprobs": None}  # fmt: skip
        return JSONResponse({**self._head(name, "chat.completion"), "choices": [choice],
                             "usage": usage(job, first), "pruning": first.pruning})  # fmt: skip

    def _head(self, name: str, kind: str) -> dict[str, Any]:
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.engine.name}

    async def asked(self, request: Request) -> tuple[Ask, ServerJob]:
        """The question in a request's body, as it was asked and ready to be answered."""
        deadline = request.scope["debias"]["begun"] + self.limits.timeout
        ask = await anyio.to_thread.run_sync(understood, await self.body(request, deadline), self.limits)
        self._check_model(ask.model)
        return ask, await anyio.to_thread.run_sync(self.engine.prepare, ask, deadline)

    async def body(self, request: Request, deadline: float) -> bytes:
        """The request's body, as long as it keeps within the limits of size and time."""
        most = self.limits.max_body
        said = Refused(413, f"expected a body of at most {most:,} bytes", code="too_large")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise said
        held = bytearray()
        with anyio.move_on_after(max(0.0, deadline - time.monotonic())):
            async for part in request.stream():
                held += part
                if len(held) > most:
                    raise said
            return bytes(held)
        raise Refused(408, "the body did not come in time", code="timeout")

    def events(self, request: Request, job: ServerJob) -> asyncio.Queue[Any]:
        """The queue that everything goes into which the engine sends for a job, for as long as its client stays."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def send(event: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job.send = send
        request.scope["debias"]["job"] = job
        return events

    async def next(self, request: Request, job: ServerJob, events: asyncio.Queue[Any]) -> str | Done | Refused:
        """The next event of a job, unless the client leaves or the time is up."""
        event: Any = out_of_time()
        async with anyio.create_task_group() as group:

            async def left() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                job.gone = True
                group.cancel_scope.cancel()

            group.start_soon(left)
            with anyio.move_on_after(max(0.0, job.deadline - time.monotonic())):
                event = await events.get()
            group.cancel_scope.cancel()
        if job.gone:
            raise ClientDisconnect
        return event  # type: ignore[no-any-return]

    async def _pieces(
        self, name: str, job: ServerJob, events: asyncio.Queue[Any], first: str | Done
    ) -> AsyncIterator[str]:
        head = self._head(name, "chat.completion.chunk")

        def chunk(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return event({**head, "choices": [choice], **more})

        yield chunk({"role": "assistant", "content": ""})
        piece: Any = first
        while True:
            if isinstance(piece, Refused):
                yield event(piece.body())
                return
            if isinstance(piece, Done):
                break
            yield chunk({"content": piece})
            piece = out_of_time()
            with anyio.move_on_after(max(0.0, job.deadline - time.monotonic())):
                piece = await events.get()
        yield chunk({}, piece.finish, pruning=piece.pruning)
        if job.ask.usage:
            yield event({**head, "choices": [], "usage": usage(job, piece)})
        yield "data: [DONE]\n\n"

    # -- what goes wrong -----------------------------------------------------------------------------------------------
    async def _http_error(self, request: Request, error: Any) -> Response:
        said = {404: f"there is nothing at {request.url.path[:100]}", 405: f"{request.method} is not what is done here"}
        return refusal(Refused(error.status_code, said.get(error.status_code, str(error.detail))))

    async def _refused(self, request: Request, error: Any) -> Response:
        return refusal(error)

    async def _left(self, request: Request, error: Any) -> Response:
        return Response(status_code=499)  # which nobody reads


def usage(job: ServerJob, done: Done) -> dict[str, int]:
    """How many tokens a question and its answer have; the prompt with all of its visual tokens."""
    return {"prompt_tokens": job.prompt, "completion_tokens": done.tokens, "total_tokens": job.prompt + done.tokens}


def event(value: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value)}\n\n"
