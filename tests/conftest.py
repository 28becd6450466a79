"""What all tests share."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session")
def builders():
    """tests/pruners/builders.py: tiny random models of every family, and pictures. It imports transformers: late."""
    return importlib.import_module("builders")  # pyproject.toml puts tests/pruners on pytest's path
