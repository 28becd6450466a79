"""A page in the browser on top of the server: drop a picture, ask, slide the budget, see what every arm keeps."""

from __future__ import annotations

import base64
import io
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from starlette.requests import Request as Call
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from eval.serving import media
from eval.serving.app import Server
from eval.serving.engine import Engine
from eval.serving.limits import LOCAL
from eval.serving.panels import in_arms, panels
from eval.serving.protocol import Ask, Refused, out_of_time
from pruners import catalogue
from pruners.models import Request
from pruners.models.request import asked
from tiny.drawn import world

PANELS = "/demo/panels"
EXAMPLE, QUESTION = 2_000_007_059, "What colour is the circle?"  # the scene of assets/example.png
HERE = Path(__file__).parent


class Demo(Server):
    """The server, and the page that asks it."""

    def __init__(self, engine: Engine, hosts: Collection[str] = LOCAL, key: str | None = None) -> None:
        super().__init__(engine, hosts, key)
        self.routes += [Route("/", self.page), Route(PANELS, self.panels, methods=["POST"])]
        self.costly.add(PANELS)

    async def page(self, call: Call) -> Response:
        """The page: one file, which runs its own script alone and asks nobody but this server."""
        nonce = secrets.token_urlsafe(16)
        settings = self.engine.pruned.chosen.settings
        page = Environment(loader=FileSystemLoader(HERE), autoescape=True).get_template("demo.html.jinja")
        text = page.render(
            nonce=nonce,
            model=self.engine.name,
            methods=catalogue.names(),
            method=settings.method,
            keep=settings.keep if isinstance(settings.keep, float) else 0.2,
            question=QUESTION,
            example=packed(world.draw(world.scene(EXAMPLE)), "PNG"),
            path=PANELS,
        )  # fmt: skip
        policy = (
            f"default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    async def panels(self, call: Call) -> Response:
        """The panels of all arms; the body is that of a question to the server."""
        # What the engine runs for a completion is a job, and so is this: it ends when its client leaves.
        ask, job = await self.asked(call)
        request = await anyio.to_thread.run_sync(self.request, ask)
        events = self.events(call, job)

        def draw() -> None:
            try:
                event: Any = self.drawn(ask, request, lambda: job.gone or job.late())
            except Refused as error:
                event = error
            except ValueError as error:
                event = Refused(400, str(error))
            except Exception as error:
                event = Refused(500, f"the answer failed ({type(error).__name__})")
            job.send(event)

        self.engine.call(draw)
        event: Any = await self.next(call, job, events)
        if isinstance(event, Refused):
            raise event
        return JSONResponse(event)

    def request(self, ask: Ask) -> Request:
        """The question with its picture or clip as they are, to be drawn."""
        read: dict[str, Any] = {"image": media.picture, "video": media.clip}
        if sum(kind in read for kind, _, _ in ask.parts) != 1:
            raise Refused(400, "expected one picture or one clip", "messages")
        place = self.limits, self.engine.hosts
        return asked([(k, read[k](url, where, *place) if k in read else url) for k, url, where in ask.parts])

    def drawn(self, ask: Ask, request: Request, over: Any) -> dict[str, Any]:
        """What every arm answers and keeps; runs on the engine's thread."""
        if over():
            raise out_of_time()
        begun, pruned = time.monotonic(), self.engine.chosen(ask.method, ask.keep, ask.arm)
        arms = []
        for panel in panels(in_arms(pruned), request, ask.max_tokens):
            facts = {**panel.facts(), "arm": panel.arm, "picture": packed(panel.picture, "WEBP")}
            arms.append({**facts, "kept": panel.tokens if panel.kept is None else len(panel.kept)})
            if over():
                raise out_of_time()
        return {"method": repr(pruned.chosen.pruner), "arms": arms, "seconds": time.monotonic() - begun}


def packed(picture: Image.Image, kind: str) -> str:
    """A picture as a data URL."""
    out = io.BytesIO()
    picture.save(out, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
