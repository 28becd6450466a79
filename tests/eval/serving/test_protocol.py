"""What a request may say, and that everything else is refused by name in OpenAI's shape."""

from __future__ import annotations

import base64
import io
import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.serving import media
from eval.serving.limits import Limits, Place
from eval.serving.protocol import Refused, understood

LIMITS = Limits(max_tokens=100, max_pictures=2, max_pixels=10_000)
PLAIN = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}


def asked(**changes):
    return understood(json.dumps({**PLAIN, **changes}).encode(), LIMITS)


def test_a_plain_question_is_understood():
    ask = asked()
    assert ask.parts == (("text", "Why?", "messages[0].content[0]"),)
    assert (ask.max_tokens, ask.temperature, ask.stream, ask.method, ask.keep, ask.arm) == (100, 0, False, *[None] * 3)
    ask = asked(method="PDrop", keep=0.5, arm="after", max_completion_tokens=7, seed=3, user="me", n=1)
    assert (ask.method, ask.keep, ask.arm, ask.max_tokens, ask.seed) == ("pyramiddrop", 0.5, "both", 7, 3)
    assert asked(arm="unpruned").arm == "unpruned"


def test_what_a_system_message_says_stands_before_the_question():
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    content = [picture, {"type": "text", "text": "Why?"}]
    ask = asked(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}])
    assert [part[:2] for part in ask.parts] == [("text", "Be brief.\n"), ("image", "data:,"), ("text", "Why?")]


USER = {"role": "user", "content": "Why?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("changes", "said", "param"),
    [
        ({"model": 3}, "model: expected a string, found a whole number", "model"),
        ({"messages": None}, "messages: expected a list, found nothing", "messages"),
        ({"messages": []}, "expected one user message", "messages"),
        ({"messages": [USER, {"role": "assistant", "content": "So."}, USER]}, "single questions", "messages[1].role"),
        ({"messages": [USER, USER]}, "expected one user message", "messages"),
        ({"messages": [{"role": "user", "content": [PICTURE] * 3 + [{"type": "text", "text": "?"}]}]},
         "at most 2 pictures", "messages"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "no words", "messages"),
        ({"messages": [{"role": "system", "content": [PICTURE]}, USER]}, "of a user", "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "image_url or video_url",
         "messages[0].content[0].type"),
        ({"max_tokens": 101}, "at most 100", "max_tokens"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number of 1", "max_tokens"),
        ({"max_tokens": True}, "max_tokens: expected", "max_tokens"),
        ({"temperature": 3}, "temperature: expected a number of 0 to 2", "temperature"),
        ({"top_p": 0}, "above 0", "top_p"),
        ({"stream": 1}, "stream: expected true or false", "stream"),
        ({"n": 2}, "n is not supported", "n"),
        ({"tools": [{}]}, "tools is not supported", "tools"),
        ({"metod": "fastv"}, "did you mean method", "metod"),
        ({"method": "fastw"}, "did you mean fastv", "method"),
        ({"arm": "debiased"}, "none, trend, padding, both", "arm"),
        ({"keep": 1.5}, "keep: expected a count of at least 1 or a share below 1", "keep"),
        ({"keep": -1}, "keep: expected", "keep"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(changes, said, param):
    with pytest.raises(Refused) as found:
        asked(**changes)
    assert said in found.value.message
    assert found.value.status == 400
    assert found.value.body()["error"]["param"] == param
    assert found.value.body()["error"]["type"] == "invalid_request_error"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(string.printable, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "type", "text", "image_url", "url", "user", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from([*PLAIN, "stream", "keep", "arm", "seed", "top_p", "stop", "n"]), JSON))
def test_whatever_stands_in_a_body_it_is_understood_or_refused(changes):
    for body in (json.dumps({**PLAIN, **changes}).encode(), json.dumps(changes).encode()):
        refused = []
        try:
            understood(body, LIMITS)
        except Refused as error:
            refused.append(error)
        assert all(error.status == 400 and len(json.dumps(error.body())) < 2000 for error in refused)


@given(st.binary(max_size=60))
def test_whatever_bytes_come_they_are_no_crash(body):
    with pytest.raises(Refused):
        understood(body + b"[" * 50_000, LIMITS)


def data_url(picture, kind="png"):
    out = io.BytesIO()
    picture.save(out, kind)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def test_pictures_come_from_data_urls():
    picture = Image.new("RGB", (30, 20), (10, 200, 30))
    assert media.picture(data_url(picture), "p", LIMITS).tobytes() == picture.tobytes()
    assert media.fetched("data:text/plain,a%20b", "p", LIMITS) == b"a b"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (data_url(Image.new("RGB", (101, 100))), "at most 10,000 pixels"),
        (data_url(Image.new("RGB", (9, 9)))[:62], "'p': expected a"),
        ("data:image/png;base64,====", "no base64"),
        ("data:image/png", "expected a data URL"),
        ("https://example.org/a.png", "takes data URLs alone"),
        ("http://127.0.0.1:8000/metrics", "takes data URLs alone"),
        ("file:///etc/passwd", "expected a data URL"),
        ("/etc/passwd", "expected a data URL"),
        ("http://[::1", "expected a data URL"),
        ("", "expected a data URL"),
    ],
)
def test_other_pictures_are_refused_and_nothing_is_fetched(url, said, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("connected"))
    with pytest.raises(Refused) as found:
        media.picture(url, "p", LIMITS)
    assert said in found.value.message
    assert "passwd" not in found.value.message


def test_a_listed_host_is_asked_once_and_sends_nobody_elsewhere():
    import http.server
    import threading

    out = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(out, "PNG")

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response({"/a.png": 200, "/big": 200}.get(self.path, 302))
            self.send_header("Location", "http://other.example/a.png")
            self.end_headers()
            self.wfile.write(out.getvalue() if self.path == "/a.png" else b"x" * 3000)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{site.server_port}"
        assert media.picture(f"{base}/a.png", "p", LIMITS, ["127.0.0.1"]).size == (5, 5)
        for path, said in (("/elsewhere", "status 302"), ("/big", "at most 2,000 bytes")):
            with pytest.raises(Refused, match=said):
                media.fetched(f"{base}{path}", "p", Limits(max_body=2000), ["127.0.0.1"])
        with pytest.raises(Refused, match=r"and those of example\.org"):
            media.fetched(f"{base}/a.png", "p", LIMITS, ["example.org"])
        site.shutdown()


def test_limits_and_places_make_sense(monkeypatch):
    with pytest.raises(ValueError, match="max_pixels=0"):
        Limits(max_pixels=0)
    assert Place().local()
    assert Place("::1").local()
    assert not Place("0.0.0.0").local()
    monkeypatch.setenv("KEY", "secret")
    assert Place(key="KEY").secret() == "secret"
    with pytest.raises(ValueError, match="no such environment variable"):
        Place(key="NO_SUCH").secret()
