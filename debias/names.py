"""The names of methods, benchmarks and arms, written one way each.

Which methods there are stands in pruners/methods alone, which the forks' environments do not have: here the name of a
method is only written the one way.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import Dict, Iterable, Optional, Sequence, Tuple

BENCHMARKS: Tuple[str, ...] = (
    "gqa",
    "vqav2",
    "vizwiz",
    "scienceqa",
    "textvqa",
    "pope",
    "mme",
    "mmbench",
    "mmbench_cn",
    "mmvet",
    "tgif",
    "msvd",
    "msrvtt",
    "refcoco",
    "refcoco+",
    "refcocog",
)
ARMS: Tuple[str, ...] = ("none", "trend", "padding", "both")
RUN: Tuple[str, ...] = ("fastv", "tokencarve", "himap", "pyramiddrop", "sparsevlm")  # by the authors' release
FITTED: Tuple[str, ...] = ("exponential", "rope", "inverse_cubic", "average")  # kinds of trend that can be fitted
PICTURES: Tuple[str, ...] = ("black", "mean", "noise")  # without content: what a blank trend is measured on
RULES: Tuple[str, ...] = ("area", "even", "bilinear", "antialiased", "cropped", "sink")  # by which padding is told
SCOPES: Tuple[str, ...] = ("sequence", "frame", "factorised")  # what its index counts through

# Spellings found in papers, scripts and file names; looked up after lower-casing and dropping "-", "_" and spaces.
_METHOD_ALIASES: Dict[str, str] = {
    "pdrop": "pyramiddrop",
    "sparsevlms": "sparsevlm",
    "illavavit": "illava",
    "prumerge+": "prumergeplus",
}
_BENCHMARK_ALIASES: Dict[str, str] = {"sqa": "scienceqa", "scivqa": "scienceqa", "scienceqaimg": "scienceqa"}
# The authors' release calls its arms by these names.
_ARM_ALIASES: Dict[str, str] = {"paper": "none", "before": "padding", "after": "both"}


def nearest(word: str, known: Iterable[str]) -> str:
    """What a message about an unknown `word` goes on with: the known name that it is nearest to, if any is near."""
    close = get_close_matches(str(word), [str(name) for name in known], cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def one_of(what: str, word: str, known: Sequence[str]) -> str:
    """`word`, when it is known; otherwise a ValueError with the nearest known word and all of them."""
    if word in known:
        return word
    raise ValueError(f"unknown {what} {word!r}{nearest(word, known)}; known: {', '.join(known)}")


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "").replace(" ", "")


def _one(what: str, name: str, known: Tuple[str, ...], aliases: Dict[str, str]) -> str:
    if name in known:
        return name
    if not isinstance(name, str):
        raise ValueError(f"{what} must be a name, one of {', '.join(known)}; got {name!r}")
    table = {_plain(entry): entry for entry in known}
    table.update(aliases)
    return one_of(what, table.get(_plain(name), name), known)


def method(name: str) -> str:
    """A method's canonical name: method("PDrop") is "pyramiddrop", and method("New-Method") "newmethod"."""
    if not isinstance(name, str):
        raise ValueError(f"a method must be a name, such as 'fastv'; got {name!r}")
    return _method(name)


@lru_cache(maxsize=256)  # on the hot path of `rescore`
def _method(name: str) -> str:
    plain = _plain(name)
    if not plain:
        raise ValueError(f"a method must be a name, such as 'fastv'; got {name!r}")
    return _METHOD_ALIASES.get(plain, plain)


def benchmark(name: str) -> str:
    """The canonical spelling of a benchmark's name: benchmark("MM-Vet") is "mmvet"."""
    return _one("benchmark", name, BENCHMARKS, _BENCHMARK_ALIASES)


def arm(name: str) -> str:
    """The canonical spelling of an arm's name; the release's paper, before and after are none, padding and both."""
    return _one("arm", name, ARMS, _ARM_ALIASES)


def check_release(method: str, arm: str) -> None:
    """ValueError for a method or an arm that the authors' release does not run."""
    if method not in RUN or arm == "trend":
        what = "the arm trend" if method in RUN else method
        raise ValueError(f"the release does not run {what}; it runs none, padding and both of {', '.join(RUN)}")


def check_unchanged(stages: str, trend: Optional[str]) -> None:
    """ValueError for cuts, or a kind of trend, that the authors' release does not debias by."""
    if stages != "first":
        raise ValueError("the authors' release debiases the first cut alone; leave stages at 'first'")
    if trend in ("online", "offset", "blank"):
        raise ValueError(f"the authors' release has no {trend} trend; give a trend fitted before")
