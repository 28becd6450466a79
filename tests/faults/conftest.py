"""The fixtures of tests/eval, and this folder on the path: the program of faults is also a program of its own."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

spec = importlib.util.spec_from_file_location("eval_fixtures", HERE.parent / "eval" / "conftest.py")
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
checkpoints, world, answered = shared.checkpoints, shared.world, shared.answered
