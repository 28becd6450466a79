import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def builders():
    spec = importlib.util.spec_from_file_location("builders", Path(__file__).parents[1] / "builders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def adapters(builders):
    """adapters(family, **changes): the adapter of a tiny model, built once."""
    built = {}

    def get(family, **changes):
        key = family, *sorted(changes.items())
        if key not in built:
            built[key] = builders.adapter(family, **changes)
        return built[key]

    return get
