"""What the tests of evaluation share: random checkpoints and the tiny world's data."""

import importlib.util
from pathlib import Path

import pytest

BUILDERS = Path(__file__).parent.parent / "pruners" / "builders.py"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """{"image": folder, "video": folder} of tiny random models."""
    spec = importlib.util.spec_from_file_location("builders", BUILDERS)
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("llava", "video_llava"):
        builders.checkpoint(family, root / family)
    return {"image": root / "llava", "video": root / "video_llava"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A data root with a dozen questions of every benchmark."""
    from tiny.benchmarks import ensure

    return ensure(tmp_path_factory.mktemp("world") / "data", size="ci")
