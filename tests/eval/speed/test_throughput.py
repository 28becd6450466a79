"""Questions a second: what is counted, and that every way of sharing work gives the same answers."""

import json
import threading
import time

import pytest

from eval.answering.meter import Meter
from eval.cli import main
from eval.speed.throughput import settings


def test_a_meter_counts():
    meter = Meter(questions=10, answers=40, seconds=4.0, busy=3.0, gpu=[50.0, 70.0])
    found = meter.summary()
    assert (found["questions_per_second"], found["answers_per_second"]) == (2.5, 10)
    assert (found["model_share"], found["gpu_busy"]) == (0.75, 0.6)
    assert "2.50 questions/s, 10.00 answers/s; 75% of the time in the model, GPU busy 60%" in meter.line()
    assert "GPU" not in Meter(1, 1, 1.0).line()


def test_a_gpu_is_watched_and_nothing_else(monkeypatch):
    import torch

    from eval.answering import meter as watched

    meter = Meter()
    with meter.watching("cpu", every=0.001):
        assert "gpu-watch" not in {thread.name for thread in threading.enumerate()}
    monkeypatch.setattr(watched.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 80)
    with meter.watching("cuda:0", every=0.001):
        end = time.monotonic() + 60
        while not meter.gpu and time.monotonic() < end:
            time.sleep(0.002)
    assert set(meter.gpu) == {80.0}


def test_settings_share_more_and_more():
    assert [one.prefix for one in settings(8, 2, True)] == [False] * 5 + [True]
    assert not any(one.prefix for one in settings(8, 2, False))


@pytest.fixture(scope="module")
def flags(checkpoints, world):
    return [
        "--model", str(checkpoints["image"]), "--data", str(world), "--trend", "online", "--max-new-tokens", "3",
        "--limit", "6", "--batch-size", "4", "--workers", "1", "--rounds", "1", "--json",
    ]  # fmt: skip


@pytest.mark.parametrize(("method", "steps"), [("fastv", 6), ("vispruner", 5)])
def test_every_setting_gives_the_same_answers(flags, capsys, method, steps):
    assert main(["throughput", "--method", method, *flags]) == 0
    seen = capsys.readouterr()
    rows = json.loads(seen.out)["rows"]
    assert len(rows) == steps
    assert {row["different"] for row in rows} == {0}
    assert rows[0]["times"] == 1
    assert all(row["questions_per_second"] > 0 and 0 < row["model_share"] <= 1 for row in rows)
    assert ("VisPruner takes tokens out before the first layer" in seen.err) == (method == "vispruner")
