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


@pytest.fixture(scope="session")
def builders():
    """tests/pruners/builders.py: tiny random models of every family, and pictures. It imports transformers: late."""
    return importlib.import_module("builders")  # pyproject.toml puts tests/pruners on pytest's path
