"""The page of `demo` in a real Chromium: it asks by itself, follows the budget and the method, and fetches nothing."""

from __future__ import annotations

import base64
import http.client
import importlib
import io
import json
import re
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("openai", reason="needs the extra judge")

from eval.core.embedded import EMBEDDED
from eval.serving.demo import PANELS, Demo

load = importlib.import_module("crowd")  # pyproject.toml puts tests/eval/serving on pytest's path


@pytest.fixture(scope="module")
def base():
    engine = load.loaded()
    with load.running(engine, kind=Demo) as address:
        yield address


@pytest.fixture(scope="module")
def browser(base, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    found = Browser(tmp_path_factory.mktemp("profile"))
    found.open(base)
    yield found
    found.close()


def until(browser, script, seconds=60):
    end = time.monotonic() + seconds
    while not browser[script]:
        assert time.monotonic() < end, browser["document.body.innerText"]
        time.sleep(0.05)


SETTLED = "at('panels').className === '' && document.querySelectorAll('figure').length > 0"
ANSWERS = "Object.fromEntries([...document.querySelectorAll('figure')].map(f => [f.dataset.arm, f.innerText]))"


def posted(base, **more):
    data = load.body(load.url((EMBEDDED["image"].parent / "example.png").read_bytes()), **more)
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=120)
    connection.request("POST", PANELS, data, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


def test_panels_come_over_http(base):
    status, found = posted(base, keep=0.2, method="vispruner")
    assert status == 200
    assert [one["arm"] for one in found["arms"]] == ["unpruned", "none", "padding"]
    assert [one["kept"] for one in found["arms"]] == [144, 28, 28]
    shown = Image.open(io.BytesIO(base64.b64decode(found["arms"][2]["picture"].split(",")[1])))
    assert np.asarray(shown.convert("L"))[:20].max() < 40  # the border is dimmed where padding is silenced
    status, found = posted(base, keep=1000)
    assert (status, "144 tokens" in found["error"]["message"]) == (400, True)


def test_the_page_runs_its_own_script_alone(base):
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request("GET", "/")
    reply = connection.getresponse()
    policy, text = reply.headers["content-security-policy"], reply.read().decode()
    connection.close()
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert f'<script nonce="{nonce}">' in text
    assert "default-src 'none'" in policy
    assert not re.search(r"(src|href)=\"(?!data:)", text)


@pytest.mark.browser
def test_the_page_asks_and_shows_every_arm(browser):
    until(browser, SETTLED)
    answers = browser[ANSWERS]
    assert list(answers) == ["unpruned", "none", "trend", "padding", "both"]
    assert answers["padding"].startswith("red")
    assert answers["none"].startswith("unanswerable")
    assert "28 of 144 tokens" in answers["both"]
    assert browser["[...document.querySelectorAll('figure img')].every(i => i.naturalWidth > 100)"]
    loud = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    assert [event for event in browser.events if event.get("method") in loud] == []


@pytest.mark.browser
def test_budget_method_arms_and_pictures_can_be_changed(browser):
    until(browser, SETTLED)
    browser["(() => { at('keep').value = 50; at('keep').oninput() })()"]
    until(browser, "document.querySelector('figure[data-arm=both]')?.innerText.includes('72 of 144')")
    browser["(() => { at('method').value = 'visionzip'; at('method').onchange() })()"]
    until(browser, f"{SETTLED} && document.querySelectorAll('figure').length === 3")
    browser["document.querySelector('#arms input[value=none]').click()"]
    shown = "[...document.querySelectorAll('figure')].filter(f => !f.hidden).map(f => f.dataset.arm)"
    assert browser[shown] == ["unpruned", "padding"]
    # Another picture, dropped: no colour of the first one is left.
    out = io.BytesIO()
    Image.new("RGB", (60, 60), (0, 0, 250)).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    browser[
        f"""(() => {{
      const bytes = Uint8Array.from(atob('{data}'), c => c.charCodeAt(0)), moved = new DataTransfer()
      moved.items.add(new File([bytes], 'blue.png', {{type: 'image/png'}}))
      at('drop').dispatchEvent(new DragEvent('drop', {{dataTransfer: moved, bubbles: true, cancelable: true}}))
    }})()"""
    ]
    until(browser, f"shown.includes('{data[:40]}') && {SETTLED}")
    picture = browser["document.querySelector('figure[data-arm=unpruned] img').src"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).convert("RGB"))
    assert (pixels[..., 2] > 200).all()
    browser["(() => { at('question').value = ' '; document.forms[0].requestSubmit() })()"]
    until(browser, "at('said').className === 'wrong'")
    assert "no words" in browser["at('said').textContent"]


@pytest.mark.browser
def test_the_page_fits_a_phone(browser):
    assert browser["innerWidth <= 500 && document.documentElement.scrollWidth <= innerWidth"]
    edges = "[...document.querySelectorAll('form *')].map(e => e.getBoundingClientRect().right)"
    assert browser[f"Math.max(...{edges}) <= document.body.clientWidth - 15"]  # inside the page's own margin
