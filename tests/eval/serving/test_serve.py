"""The server as clients see it: the official client, a crowd with faults among it, limits, and who may call."""

from __future__ import annotations

import http.client
import importlib
import json
import threading
import time
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
openai = pytest.importorskip("openai", reason="needs the extra judge")

from eval.cli import main  # noqa: E402
from eval.core.embedded import EMBEDDED  # noqa: E402
from eval.serving.engine import Done, GrowingRows, ServerJob  # noqa: E402
from eval.serving.limits import Limits  # noqa: E402
from eval.serving.protocol import Ask, Refused  # noqa: E402
from pruners.models import Request  # noqa: E402
from tiny.layouts.media import write_video  # noqa: E402

load = importlib.import_module("crowd")  # pyproject.toml puts tests/eval/serving on pytest's path
EXAMPLE = load.url((EMBEDDED["image"].parent / "example.png").read_bytes())


@pytest.fixture(scope="module")
def engine():
    return load.loaded()


@pytest.fixture(scope="module")
def base(engine):
    with load.running(engine) as address:
        yield address


@pytest.fixture(scope="module")
def client(base):
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def ask(client, text=load.QUESTION, address=EXAMPLE, extra=None, **more):
    return client.chat.completions.create(
        model=load.MODEL, messages=load.messages(address, text), extra_body=extra, **more
    )


def test_the_official_client_gets_answers_and_kept_tokens(client, engine):
    assert [model.id for model in client.models.list()] == [load.MODEL]
    assert client.models.retrieve(load.MODEL).owned_by == "debias"
    for arm, answer in (("none", "unanswerable"), ("padding", "red"), ("unpruned", "red")):
        reply = ask(client, extra={"arm": arm, "return_kept": True})
        assert reply.choices[0].message.content == answer
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert reply.usage.prompt_tokens > 144
        pruning = reply.model_extra["pruning"]
        assert (pruning["arm"], pruning["visual_tokens"]) == (arm, 144)
        assert [len(one["kept"][0]) for one in pruning["pictures"]] == ([] if arm == "unpruned" else [28])
    plain = ask(client).model_extra["pruning"]
    assert plain["arm"] == "both"  # as the server was started
    assert "kept" not in plain["pictures"][0]
    other = ask(client, extra={"method": "vispruner", "keep": 20}).model_extra["pruning"]
    assert (other["arm"], other["pictures"][0]["after"]) == ("padding", [20])
    assert other["method"].startswith("VisPruner(keep=20")


def test_a_stream_says_the_same_as_a_whole_answer(client):
    question = "List every object: its colour and its shape."
    whole = ask(client, question, extra={"return_kept": True}, max_tokens=24)
    parts = list(ask(client, question, extra={"return_kept": True}, max_tokens=24, stream=True,
                     stream_options={"include_usage": True}))  # fmt: skip
    assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == whole.choices[0].message.content
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert parts[-2].model_extra["pruning"] == whole.model_extra["pruning"]
    assert parts[-1].usage == whole.usage
    assert sum(bool(part.choices[0].delta.content) for part in parts[:-1]) >= min(3, whole.usage.completion_tokens - 1)


def test_an_answer_has_at_most_the_tokens_that_were_asked_for(client):
    reply = ask(client, max_tokens=1, temperature=1.5, seed=3)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (1, "length")


def test_a_seed_repeats_a_sampled_answer(client):
    drawn = {ask(client, max_tokens=12, temperature=2, seed=seed).choices[0].message.content for seed in [5] * 3}
    assert len(drawn) == 1
    others = {ask(client, max_tokens=12, temperature=2, seed=seed).choices[0].message.content for seed in range(6)}
    assert len(others) > 1


def test_questions_without_a_picture_and_with_two_are_answered(client):
    reply = client.chat.completions.create(
        model=load.MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert reply.model_extra["pruning"]["pictures"] == []
    picture = load.messages(EXAMPLE)[0]["content"][0]
    content = [picture, {"type": "text", "text": "Is"}, picture, {"type": "text", "text": "the same?"}]
    reply = client.chat.completions.create(
        model=load.MODEL, messages=[{"role": "user", "content": content}], max_tokens=4
    )
    assert len(reply.model_extra["pruning"]["pictures"]) == 2


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"extra": {"method": "vispruner", "arm": "trend"}}, "BadRequestError", "no trend to divide by"),
        ({"extra": {"keep": 1000}}, "BadRequestError", "144 tokens"),
        ({"extra": {"keeep": 0.2}}, "BadRequestError", "did you mean keep"),
        ({"text": "Say <image> twice"}, "BadRequestError", "cannot stand in a text"),
        ({"text": "</s> and on"}, "BadRequestError", "cannot stand in a text"),
        ({"text": "word " * 9000}, "BadRequestError", "at most 8192"),
        ({"address": "https://example.org/cat.png"}, "BadRequestError", "data URLs alone"),
        ({"max_tokens": 65}, "BadRequestError", "at most 64"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_the_client_knows(client, changes, kind, said):
    with pytest.raises(openai.APIStatusError) as found:
        ask(client, **changes)
    assert type(found.value).__name__ == kind
    assert said in str(found.value)


def test_another_model_and_another_path_are_not_there(client, base):
    with pytest.raises(openai.NotFoundError, match="tiny-llava"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(openai.NotFoundError, match="nothing at /v1/embeddings"):
        client.embeddings.create(model="m", input="x")
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request("GET", load.PATH)
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]["type"]) == (405, "invalid_request_error")
    connection.close()


