"""The parts of a judge without a server: what is sent, what is read, how long is waited, what is kept where."""

from __future__ import annotations

import fcntl
import importlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from eval.scoring import judge as judging
from eval.scoring.judge import TASKS, Answered, Cache, Judge, NoVerdict, Verdict, default_cache, verdict_in

URL = "http://127.0.0.1:1/v1"
http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])  # httpx or its heir


def test_the_wording_is_known_by_its_digest():
    """Another wording is another judge: its verdicts are asked for again, and its scores are not comparable."""
    assert {name: task.version for name, task in TASKS.items()} == {"mmvet": "9e819de4", "video": "a3957e61"}


def test_what_the_judge_is_shown():
    assert Answered("Who?", "Ann", "  Bob\n").text() == "Question: Who?\nReference answer: Ann\nAnswer to grade: Bob"
    assert Answered("Who?", "Ann", " ").text().endswith("\nAnswer to grade: (empty)")


def reply(text, model="judge-7"):
    return SimpleNamespace(model=model, choices=[SimpleNamespace(message=SimpleNamespace(content=text))])


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """A judge whose server says what `says` says; what it was sent is in `sent`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def create(**sent):
        judge.sent.append(sent)
        if isinstance(judge.says, Exception):
            raise judge.says
        return judge.says

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    hooks = []
    monkeypatch.setattr(openai, "OpenAI", lambda http_client, **made: client)
    monkeypatch.setattr(openai, "DefaultHttpxClient", lambda **made: hooks.append(made["event_hooks"]))
    judge = Judge(URL, "the model", tmp_path / "cache.jsonl", timeout=9)
    judge.hooks = hooks[0]
    judge.sent, judge.says = [], reply('{"score": 0.5}')
    return judge


def test_what_is_sent(judge):
    rules = TASKS["mmvet"]
    judge.ask("mmvet", Answered("Who?", "Ann", "Bob"))
    assert judge.sent == [
        {
            "model": "the model",
            "messages": [
                {"role": "system", "content": rules.system},
                {"role": "user", "content": "Question: Who?\nReference answer: Ann\nAnswer to grade: Bob"},
            ],
            "temperature": 0.0,
            "max_tokens": 64,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": rules.schema},
            },
        }
    ]


def test_what_is_taken_from_a_reply(judge):
    key = "(the key)"
    for said, expected in (
        (reply("x sk-secret y", "m sk-secret"), (f"m {key}", f"x {key} y")),
        (reply("x" * 3000, "m" * 200), ("m" * 100, "x" * 2000)),
        (reply(None, None), ("the model", "")),
        (reply("\ud800", "m"), ("m", "?")),
    ):
        judge.says = said
        assert judge._send(TASKS["mmvet"], "text", 0.0) == expected
    for said in (ValueError("no JSON"), SimpleNamespace(model="m", choices=[]), SimpleNamespace(model="m"),
                 SimpleNamespace(model="m", choices=[None]), SimpleNamespace(model="m", choices=None)):  # fmt: skip
        judge.says = said
        with pytest.raises(NoVerdict):
            judge._send(TASKS["mmvet"], "text", 0.0)


def test_a_key_that_is_not_set_hides_no_words(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Judge(URL, "m", tmp_path / "c.jsonl")
    assert (made.client.api_key, made._without_key("none of it")) == ("none", "none of it")


def test_what_a_judge_is_made_with(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER", "sk-other")
    made = Judge("http://me:word@127.0.0.1:1/v1", "m", tmp_path / "c.jsonl", "OTHER", timeout=7)
    assert (made.url, made.model, made.attempts, made.longest_wait) == ("http://me:word@127.0.0.1:1/v1", "m", 6, 60)
    assert made.shown_url == "http://127.0.0.1:1/v1"
    assert made.structured is True
    assert (made.client.api_key, made.client.timeout, made.client.max_retries) == ("sk-other", 7, 0)
    assert str(made.client.base_url) == "http://me:word@127.0.0.1:1/v1/"
    assert Judge(URL, "m", tmp_path / "c.jsonl").client.timeout == 60


def test_verdicts_are_kept_in_the_users_cache_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    path = default_cache("u", "m")
    assert path.parent == tmp_path / ".cache" / "debias" / "judge"
    assert path.name == "07a88cbe10cb7403.jsonl"
    assert Judge("u", "m").cache.path == path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert default_cache("u", "m") == tmp_path / "own" / "debias" / "judge" / path.name


def test_lines_of_a_cache(tmp_path):
    path = tmp_path / "very" / "deep" / "cache.jsonl"
    good = {"key": "a", "value": {"score": 1.0}, "reply": "r", "judge": "j"}
    Cache(path).put("a", Verdict(good["value"], "r", "j"))
    assert json.loads(path.read_text()) == good
    bad = ["[]", '{"key": "b"}', "[" * 100_000, "no JSON", "\xff"]
    path.write_bytes("\n".join([*bad, json.dumps({**good, "key": "c"}), ""]).encode("latin-1"))
    cache = Cache(path)
    assert [cache.get(key) for key in "abc"] == [None, None, Verdict(good["value"], "r", "j")]
    cache.put("d", Verdict(None, "r", "j"))
    assert b"\n\n" not in path.read_bytes()
    assert Cache(path).get("d") == cache.get("d") == Verdict(None, "r", "j")


def test_one_process_at_a_time_writes_into_a_cache(tmp_path, monkeypatch):
    cache, locked = Cache(tmp_path / "cache.jsonl"), []
    monkeypatch.setattr(fcntl, "flock", lambda file, how: locked.append((file.name, how, cache.path.stat().st_size)))
    cache.put("a", Verdict(None, "r", "j"))
    assert locked == [(str(cache.path), fcntl.LOCK_EX, 0)]  # before anything is written


@pytest.mark.parametrize("value", [{"score": 7}, {"score": "x"}, {"points": 1}, {"score": 0.55}, {"score": 1e999}, []])
def test_a_cached_verdict_that_is_none_is_asked_for_again(judge, value):
    asked = Answered("Who?", "Ann", "Bob")
    first = judge.ask("mmvet", asked)
    (key,) = judge.cache._found
    judge.cache._found[key] = Verdict(value, "", "")
    assert judge.ask("mmvet", asked) == first
    assert len(judge.sent) == 2


@pytest.mark.parametrize(
    ("task", "text", "value"),
    [
        ("mmvet", '{"score": 0}', {"score": 0}),
        ("mmvet", '{"score": 1}', {"score": 1}),
        ("mmvet", '{"score": "0.44"}', {"score": 0.4}),
        ("mmvet", '{"score": 1.01}', None),
        ("mmvet", '{"score": -0.01}', None),
        ("mmvet", '{"score": false}', None),
        ("mmvet", '{"score": []} {"score": 0.3}', {"score": 0.3}),
        ("mmvet", '{"a": {"score": 0.3}}', None),
        ("mmvet", '{{"score": 0.3}', {"score": 0.3}),
        ("mmvet", '{"x": 1}{"score": 0.3}', {"score": 0.3}),
        ("mmvet", "{" * 5000, None),
        ("video", '{"pred": " NO ", "score": "0"}', {"pred": "no", "score": 0}),
        ("video", '{"pred": "yes", "score": 5.9}', {"pred": "yes", "score": 5}),
        ("video", '{"pred": "yes", "score": 6}', None),
        ("video", '{"pred": "yes", "score": -1}', None),
        ("video", '{"pred": "yes", "score": Infinity}', None),
        ("video", '{"pred": "yes"}', None),
    ],
)
def test_verdicts_at_the_edges(task, text, value):
    if value is None:
        with pytest.raises(NoVerdict):
            verdict_in(TASKS[task], text)
    else:
        assert verdict_in(TASKS[task], text) == value


@pytest.mark.parametrize(
    ("asked", "attempt", "seconds"),
    [("7", 1, 7), ("1.5", 1, 1.5), ("99", 1, 60), ("soon", 1, 1), ("soon", 3, 4), ("", 7, 60), ("1e9", 2, 2)],
)
def test_how_long_is_waited(asked, attempt, seconds):
    error = RuntimeError()
    error.response = SimpleNamespace(headers={"retry-after": asked} if asked else {})
    state = SimpleNamespace(outcome=SimpleNamespace(exception=lambda: error), attempt_number=attempt)
    assert judging._wait(state, 60.0) == seconds
    del error.response  # the connection was lost
    assert judging._wait(state, 60.0) == min(60, 2 ** (attempt - 1))


class Parts(http.SyncByteStream):
    closed = False

    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return iter(self.parts)

    def close(self):
        self.closed = True


def bound(*parts, seconds=9.0):
    inner = Parts(*parts)
    response = http.Response(200, stream=inner)
    judging._bound(response, seconds)
    return response, inner


def test_a_reply_has_a_size_at_most(monkeypatch):
    assert judging.LONGEST_REPLY == 1 << 20
    monkeypatch.setattr(judging, "LONGEST_REPLY", 5)
    response, inner = bound(b"12", b"345")
    assert response.read() == b"12345"
    response.close()
    assert inner.closed
    with pytest.raises(http.RemoteProtocolError, match="more than 5 bytes"):
        bound(b"12", b"3456")[0].read()


def test_every_reply_is_bounded(judge, monkeypatch):
    monkeypatch.setattr(judging, "LONGEST_REPLY", 5)
    response = http.Response(200, stream=Parts(b"123456"))
    for hook in judge.hooks["response"]:
        hook(response)
    with pytest.raises(http.RemoteProtocolError, match="more than 5 bytes"):
        response.read()


def test_a_reply_has_a_time_to_end_in(monkeypatch):
    now = iter([100.0, 101.0, 109.0, 109.1])  # a clock that is looked at once, and after every part
    monkeypatch.setattr(judging, "time", SimpleNamespace(monotonic=lambda: next(now)))
    parts = iter(bound(b"1", b"2", b"3")[0].stream)
    assert [next(parts), next(parts)] == [b"1", b"2"]
    with pytest.raises(http.ReadTimeout, match="the reply did not end in time"):
        next(parts)


def test_a_judge_keeps_nothing_beside_its_cache(judge, tmp_path):
    judge.ask("mmvet", Answered("Who?", "Ann", "Bob"))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == [Path("cache.jsonl")]


def test_once_a_question_has_failed_no_other_is_begun(judge, monkeypatch):
    begun, gate = [], threading.Event()

    class Watched(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            gate.set()
            super().shutdown()

    def ask(task, question):
        begun.append(question)
        if question == 0:
            raise ValueError("the server is gone")
        gate.wait()  # the one that may have begun meanwhile

    monkeypatch.setattr(judging, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(judge, "ask", ask)
    with pytest.raises(ValueError, match="the server is gone"):
        judge.grade("mmvet", range(6), workers=1)
    assert begun in ([0], [0, 1])


def refused(kind, status):
    return kind("no", response=http.Response(status, request=http.Request("POST", URL)), body=None)


@pytest.mark.parametrize(
    ("error", "reason", "sent"),
    [
        (refused(openai.AuthenticationError, 401), "HTTP 401; 1 attempt). Is the key right?", 1),
        (refused(openai.NotFoundError, 404), "HTTP 404; 1 attempt).", 1),
        (refused(openai.BadRequestError, 400), "HTTP 400; 1 attempt).", 2),  # with a schema, and in words alone
    ],
)
def test_what_is_said_about_a_refusal(judge, error, reason, sent):
    judge.says = error
    with pytest.raises(ValueError, match="did not answer") as caught:
        judge.ask("mmvet", Answered("Who?", "Ann", "Bob"))
    assert str(caught.value) == (
        f"the judge the model at {URL} did not answer ({reason} What was graded so far is kept; "
        "start again to continue."
    )
    assert len(judge.sent) == sent


def test_a_reply_without_words_is_tried_again_after_a_while_and_is_no_verdict(judge, monkeypatch):
    waits = []
    monkeypatch.setattr(judging, "_wait", lambda state, longest: waits.append((state.attempt_number, longest)) or 0)
    judge.says, judge.attempts = SimpleNamespace(model="m", choices=[]), 3
    verdict = judge.ask("mmvet", Answered("Who?", "Ann", "Bob"))
    assert verdict == Verdict(None, "", f"the model (wording {TASKS['mmvet'].version})")
    assert waits[:2] == [(1, 60.0), (2, 60.0)]
    assert len(judge.sent) == 3
