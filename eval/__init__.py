"""Evaluation: benchmarks, scorers, the runner, comparison, and the command line.

`Settings` says what a run is; `evaluate` answers, scores and compares it, and returns a `Report`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.core.settings import JudgeSettings, Settings
    from eval.evaluation import Report, evaluate

__all__ = ["JudgeSettings", "Report", "Settings", "evaluate"]
_PLACES = {
    "JudgeSettings": "core.settings",
    "Settings": "core.settings",
    "Report": "evaluation",
    "evaluate": "evaluation",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for, so that what needs no model stays quick to start."""
    if name in _PLACES:
        return getattr(import_module(f"eval.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
