"""The benchmarks, one file each; sets of one kind share one. `get("pope")` is found by its module's name."""

from __future__ import annotations

from importlib import import_module

from debias.names import one_of
from eval.benchmarks.base import Benchmark

NAMES = (
    "vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "mmvet",
    "tgif", "msvd", "msrvtt",
    "refcoco", "refcoco+", "refcocog",
)  # fmt: skip
# The modules of those that share one.
SHARED = {"tgif": "video", "msvd": "video", "msrvtt": "video", "refcoco+": "refcoco", "refcocog": "refcoco"}


def get(name: str) -> Benchmark:
    """The benchmark of this name; its class stands in the module of the same name, or in one that it shares."""
    one_of("benchmark", name, NAMES)
    module = import_module(f".{SHARED.get(name, name)}", __name__)
    kinds = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Benchmark))
    return next(kind for kind in kinds if kind.__module__ == module.__name__)(name)