def test_pages_of_other_sites_cannot_ask(base):
    """A browser sends another site's name as the host, or may send JSON only under a type that needs no permission."""
    data = load.body(EXAMPLE)
    assert load.post(base, data, {"Host": "evil.example"})[0] == 421
    assert load.post(base, data, {"Content-Type": "text/plain"})[0] == 415
    assert load.post(base, data, {"Host": "localhost:1"})[0] == 200


def test_a_crowd_with_faults_in_it_is_answered(engine, base):
    wrong, found, _ = load.load(engine, base, 48, 8, seed=3)
    assert not wrong
    assert found["whole"] + found["stream"] >= 20
    assert len(found) >= 7


def test_health_and_metrics(base, client):
    ask(client)
    host = urlsplit(base).netloc
    connection = http.client.HTTPConnection(host)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok", "waiting": 0}
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values[f'debias_requests_total{{path="{load.PATH}",status="200"}}']) >= 1
    assert 0 < float(values["debias_visual_tokens_kept_total"]) < float(values["debias_visual_tokens_total"])
    assert values['debias_batch_size_bucket{le="+Inf"}'] == values["debias_batch_size_count"]
    counts = [float(value) for name, value in values.items() if name.startswith("debias_request_seconds_bucket")]
    assert counts == sorted(counts)


class Fake:
    """An engine's clients without HTTP: jobs whose events are kept."""

    def __init__(self, engine, text=load.QUESTION, **asked):
        message = ("image", EXAMPLE, "p"), ("text", text, "t")
        given = {"model": load.MODEL, "parts": message, "max_tokens": 8, **asked}
        self.job = engine.prepare(Ask(**given), time.monotonic() + 60)
        self.events, self.over = [], threading.Event()
        self.job.send = self.take

    def take(self, event):
        self.events.append(event)
        if not isinstance(event, str):
            self.over.set()

    def end(self):
        assert self.over.wait(60)
        return self.events[-1]


def test_equal_wishes_are_answered_together_and_others_apart(engine):
    before = engine.metrics.text().count("\n"), engine.metrics._seen["batch_size"][:]
    gate = threading.Event()
    engine.call(gate.wait)  # nobody is answered until all have come
    fakes = [Fake(engine, arm=arm, max_tokens=tokens) for arm in ("none", "both") for tokens in (1, 8)]
    for fake in (fakes[0], fakes[2], fakes[1], fakes[3]):
        engine.submit(fake.job)
    gate.set()
    ends = [fake.end() for fake in fakes]
    after = engine.metrics._seen["batch_size"]
    assert [b - a for a, b in zip(before[1], after, strict=True)][:2] == [0, 2]  # two pairs
    assert [(end.text, end.finish) for end in ends[1::2]] == [("unanswerable", "stop"), ("red", "stop")]
    assert all(end.tokens == 1 and end.finish == "length" for end in ends[::2])  # a row ends by itself


def test_one_question_that_fails_spoils_no_other(engine, monkeypatch):
    real = type(engine.pruned).generate

    def failing(self, requests, *rest):
        if any("poison" in request.text for request in requests):
            raise RuntimeError("no such luck")
        return real(self, requests, *rest)

    monkeypatch.setattr(type(engine.pruned), "generate", failing)
    gate = threading.Event()
    engine.call(gate.wait)
    fakes = [Fake(engine, text) for text in (load.QUESTION, "poison", load.QUESTION)]
    for fake in fakes:
        engine.submit(fake.job)
    gate.set()
    ends = [fake.end() for fake in fakes]
    assert [type(end) for end in ends] == [Done, Refused, Done]
    assert ends[0].text == ends[2].text == "red"
    assert ends[1].status == 500
    assert "luck" not in ends[1].message  # what went wrong inside is for the log


