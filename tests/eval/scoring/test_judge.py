"""The judge against a real local server that speaks the protocol, also when that server misbehaves."""

import argparse
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eval.commands import flags
from eval.scoring import judge as judging
from eval.scoring.judge import TASKS, Answered, Cache, Judge, Verdict, default_cache, judge_ids

KEY = "sk-very-secret"
GOOD = '{"score": 0.5}'


class Server:
    """Answers chat completions from a script of actions; the last one repeats."""

    def __init__(self):
        self.script, self.requests, self.lock = [GOOD], [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append(
                        {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}
                    )
                    action = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if action == "drop":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if action == "silence":
                    self.connection.recv(1)  # until the other side hangs up
                    self.close_connection = True
                    return
                status, headers = 200, {}
                if isinstance(action, tuple):
                    status, action, headers = action
                reply = {"error": {"message": f"no, {KEY}", "type": "x"}}
                if status == 200:
                    message = {"role": "assistant", "content": action}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    reply = {
                        "id": "1",
                        "object": "chat.completion",
                        "created": 1,
                        "model": "judge-2026",
                        "choices": [choice],
                    }
                data = action.encode() if action == "<html>" else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def running():
    server = Server()
    yield server
    server.http.shutdown()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running.script, running.requests = [GOOD], []
    return running


def judge(server, tmp_path, **more):
    timeout = 1.5 if "silence" in server.script else 30
    return Judge(server.url, "judge", tmp_path / "cache.jsonl", timeout=timeout, longest_wait=0.01, **more)


ASKED = Answered("What is x?", "5 <AND> 7", "x is 5")


def test_a_good_reply_is_a_verdict_with_its_judge(server, tmp_path):
    verdict = judge(server, tmp_path).ask("mmvet", ASKED)
    assert verdict.value == {"score": 0.5}
    assert verdict.judge == f"judge-2026 (wording {TASKS['mmvet'].version})"
    sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["headers"]["authorization"] == f"Bearer {KEY}"
    assert sent["body"]["temperature"] == 0
    assert sent["body"]["response_format"]["json_schema"]["schema"]["required"] == ["score"]
    for part in ("What is x?", "5 <AND> 7", "x is 5"):
        assert part in sent["body"]["messages"][1]["content"]


def test_verdicts_are_cached_on_disk_by_all_that_matters(server, tmp_path):
    first = judge(server, tmp_path).ask("mmvet", ASKED)
    again = judge(server, tmp_path)  # a new process would start like this
    assert again.ask("mmvet", ASKED) == first
    assert len(server.requests) == 1
    for other in (
        Answered("What is y?", "5 <AND> 7", "x is 5"),
        Answered("What is x?", "5", "x is 5"),
        Answered("What is x?", "5 <AND> 7", "7"),
    ):
        again.ask("mmvet", other)
    assert len(server.requests) == 4
    Judge(server.url, "another", tmp_path / "cache.jsonl").ask("mmvet", ASKED)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "trouble",
    [
        "I would say it is about right",
        '{"score": "high"}',
        '{"score": 7}',
        '{"points": 1}',
        "",
        "<html>",
        "drop",
        "silence",
        (500, "", {}),
        (503, "", {}),
        (429, "", {"retry-after": "0"}),
    ],
)
def test_trouble_is_tried_again(server, tmp_path, trouble):
    server.script = [trouble, trouble, GOOD]
    assert judge(server, tmp_path).ask("mmvet", ASKED).value == {"score": 0.5}
    assert len(server.requests) == 3


def test_a_garbled_reply_is_asked_for_at_another_temperature(server, tmp_path):
    server.script = ["garbage", GOOD]
    judge(server, tmp_path).ask("mmvet", ASKED)
    assert [request["body"]["temperature"] for request in server.requests] == [0, 0.5]


def test_garbage_for_ever_is_no_verdict_and_is_asked_for_again(server, tmp_path):
    server.script = ["garbage"]
    verdict = judge(server, tmp_path, attempts=3).ask("mmvet", ASKED)
    assert verdict.value is None
    assert verdict.reply == "garbage"
    assert len(server.requests) == 3
    assert not (tmp_path / "cache.jsonl").exists()
    server.script = [GOOD]
    assert judge(server, tmp_path).ask("mmvet", ASKED).value == {"score": 0.5}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ((500, "", {}), "HTTP 500"),
        ((429, "", {}), "HTTP 429"),
        ("drop", "APIConnectionError"),
        ("silence", "APITimeoutError"),
    ],
)
def test_a_server_that_stays_away_is_an_error_without_secrets(server, tmp_path, trouble, reason, caplog):
    server.script = [trouble]
    with pytest.raises(ValueError, match="did not answer") as error:
        judge(server, tmp_path, attempts=2).ask("mmvet", ASKED)
    assert f"{reason}; 2 attempts" in str(error.value)
    assert KEY not in str(error.value) + caplog.text
    assert len(server.requests) == 2
    assert error.value.__cause__ is None


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_not_tried_again(server, tmp_path, status):
    server.script = [(status, "", {})]
    with pytest.raises(ValueError, match=f"HTTP {status}") as error:
        judge(server, tmp_path).ask("mmvet", ASKED)
    assert len(server.requests) == 1
    assert "; 1 attempt)" in str(error.value)
    assert ("key" in str(error.value)) == (status != 404)
    assert KEY not in str(error.value)


