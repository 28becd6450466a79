"""Where a server is, and what it allows clients to ask for. The fields are the flags of `serve`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass

from eval.core.settings import setting


@dataclass(frozen=True)
class Limits:
    """Bounds on one request, and on all of them together."""

    max_body: int = setting(20 << 20, "bytes of a request's body")
    max_pixels: int = setting(25_000_000, "pixels of a picture")
    max_pictures: int = setting(8, "pictures of one question")
    max_prompt: int = setting(8192, "tokens of a prompt, the visual ones among them")
    max_tokens: int = setting(1024, "tokens of an answer; a request that wants more is refused")
    max_requests: int = setting(64, "requests at once; more are sent away with status 429")
    timeout: float = setting(120.0, "seconds for a request, from its first byte to its last")
    batch_size: int = setting(8, "requests that are answered together")
    wait: float = setting(0.005, "seconds that a request waits for others to be answered with")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value < 1 and isinstance(value, int)):
                raise ValueError(f"{name}={value}: expected a number of at least {int(isinstance(value, int))}")


LOCAL = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Place:
    """Where a server is, and who may call it."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: Sequence[str] = ()  # further names under which it may be called; "*": any
    media: Sequence[str] = ()  # hosts whose pictures may be fetched
    key: str | None = None  # the environment variable with the key that clients have to know

    def secret(self) -> str | None:
        """The key itself."""
        if self.key is None:
            return None
        value = os.environ.get(self.key)
        if not value:
            raise ValueError(f"--key-variable {self.key}: there is no such environment variable, or it is empty")
        return value

    def called(self) -> list[str]:
        """The names under which the server may be called."""
        return [*LOCAL, self.host, f"[{self.host}]", *self.names]

    def local(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