def test_a_late_question_is_told_and_one_that_nobody_waits_for_is_not_answered(engine):
    gate = threading.Event()
    engine.call(gate.wait)
    late, gone, good = Fake(engine), Fake(engine), Fake(engine)
    late.job.deadline, gone.job.gone = time.monotonic() - 1, True
    for fake in (late, gone, good):
        engine.submit(fake.job)
    gate.set()
    assert good.end().text == "red"
    assert late.end().status == 504
    assert gone.events == []


def test_a_row_stops_when_its_client_leaves_or_its_time_is_up(engine):
    import torch

    ask_ = Ask("m", (), 100, stream=True)
    jobs = [ServerJob(ask_, Request("?"), 1, 0, time.monotonic() + 60) for _ in range(3)]
    watch = GrowingRows(jobs, engine.pruned.adapter, [2])
    ids = torch.tensor([[5], [6], [7]])
    assert watch(ids, None).tolist() == [False] * 3
    jobs[0].gone, jobs[1].deadline = True, 0.0
    assert watch(ids, None).tolist() == [True, True, False]
    assert watch.finish == ["late", "late", ""]


@pytest.mark.parametrize("how", ["too many", "too slow", "a key", "clips"])
def test_limits_of_number_and_time_keys_and_clips(how, engine, tmp_path):
    small = load.Server(engine, key="secret" if how == "a key" else None)
    small.limits = Limits(max_requests=1, timeout=0.4) if how != "clips" else load.LIMITS
    server = load.uvicorn.Server(load.config(small, load.Place(port=0)))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    base = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        if how == "too many":
            small.running = 1
            status, reply = load.post(base, load.body(EXAMPLE))
            assert (status, reply["error"]["type"], reply["error"]["code"]) == (429, "rate_limit_error", "busy")
            small.running = 0
        elif how == "too slow":
            gate = threading.Event()
            engine.call(gate.wait)
            status, reply = load.post(base, load.body(EXAMPLE))
            gate.set()
            assert (status, reply["error"]["code"]) == (504, "timeout")
            begun = time.monotonic()  # a body that never comes
            line = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
            line.putrequest("POST", load.PATH)
            line.putheader("Content-Type", "application/json")
            line.putheader("Content-Length", "100")
            line.endheaders(b"{")
            assert line.getresponse().status == 408
            assert time.monotonic() - begun < 10
            line.close()
        elif how == "a key":
            assert load.post(base, b"{}")[1]["error"]["type"] == "authentication_error"
            assert load.post(base, b"{}", {"Authorization": "Bearer wrong"})[0] == 401
            assert load.post(base, b"{}", {"Authorization": "Bearer secret"})[0] == 400
        else:
            content = [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
                       {"type": "text", "text": "?"}]  # fmt: skip
            sent = json.dumps({"model": load.MODEL, "messages": [{"role": "user", "content": content}]}).encode()
            assert "takes pictures, not clips" in load.post(base, sent)[1]["error"]["message"]
    finally:
        server.should_exit = True
        thread.join()


def test_a_model_of_clips_answers_about_clips(tmp_path):
    from eval.core.settings import Settings
    from eval.harnesses.pruned import Pruned
    from eval.serving.engine import Engine

    clip = tmp_path / "clip.mp4"
    write_video([Image.new("RGB", (64, 48), (20 * number, 90, 90)) for number in range(8)], clip)
    import base64

    film = f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    engine = Engine(Pruned(Settings("fastv", keep=0.2, model=str(EMBEDDED["video"]), device="cpu")), load.LIMITS)
    parts = (("video", film, "v"), ("text", "What happens?", "t"))
    fake = Fake(engine, parts=parts, return_kept=True)
    engine.submit(fake.job)
    end = fake.end()
    engine.close()
    assert end.pruning["visual_tokens"] == 8 * 37
    assert len(end.pruning["pictures"][0]["kept"][0]) == 59
    with pytest.raises(Refused, match="the server is stopping"):
        engine.submit(fake.job)
    with pytest.raises(Refused, match="v: expected a"):
        engine.prepare(Ask("m", (("video", "data:video/mp4;base64,AAAA", "v"), ("text", "?", "t")), 5), 0.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "vispruner", "--arm", "trend"], "no trend to divide by"),
        (["--key-variable", "NO_SUCH_KEY"], "no such environment variable"),
        (["--max-tokens", "0"], "--max-tokens: expected a whole number of at least 1, not 0"),
        (["--model", "no/where/at/all"], "no such folder"),
    ],
)
def test_a_server_that_makes_no_sense_is_refused_before_a_model_is_loaded(words, said, capsys, monkeypatch):
    monkeypatch.setattr("pruners.models.base.Adapter.load", lambda *args, **kwargs: pytest.fail("loaded"))
    assert main(["serve", *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_server_without_its_packages_says_what_to_install(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "starlette" else real(name))
    assert main(["serve"]) == 1
    assert "pip install 'attention-debiasing[serve]'" in capsys.readouterr().err
