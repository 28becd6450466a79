import pytest


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
