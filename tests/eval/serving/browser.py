"""A real Chromium for tests of pages, spoken to over a pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Chromium over a pipe: commands go in on descriptor 3, answers and events come out of 4, each ended by a zero."""

    def __init__(self, profile: Path) -> None:
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        # Both ends move out of the way before they become 3 and 4.
        ends = [os.dup2(to_read, 63), os.dup2(to_write, 64)]
        script = 'exec "$0" "$@" 3<&63 4>&64 63<&- 64>&-'
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                 f"--user-data-dir={profile}", "--window-size=390,800", "about:blank"]  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", script, CHROMIUM, *flags], pass_fds=ends, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self.number, self.events, self.rest = 0, [], b""
        page = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    session: str | None = None

    def __call__(self, method: str, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            found = self.message()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def message(self) -> dict:
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 16)
            assert part, "Chromium ended"
            self.rest += part
        whole, _, self.rest = self.rest.partition(b"\0")
        return json.loads(whole)

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def __getitem__(self, script: str):
        """The value of an expression in the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        os.close(self.to)
        self.process.terminate()
        self.process.wait(20)
        os.close(self.back)
