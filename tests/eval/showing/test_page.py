"""report.html in a real Chromium: it opens without a word on the console, fetches nothing, filters, and enlarges."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from eval.cli import main

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def page(answered) -> Path:
    assert main(["report", str(answered.path), "--samples", "6", "--draws", "50"]) == 0
    return answered.path / "report.html"


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    opened.open(page.as_uri())
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


def test_the_summary_fits_a_phone(browser):
    widths = "(e => [e.scrollWidth, e.clientWidth])(document.querySelector('#summary .scroll'))"
    assert browser["innerWidth"] < 600
    needed, there = browser[widths]
    assert needed <= there
    assert browser["document.documentElement.scrollWidth <= innerWidth"]


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