def test_a_server_without_schemas_is_asked_in_words(server, tmp_path):
    server.script = [(400, "", {}), f"```json\n{GOOD}\n```"]
    asked = judge(server, tmp_path)
    assert asked.ask("mmvet", ASKED).value == {"score": 0.5}
    asked.ask("mmvet", Answered("a", "b", "c"))
    assert ["response_format" in request["body"] for request in server.requests] == [True, False, False]


def test_what_was_graded_before_the_server_died_is_kept(server, tmp_path):
    questions = [Answered(f"q{i}", "a", "b") for i in range(6)]
    server.script = [GOOD, GOOD, GOOD, (401, "", {})]
    with pytest.raises(ValueError, match="What was graded so far is kept"):
        judge(server, tmp_path).grade("mmvet", questions, workers=1)
    server.script, before = [GOOD], len(server.requests)
    assert [v.value for v in judge(server, tmp_path).grade("mmvet", questions)] == [{"score": 0.5}] * 6
    assert len(server.requests) - before == 3


def test_grades_come_in_the_order_of_the_questions(server, tmp_path):
    server.script = ['{"pred": "yes", "score": 5}']
    verdicts = judge(server, tmp_path).grade("video", [Answered(str(i), "a", "b") for i in range(20)])
    assert [v.value for v in verdicts] == [{"pred": "yes", "score": 5}] * 20
    assert judge_ids(verdicts) == [f"judge-2026 (wording {TASKS['video'].version})"]


@pytest.mark.parametrize(
    ("task", "reply", "value"),
    [
        ("video", '{"pred": "Yes", "score": 4}', {"pred": "yes", "score": 4}),
        ("video", "{\"pred\": \"no\", \"score\": 4.8}", {"pred": "no", "score": 4}),
        ("video", '{"pred": "maybe", "score": 4}', None),
        ("video", '{"pred": "yes", "score": 9}', None),
        ("video", "{'pred': 'yes', 'score': 4}", None),
        ("mmvet", 'Sure! {"score": 1.0} Bye.', {"score": 1.0}),
        ("mmvet", '{"score": true}', None),
        ("mmvet", '{"score": NaN}', None),
    ],
)  # fmt: skip
def test_what_counts_as_a_verdict(server, tmp_path, task, reply, value):
    server.script = [reply]
    assert judge(server, tmp_path, attempts=1).ask(task, ASKED).value == value


def test_nothing_on_disk_holds_the_key(server, tmp_path):
    judge(server, tmp_path).ask("mmvet", ASKED)
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert written
    assert not any(KEY in text for text in written)


def test_a_torn_cache_line_is_forgotten_and_written_behind(tmp_path):
    path = tmp_path / "cache.jsonl"
    cache = Cache(path)
    cache.put("a", Verdict({"score": 1}, "r", "j"))
    with open(path, "a") as file:
        file.write('{"key": "b", "val')
    again = Cache(path)
    assert again.get("a") == Verdict({"score": 1}, "r", "j")
    assert again.get("b") is None
    again.put("c", Verdict(None, "r", "j"))
    assert Cache(path).get("c") == Verdict(None, "r", "j")


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache("u", "m").is_relative_to(tmp_path)
    assert default_cache("u", "m") != default_cache("u", "n")


def arguments(*words):
    parser = argparse.ArgumentParser()
    flags.judging(parser)
    return parser.parse_args(words)


def test_a_judge_is_asked_for_by_two_flags(tmp_path):
    assert judging.judge_of(flags.judge(arguments())) is None
    for words in (["--judge-url", "http://127.0.0.1:1/v1"], ["--judge-model", "m"]):
        with pytest.raises(ValueError, match="a judge needs both --judge-url and --judge-model"):
            judging.judge_of(flags.judge(arguments(*words)))


def test_flags_reach_the_judge(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(judging, "Judge", lambda *args, **more: asked.append((args, more)) or "judge")
    both = ["--judge-url", "u", "--judge-model", "m"]
    assert judging.judge_of(flags.judge(arguments(*both))) == "judge"
    more = ["--judge-cache", "c.jsonl", "--judge-key-variable", "K", "--judge-timeout", "7"]
    judging.judge_of(flags.judge(arguments(*both, *more)))
    assert asked == [
        (("u", "m", None, "OPENAI_API_KEY"), {"timeout": 60.0}),
        (("u", "m", Path("c.jsonl"), "K"), {"timeout": 7.0}),
    ]


def test_a_judge_without_its_packages_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match="needs the packages openai and tenacity: pip install"):
        Judge("http://127.0.0.1:1/v1", "m", None)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_asked_form_is_an_object_with_all_its_fields(task):
    form = task.schema
    assert (form["type"], form["additionalProperties"]) == ("object", False)
    assert form["required"] == list(form["properties"])
