"""The benchmarks, one file each. `get("pope")` is found by its module's name."""

from __future__ import annotations

from importlib import import_module

from debias.names import one_of
from eval.benchmarks.base import Benchmark

NAMES = (
    "vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "mmvet",
    "tgif", "msvd", "msrvtt",
    "refcoco", "refcoco+", "refcocog",
)  # fmt: skip


def get(name: str) -> Benchmark:
    """The benchmark of this name; its class stands in the module of the same name."""
    one_of("benchmark", name, NAMES)
    module = import_module(f".{'refcoco' if name.startswith('refcoco') else name}", __name__)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Benchmark) and value.__module__ == module.__name__
    ]
    return classes[0](name)
