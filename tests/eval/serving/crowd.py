"""A crowd of clients with faults among them: is every request answered, and each about its own picture?

    python tests/eval/serving/crowd.py --requests 1000 --clients 16

Some pictures are broken or too large, some bodies are no JSON or too long, some clients leave in the middle of a
request or of an answer. Every picture has one answer and one set of kept tokens, which are computed beforehand by the
model alone.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import openai
import uvicorn
from PIL import Image

from eval.answering.store import decode
from eval.core.settings import Settings
from eval.harnesses.pruned import Pruned
from eval.serving.app import Server
from eval.serving.engine import Engine
from eval.serving.limits import Limits, Place
from eval.serving.start import config
from pruners.models import Request
from tiny.drawn import world

MODEL, PATH = "tiny-llava", "/v1/chat/completions"
LIMITS = Limits(max_body=200_000, max_pixels=200_000, max_tokens=64, timeout=60)
ARMS = ("none", "both")
QUESTION = "What colour is the circle?"
# What clients do, and how often out of a hundred.
DEEDS = {"whole": 48, "stream": 20, "broken": 8, "too large": 5, "too long": 5, "no JSON": 4, "leave early": 4,
         "leave late": 4, "leave a stream": 2}  # fmt: skip


@contextmanager
def running(engine, kind=Server):
    """A server around an engine, on a free port: its address."""
    server = uvicorn.Server(config(kind(engine), Place(port=0)))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        engine.close()


def loaded(limits=LIMITS, keep=0.2):
    """An engine on the embedded model."""
    return Engine(Pruned(Settings("fastv", keep=keep, arms=("both",), device="cpu")), limits, name=MODEL)


def png(picture):
    """The bytes of a picture's PNG file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def url(data):
    """A data: address that holds a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def messages(address, text=QUESTION):
    """One user's message: the picture at an address, then the question."""
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}},
                                         {"type": "text", "text": text}]}]  # fmt: skip


def body(address, **more):
    """A request in JSON, about the picture at an address; `more` are further fields of it."""
    return json.dumps({"model": MODEL, "messages": messages(address), **more}).encode()


def post(base, data, headers=None):
    """Status and JSON of one POST."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=120)
    try:
        connection.request("POST", PATH, data, {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def left(base, data, sent, wait):
    """Send `sent` bytes of a request, wait, and hang up."""
    host, port = urlsplit(base).netloc.split(":")
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(head.encode() + data[:sent])
        time.sleep(wait)


class Crowd:
    """Clients that share the pictures and what has to come of them."""

    def __init__(self, engine, base, pictures=12):
        self.base, self.found, self.wrong = base, Counter(), []
        shown = [world.draw(world.scene(7_000_000 + number)) for number in range(pictures)]
        self.urls = [url(png(picture)) for picture in shown]
        self.truth = {}
        for arm in ARMS:
            alone = engine.pruned.beside(arms=(arm,))
            for number, picture in enumerate(shown):
                answer = alone([Request(QUESTION, [picture])], 16)[0]
                self.truth[number, arm] = (answer.text, decode(answer.kept[0]["kept"][0]))
        assert len({tuple(kept) for _, kept in self.truth.values()}) > pictures  # they can be told apart
        self.large = url(png(Image.new("RGB", (1000, 300))))

    def client(self, seed, count):
        """One client's requests, one after the other."""
        rng = random.Random(seed)
        with openai.OpenAI(base_url=f"{self.base}/v1", api_key="none", max_retries=0, timeout=120) as client:
            for number in range(count):
                deed = rng.choices(list(DEEDS), list(DEEDS.values()))[0]
                try:
                    said = self.do(deed, rng, client)
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                self.found[deed] += 1
                if said:
                    self.wrong.append(f"client {seed}, request {number}, {deed}: {said}"[:400])

    def do(self, deed, rng, client):
        """One deed; what went wrong, or None."""
        number, arm = rng.randrange(len(self.urls)), rng.choice(ARMS)
        data = body(self.urls[number], arm=arm, stream=deed == "leave a stream")
        if deed in ("whole", "stream"):
            return self.ask(client, number, arm, deed == "stream")
        if deed == "leave early":
            return left(self.base, data, len(data) // 2, rng.random() / 20)
        if deed in ("leave late", "leave a stream"):
            return left(self.base, data, len(data), rng.random() / 10)
        broken = base64.b64decode(self.urls[number].split(",")[1])[: rng.randrange(10, 200)]
        sent, expected = {
            "broken": (body(url(broken)), 400),
            "too large": (body(self.large), 400),
            "too long": (body(self.urls[number], user="x" * LIMITS.max_body), 413),
            "no JSON": (data[: rng.randrange(len(data))], 400),
        }[deed]
        status, reply = post(self.base, sent)
        if status != expected or set(reply["error"]) != {"message", "type", "param", "code"}:
            return f"status {status}, {reply}"
        return None

    def ask(self, client, number, arm, stream):
        """Ask about a picture by OpenAI's own client; returns what is wrong with the answer, or None."""
        wanted = {"model": MODEL, "messages": messages(self.urls[number]), "max_tokens": 16}
        extra = {"arm": arm, "return_kept": True}
        if stream:
            parts = list(client.chat.completions.create(**wanted, stream=True, extra_body=extra))
            text = "".join(part.choices[0].delta.content or "" for part in parts)
            pruning = parts[-1].model_extra["pruning"]
        else:
            reply = client.chat.completions.create(**wanted, extra_body=extra)
            text, pruning = reply.choices[0].message.content, reply.model_extra["pruning"]
        got = (text, pruning["pictures"][0]["kept"][0])
        return (
            None if got == self.truth[number, arm] else f"picture {number}, {arm}: {got} for {self.truth[number, arm]}"
        )


def load(engine, base, requests, clients, seed=0):
    """Everything that went wrong, how often each deed was done, and how long it took."""
    crowd = Crowd(engine, base)
    shares = [requests // clients + (number < requests % clients) for number in range(clients)]
    begun, before = time.monotonic(), engine.metrics.value("requests_total", path=PATH, status="200")
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(crowd.client, seed + n, share) for n, share in enumerate(shares)]:
            done.result()
    took, end = time.monotonic() - begun, time.monotonic() + 20
    while engine.metrics.value("requests_running") and time.monotonic() < end:
        time.sleep(0.05)
    good = crowd.found["whole"] + crowd.found["stream"]
    answered = engine.metrics.value("requests_total", path=PATH, status="200") - before
    # Who left may have been answered before.
    most = good + sum(count for deed, count in crowd.found.items() if deed.startswith("leave"))
    if not good <= answered <= most:
        crowd.wrong.append(f"{answered} answers for {good} questions")
    if engine.metrics.value("requests_running") or engine.waiting or not engine.alive:
        crowd.wrong.append("requests are still running")
    if sum(crowd.found.values()) != requests:
        crowd.wrong.append(f"{crowd.found} is not {requests}")
    return crowd.wrong, dict(crowd.found), took


def main():
    """Serve the embedded model to a crowd and print what it did; status 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    engine = loaded()
    with running(engine) as base:
        wrong, found, took = load(engine, base, args.requests, args.clients, args.seed)
        sizes = [line for line in engine.metrics.text().splitlines() if "batch_size_" in line and "bucket" not in line]
        statuses = [line for line in engine.metrics.text().splitlines() if line.startswith("debias_requests_total")]
    print(f"{args.requests} requests of {args.clients} clients in {took:.1f} s: {found}")
    print("\n".join([*sizes, *statuses, f"{len(wrong)} wrong", *wrong[:20]]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
