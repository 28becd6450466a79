"""Which trend an arm divides by: the model's own fitted one, a published one, one fitted on the way, or none."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from debias import Debias, Trend
from debias import trends as files
from debias.names import nearest
from eval.benchmarks.base import Benchmark

log = logging.getLogger("debias")
KINDS = {"fitted": "exponential", "average": "average", "inverse_cubic": "inverse_cubic", "rope": "rope"}  # fitted now
MODES = ("auto", "published", "online", *KINDS)


def identity(mode: str, stages: str = "first", as_released: bool = False) -> str:
    """What of the choice decides numbers: the way it is made, or the content of the file; and the cuts it acts at."""
    if as_released:
        return f"{identity(mode, stages)}, as released"
    if stages != "first":
        return f"{identity(mode)}, {stages} cuts"
    if mode in MODES:
        return mode
    path = Path(mode)
    if not path.is_file():
        raise ValueError(
            f"--trend {mode}: no such file{nearest(mode, MODES)}; expected {', '.join(MODES)}, "
            "or a trends file that `fit` wrote"
        )
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def debias(choice: Any, benchmark: Benchmark, arm: str) -> Debias:
    """The debias of one arm. Padding is the released setting of the method; the trend depends on the model.

    As released, the release's own code is computed, on the model's own trend where none was released for its tokens.
    """
    method = choice.args.method
    if choice.as_released:
        found = Debias.paper(method, None, arm, as_released=True)
    else:
        found = replace(Debias.paper(method, benchmark.name, "padding").with_arm(arm), stages=choice.stages)
    if arm not in ("trend", "both") or not trended(choice.pruner):
        return found
    return replace(found, trend=choose(choice, benchmark))


def trended(pruner: Any) -> bool:
    """Whether a trend means anything to the method: its score comes from the decoder's attention."""
    kind = pruner if isinstance(pruner, type) else type(pruner)
    return pruner.role != "vision" and kind.__name__ not in ("Random", "Grid")


def choose(choice: Any, benchmark: Benchmark) -> Trend:
    method, mode = choice.args.method, choice.args.trend
    if mode == "online":
        return Trend.online()
    if mode == "published":
        return Trend.published(method, _published_on(method, benchmark))
    if mode not in MODES:
        return files.find(method, benchmark.name, mode)
    own = choice.own_trends(benchmark.media)
    if mode == "auto":
        if own is not None and any(one["method"] == method for one in files.load(own)):
            return files.find(method, benchmark.name, own)
        if benchmark.media == "image" and is_published(method, choice.layout[benchmark.media].tokens):
            return Trend.published(method, _published_on(method, benchmark))
    fitted: Trend = choice.fitted(benchmark.media, KINDS.get(mode, "exponential"))
    return fitted


def is_published(method: str, tokens: int | None) -> bool:
    """Whether the method has released curves over so many visual tokens."""
    return any((one["method"], one["length"]) == (method, tokens) for one in files.load())


def _published_on(method: str, benchmark: Benchmark) -> str | None:
    """The benchmark's own curve where there is one; otherwise the mean of the method's rates."""
    known = {one["benchmark"] for one in files.load() if one["method"] == method}
    return benchmark.name if benchmark.name in known or files.EVERY in known else None
