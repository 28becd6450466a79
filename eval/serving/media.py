"""Pictures and clips from the URLs of a request: data URLs, and those of hosts that whoever runs the server listed."""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image

from eval.reading.images import open_image
from eval.reading.sample import Sample
from eval.reading.video import read_frames
from eval.serving.limits import Limits
from eval.serving.protocol import Refused

DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+=-]+)*?)(;base64)?,", re.ASCII)
SECONDS = 10  # for a host to send a picture


def picture(url: str, where: str, limits: Limits, hosts: Collection[str] = ()) -> Image.Image:
    """The picture at a URL, as RGB, within the limits."""
    data = fetched(url, where, limits, hosts)
    try:
        return open_image(Sample(where, "", data), pixels=limits.max_pixels)
    except ValueError as error:
        raise Refused(400, str(error), where, "invalid_image") from None


def clip(url: str, where: str, limits: Limits, hosts: Collection[str] = ()) -> list[Image.Image]:
    """The frames of the clip at a URL. A process of its own decodes it (eval/reading/decoder.py)."""
    data = fetched(url, where, limits, hosts)
    with tempfile.TemporaryDirectory(prefix="debias-") as folder:
        path = Path(folder) / "clip"
        path.write_bytes(data)
        try:
            return read_frames(path)
        except ValueError as error:
            said = str(error).replace(str(path), where)
            raise Refused(400, said, where, "invalid_video") from None


def fetched(url: str, where: str, limits: Limits, hosts: Collection[str] = ()) -> bytes:
    """What stands behind a URL."""
    if url[:5].lower() == "data:":
        return _data(url, where)
    parts = _split(url, where)
    if parts.hostname not in hosts:
        taken = f"data URLs, and those of {', '.join(sorted(hosts))}" if hosts else "data URLs alone"
        raise Refused(400, f"{where}: this server takes {taken}", where, "url_not_allowed")
    return _from_host(parts, where, limits)


def _data(url: str, where: str) -> bytes:
    match = DATA.match(url[:200])
    if match is None:
        raise Refused(400, f"{where}: expected a data URL such as data:image/png;base64,...", where)
    body = url[match.end() :]
    try:
        return base64.b64decode(body, validate=True) if match[3] else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"{where}: the data URL is no base64 ({error})", where) from None


def _split(url: str, where: str) -> Any:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.username is None and parts.port != 0  # reading it checks it
    except ValueError:
        plain = False
    if not plain or not url.isprintable() or " " in url or not url.isascii():
        raise Refused(400, f"{where}: expected a data URL", where)
    return parts


def _from_host(parts: Any, where: str, limits: Limits) -> bytes:
    """One GET; redirects are refused, because their target is not on the list."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=SECONDS)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        reply = connection.getresponse()
        if reply.status != 200:
            raise Refused(400, f"{where}: {parts.hostname} answered with status {reply.status}", where)
        data = reply.read(limits.max_body + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Refused(400, f"{where}: {parts.hostname} did not answer ({type(error).__name__})", where) from None
    finally:
        connection.close()
    if len(data) > limits.max_body:
        raise Refused(413, f"{where}: expected at most {limits.max_body:,} bytes", where)
    return data
