"""Loads a model and serves it until it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uvicorn

from eval.core.embedded import EMBEDDED, named
from eval.core.settings import Settings
from eval.core.tables import say
from eval.harnesses.pruned import Pruned
from eval.serving.app import Server
from eval.serving.demo import Demo
from eval.serving.engine import Engine
from eval.serving.limits import Limits, Place

GOODBYE = 10  # seconds that running requests have when the server is stopped


def engine(settings: Settings, limits: Limits, place: Place) -> Engine:
    """The model, loaded and ready to answer."""
    model = settings.model or str(EMBEDDED["image"])
    pruned = Pruned(settings)
    # A hub id is the model's name; of a folder, its last part, so that clients do not learn where it lies.
    name = Path(named(model)).name if Path(named(model)).is_dir() else model
    return Engine(pruned, limits, place.media, name)


def serve(settings: Settings, limits: Limits, place: Place) -> None:
    """Serve until a signal says stop."""
    start(Server, settings, limits, place, "{name} at {url}/v1, with {pruned}")


def demo(settings: Settings, limits: Limits, place: Place) -> None:
    """The same with the page for a browser."""
    start(Demo, settings, limits, place, "open {url} in a browser: {name}, with {pruned}")


def start(kind: type[Server], settings: Settings, limits: Limits, place: Place, said: str) -> None:
    """Load the model, say where it is, and listen."""
    key = place.secret()
    answering = engine(settings, limits, place)
    try:
        if not place.local() and key is None:
            say(f"{place.host} is reached from other machines, and anybody there may ask; see --key-variable")
        url = f"http://{f'[{place.host}]' if ':' in place.host else place.host}:{place.port}"
        pruned = f"{answering.pruned.chosen.pruner!r}, arm {answering.pruned.arm}"
        say(said.format(name=answering.name, url=url, pruned=pruned))
        uvicorn.Server(config(kind(answering, place.called(), key), place)).run()
    finally:
        answering.close()


def config(server: Server, place: Place) -> Any:
    """How uvicorn runs it: one process, log lines by our own exits, and no word about itself in the answers."""
    return uvicorn.Config(
        server,
        host=place.host,
        port=place.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=max(256, 4 * server.limits.max_requests),
        timeout_graceful_shutdown=GOODBYE,
    )
