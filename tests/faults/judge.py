"""A real server that speaks OpenAI's chat protocol, more or less."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = '{"score": 0.5, "pred": "yes"}'  # a verdict of every task
LIES = ('{"score": 99}', '{"score": -1}', '{"score": NaN}', '{"score": "1e999"}', '{"score": [1]}', "the best answer!",
        '{"score": null}', "[" * 5000, '{"score": {"score": 1}}', "")  # fmt: skip


# What a server may send with status 200 that is no chat completion.
BODIES = {"page": b"<html>Welcome</html>", "list": b"[]", "null": b"null", "no choices": b'{"choices": []}',
          "cut": b'{"id": "1", "choices": [{"index": 0, "message": {"role": "assis'}  # fmt: skip


class LyingJudge:
    """`way` says what it does: right, hang, drip, drop, error, flood, echo, lie, or one of the BODIES."""

    def __enter__(self) -> LyingJudge:
        self.way, self.asked, self.closing = "right", 0, threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked += 1
                outer.answer(self, outer.way)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 64

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, to: Any, way: str) -> None:
        to.close_connection = True
        if way == "hang":
            self.closing.wait(60)
            return
        if way == "drop":
            to.connection.shutdown(socket.SHUT_RDWR)
            return
        if way == "error":
            return self.send(to, 500, {"error": {"message": f"no, {to.headers['Authorization']}"}})
        if way in BODIES:
            return self.send(to, 200, BODIES[way])
        content, model = GOOD, "judge-1"
        if way == "lie":
            content = LIES[self.asked % len(LIES)]
        elif way == "echo":
            content = model = f"you are {to.headers['Authorization']}"
        message = {"role": "assistant", "content": content}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": model,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
        try:
            if way in ("drip", "flood"):
                to.send_response(200)
                to.send_header("Content-Type", "application/json")
                to.end_headers()
                self.trickle(to, way)
            else:
                self.send(to, 200, body)
        except OSError:
            pass  # the other side had enough

    def trickle(self, to: Any, way: str) -> None:
        """One byte now and then, or more than anybody can hold."""
        end = time.monotonic() + 60
        while time.monotonic() < end and not self.closing.is_set():
            to.wfile.write(b" " if way == "drip" else b" " * 65536)
            to.wfile.flush()
            if way == "drip":
                self.closing.wait(0.2)

    def send(self, to: Any, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Connection", "close")
        to.send_header("Content-Length", str(len(data)))
        to.end_headers()
        to.wfile.write(data)
