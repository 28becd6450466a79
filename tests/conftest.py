"""What all tests share."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, and none refused for the time it took: a busy machine is no mistake in the code.
# `pytest --hypothesis-profile anew` looks for others.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("anew", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


# The files that take longest. They are begun first, so that no process is left with the last of them while others idle.
LONGEST = ("test_reproduce.py", "test_scripts.py", "test_docs.py", "test_run.py", "test_faults.py", "test_matrix.py",
           "test_gpu.py", "test_processes.py", "test_outputs.py", "test_ways.py", "test_fit.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Sorts the tests by file, the longest files first; within a file they keep their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def builders():
    """tests/pruners/builders.py: tiny random models of every family, and pictures. It imports transformers: late."""
    return importlib.import_module("builders")  # pyproject.toml puts tests/pruners on pytest's path
