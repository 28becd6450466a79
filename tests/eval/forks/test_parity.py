"""`parity` beside the authors' code is tested in tests/forks; here, what its table says."""

from types import SimpleNamespace

import pytest

from eval.core.settings import Settings
from eval.forks import parity
from pruners import make


@pytest.mark.parametrize("cache", [None, True, False])
def test_why_answers_differ_stands_below_the_table(cache, monkeypatch, capsys):
    options = {} if cache is None else {"cache": cache}
    chosen = SimpleNamespace(
        benchmarks=[(SimpleNamespace(name="pope", media="image"), None)], arms=["none"], pruner=make("fastv"),
        fork=lambda media: SimpleNamespace(options=options, patched=True), close=lambda: None,
    )  # fmt: skip
    found = {"n": 4, "kept_overlap": [1.0], "kept_same": 4, "logit_max": 0.0, "logit_mean": 0.0, "answers_same": 2}
    chosen.settings = Settings("fastv", limit=4)
    monkeypatch.setattr(parity, "resolve", lambda settings: chosen)
    monkeypatch.setattr(parity, "questions", lambda *_: [])
    monkeypatch.setattr(parity, "compare", lambda *_: found)
    parity.parity(chosen.settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "2/4" in said
    assert ("ranks the picture's tokens anew for every new token" in said) == (cache is False)
