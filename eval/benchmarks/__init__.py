"""The benchmarks, one file each. `get("pope")` is found by its module's name."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from eval.benchmarks.base import Benchmark

NAMES = (
    "vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "mmvet",
    "tgif", "msvd", "msrvtt",
    "refcoco", "refcoco+", "refcocog",
)  # fmt: skip


def get(name: str) -> Benchmark:
    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1)
        raise ValueError(f"no benchmark {name!r}; " + (f"did you mean {near[0]!r}?" if near else ", ".join(NAMES)))
    module = import_module(f".{'refcoco' if name.startswith('refcoco') else name}", __name__)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Benchmark) and value.__module__ == module.__name__
    ]
    return found[0](name)
