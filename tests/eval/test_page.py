"""report.html in a real Chromium: it opens without a word on the console, fetches nothing, filters, and enlarges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


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

    def open(self, path: Path) -> None:
        self("Page.navigate", url=path.as_uri())
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


@pytest.fixture(scope="module")
def page(answered) -> Path:
    assert main(["report", str(answered.path), "--samples", "6", "--draws", "50"]) == 0
    return answered.path / "report.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    opened.open(page)
    yield opened
    opened.close()


def test_it_opens_in_silence_and_fetches_nothing(browser, page):
    assert browser["document.title"] == "FastV(keep=16)"
    loud = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    assert [event for event in browser.events if event.get("method") in loud] == []
    asked = {event["params"]["request"]["url"].split(":")[0] for event in browser.events
             if event.get("method") == "Network.requestWillBeSent"}  # fmt: skip
    assert asked <= {"file", "data"}
    assert browser["document.querySelectorAll('script').length"] == 1
    assert browser["[...document.querySelectorAll('.figures img')].every(i => i.naturalWidth > 100)"]


def test_filters(browser):
    count = "[...document.querySelectorAll('.card')].filter(c => !c.hidden).length"
    assert browser[count] == 12
    choose = "(() => {{ const e = document.getElementById('{}'); e.{} = {}; e.onchange(); }})()"
    browser[choose.format("benchmark", "value", "'pope'")]
    assert browser[count] == 6
    browser[choose.format("flips", "checked", "true")]
    flipped = browser[count]
    assert 0 < flipped <= 6
    browser[choose.format("shape", "value", "'landscape'")]
    assert browser[count] < flipped
    assert browser["document.getElementById('count').textContent"] == f"{browser[count]} of 12"
    for name, part, value in (("benchmark", "value", "''"), ("flips", "checked", "false"), ("shape", "value", "''")):
        browser[choose.format(name, part, value)]
    assert browser[count] == 12
    assert "gained" in browser["document.body.textContent"]


def test_pictures_show_what_was_kept_and_can_be_enlarged(browser):
    browser["document.querySelector('canvas').scrollIntoView()"]
    browser["new Promise(done => setTimeout(done, 500))"]
    pixel = "(canvas => Math.max(...canvas.getContext('2d').getImageData({}, {}, 1, 1).data.slice(0, 3)))"
    canvas = "(document.querySelector('canvas'))"
    kept, dropped = (browser[pixel.format(120, y) + canvas] for y in (60, 260))  # rows 1 and 5 of 6; 0-11 are kept
    assert dropped < 0.25 * 255 < kept
    width = "document.querySelector('canvas').clientWidth"
    before = browser[width]
    browser["document.querySelector('canvas').click()"]
    assert browser[width] > 1.5 * before


def test_it_fits_a_phone(browser):
    assert browser["document.documentElement.scrollWidth <= innerWidth"]
