"""report.html in a real Chromium: it opens without a word on the console, fetches nothing, filters, and enlarges."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

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
    assert browser["document.title"] == "FastV"
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
    assert "12 of 12" in browser["document.getElementById('count').textContent"]
    choose = "(() => {{ const e = document.getElementById('{}'); e.{} = {}; e.onchange(); }})()"
    browser[choose.format("benchmark", "value", "'pope'")]
    assert browser[count] == 6
    browser[choose.format("flips", "checked", "true")]
    flipped = browser[count]
    assert 0 < flipped <= 6
    browser[choose.format("shape", "value", "'landscape'")]
    assert browser[count] < flipped
    assert browser["document.getElementById('count').textContent"] == f"{browser[count]} of {browser[count]}"
    for name, part, value in (("benchmark", "value", "''"), ("flips", "checked", "false"), ("shape", "value", "''")):
        browser[choose.format(name, part, value)]
    assert browser[count] == 12
    browser[choose.format("order", "value", "'plain'")]
    assert browser[count] == 12
    assert (
        0 < browser["cards.filter(c => !c.hidden && c.dataset.flip === '1').length"] < 12
    )  # not those that differ alone
    browser[choose.format("order", "value", "'first'")]
    assert "gained" in browser["document.body.textContent"]


def colours(browser, *places: tuple[float, float]) -> list[tuple[int, ...]]:
    """What the screen shows at places of the first picture, in shares of its width and height."""
    browser["document.querySelector('.picture').scrollIntoView({block: 'center'})"]
    box = browser["(({x, y, width}) => [x, y, width])(document.querySelector('.picture').getBoundingClientRect())"]
    shot = Image.open(io.BytesIO(base64.b64decode(browser("Page.captureScreenshot")["data"]))).convert("RGB")
    scale = shot.width / browser["innerWidth"]
    return [shot.getpixel((int(scale * (box[0] + x * box[2])), int(scale * (box[1] + y * box[2])))) for x, y in places]


def test_pictures_show_what_was_kept_and_can_be_enlarged(browser):
    kept, dropped = colours(browser, (0.45, 0.25), (0.45, 0.9))  # rows 1 and 5 of 6; 0-11 are kept
    assert max(dropped) < 0.25 * 255 < max(kept)
    width = "document.querySelector('.picture').clientWidth"
    before = browser[width]
    press = "document.querySelector('.picture').dispatchEvent(new {})"
    browser[press.format("MouseEvent('click', {bubbles: true})")]
    assert browser[width] > 1.5 * before
    browser[press.format("KeyboardEvent('keydown', {key: 'Enter', bubbles: true})")]
    assert browser[width] == before


def test_it_says_how_many_differ(browser):
    text = browser["document.body.textContent"]
    differ = browser["cards.filter(c => c.dataset.first === '1' && c.dataset.flip === '1').length"]
    assert f"{differ} of the 12 shown" in " ".join(text.split())
    assert "both beats none" in text or "cannot be told apart" in text


def test_figures_follow_dark_mode(browser):
    """The corner of the first figure is as light or as dark as the page."""

    def corner(mode):
        browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
        box = browser["(({x, y}) => [x, y + scrollY])(document.querySelector('.figures img').getBoundingClientRect())"]
        clip = {"x": box[0] + 2, "y": box[1] + 2, "width": 4, "height": 4, "scale": 1}
        shot = browser("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        return Image.open(io.BytesIO(base64.b64decode(shot))).convert("L").getpixel((1, 1))

    try:
        assert corner("light") > 200
        assert corner("dark") < 60
    finally:
        browser("Emulation.setEmulatedMedia", features=[])


def test_it_fits_a_phone(browser):
    assert browser["innerWidth <= 500 && document.documentElement.scrollWidth <= innerWidth"]
    # What is wider than the screen scrolls by itself.
    wide = "[...document.querySelectorAll('.scroll')].every(one => one.getBoundingClientRect().right <= innerWidth)"
    assert browser[wide]
    assert browser["parseFloat(getComputedStyle(document.querySelector('.question')).fontSize) >= 14"]


def test_on_paper_nothing_is_cut_off_and_pictures_are_there(browser):
    paper = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setEmulatedMedia", media="print")
    browser("Emulation.setDeviceMetricsOverride", **paper)
    try:
        assert browser["getComputedStyle(document.querySelector('.bar')).display"] == "none"
        assert browser["[...document.querySelectorAll('table, svg, img')].every(e => e.clientWidth <= innerWidth)"]
        kept, dropped = colours(browser, (0.45, 0.25), (0.45, 0.9))
        assert max(dropped) < 0.25 * 255 < max(kept)
        printed = base64.b64decode(browser("Page.printToPDF", printBackground=False)["data"])
        assert printed.startswith(b"%PDF")
        held = browser["document.querySelectorAll('.store image').length"]
        assert printed.count(b"/Subtype /Image") >= held >= 6  # every picture of a card, each once
    finally:
        browser("Emulation.setEmulatedMedia", media="")
        browser("Emulation.clearDeviceMetricsOverride")
