"""What all tests share."""

from __future__ import annotations

import builders as module  # pyproject.toml puts tests/pruners on pytest's path
import pytest


@pytest.fixture(scope="session")
def builders():
    """tests/pruners/builders.py: tiny random models of every family, and pictures."""
    return module
