"""The fork backend without a fork: settings, the pipe, and what it says when something is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from debias import Debias, Padding, Trend
from eval.forks import backend as fork
from eval.forks import options as fork_options
from eval.forks import reader as fork_reader
from eval.forks import setup as fork_setup
from pruners import make

SHAPE = (576, 32)  # LLaVA-1.5-7B


@pytest.fixture(scope="module")
def worker():
    sys.path.insert(0, str(fork_setup.ROOT / "eval/forks"))
    try:
        spec = importlib.util.spec_from_file_location("fork_worker", fork_setup.ROOT / "eval/forks/worker.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(fork_setup.ROOT / "eval/forks"))
    return module


def options(method, **fields):
    return fork_options.options(method, make(method, **fields), *SHAPE)


def test_the_defaults_are_the_published_settings():
    assert options("fastv") == {"keep": 128, "layer": 2, "inplace": True, "cache": False}
    assert options("fastv", mode="mask") == {"keep": 128, "layer": 2, "inplace": False, "cache": True}
    assert options("himap") == {"layers": [2, 8], "keeps": [115, 90], "cache": False}
    assert options("sparsevlm") == {"layers": [2, 6, 15], "keeps": [303, 110, 36], "keep": 0}
    assert options("tokencarve") == {"keep": 128, "mode": 0, "weight": 0.5}
    assert options("vispruner") == {"keep": 128, "important_ratio": 0.5}
    found = options("pyramiddrop")
    assert found["layers"] == [2, 10, 20]
    assert [int(576 * ratio) for ratio in found["ratios"]] == [184, 92, 46]


@pytest.mark.parametrize("tokens", [36, 144, 576])
@pytest.mark.parametrize("keep", [0.2, 0.22222, 0.5])
def test_shares_survive_the_truncation_over_there(tokens, keep):
    pruner = make("pyramiddrop", keep=keep)
    ratios = fork_options.options("pyramiddrop", pruner, tokens, 32)["ratios"]
    assert [int(tokens * ratio) for ratio in ratios] == pruner.counts(32, tokens)


def test_what_a_fork_cannot_do_is_refused_by_name():
    with pytest.raises(ValueError, match="layer 2"):
        options("tokencarve", layer=3)
    with pytest.raises(ValueError, match="384"):
        options("tokencarve", keep=400)
    with pytest.raises(ValueError, match="OneVision"):
        options("illava")
    with pytest.raises(ValueError, match="--backend native"):
        fork_setup.setup("d2pruner")


@pytest.mark.parametrize(
    "value",
    [
        Debias(),
        Debias(Trend.exponential(0.004), Padding(0.5, "even")),
        Debias(Trend.inverse_cubic(3e-3, -1e-5, 2e-8), None, stages="all", recycle=False),
        Debias(Trend.table([1.0, 0.5, 0.25]), Padding()),
        Debias(Trend.factorised(Trend.exponential(0.1), Trend.exponential(0.2, floor=0.5))),
        Debias(Trend.online(), Padding(0.01)),
        Debias.paper("fastv", "pope"),
    ],
)
def test_a_debias_comes_out_of_the_pipe_as_it_went_in(worker, value):
    assert worker.rebuilt(Debias, json.loads(json.dumps(fork_options.wire(value)))) == value


def test_missing_code_and_environments_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.setattr(fork_setup, "ROOT", tmp_path)
    (tmp_path / "patches").symlink_to(fork.ROOT / "patches")
    with pytest.raises(ValueError, match=r"third_party/FastV is empty\. Get it with: bash setup\.sh --forks fastv"):
        fork_setup.environment("fastv")
    (tmp_path / "third_party/FastV/.git").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"\.venv-forks-4\.31.*bash setup\.sh --forks fastv"):
        fork_setup.environment("fastv")


def test_an_unpatched_fork_runs_no_debiased_arm():
    backend = SimpleNamespace(code="himap", patched=False)
    fork.Fork.refuse_unpatched(backend, ["none", "unpruned"])
    with pytest.raises(ValueError, match=r"apply_patches\.sh himap"):
        fork.Fork.refuse_unpatched(backend, ["none", "both"])


def test_pictures_are_folded_to_one_placeholder():
    ids = [1, 7, *[9] * 4, 8, *[9] * 4, 5]
    adapter = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(image_token_id=9)),
        side=2,
        encode=lambda _: SimpleNamespace(inputs={"input_ids": __import__("torch").tensor([ids])}),
    )
    assert fork_reader.folded(adapter, SimpleNamespace(video=None)) == [1, 7, -200, 8, -200, 5]


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setattr(fork, "environment", lambda _: (sys.executable, str(fork.ROOT)))
    started = fork.Worker("fastv")
    yield started
    started.close()


def test_what_goes_wrong_over_there_is_said_here(process, tmp_path):
    with pytest.raises(RuntimeError, match=r"fork of fastv failed at starting it: .*no config\.json"):
        process.ask({"folder": str(tmp_path), "method": "fastv", "device": "cpu", "dtype": "float32"}, "starting it")


def test_a_worker_that_dies_is_reported(process):
    process.process.kill()
    process.process.wait()
    with pytest.raises(RuntimeError, match="stopped at question '3' of pope"):
        process.ask({}, "question '3' of pope")
