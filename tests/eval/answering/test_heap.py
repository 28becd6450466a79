"""Freed memory stays with the process, unless the user has said something else about it."""

import subprocess
import sys
from pathlib import Path

import pytest

from eval.answering import heap

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FAULTS = """
import resource, sys
import torch
from eval.answering import heap
if sys.argv[1] == "kept" and not heap.keep():
    raise SystemExit(3)
def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        torch.ones(10 << 20)  # 40 MiB, which glibc maps anew every time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
work()
print(work())
"""


def faults(how):
    clean = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, env=clean, check=False)
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_pages_are_not_cleared_again_and_again():
    assert faults("kept") < faults("given back") / 4


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")]
)
def test_what_the_user_has_set_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    assert heap.keep() is False


def test_other_systems_have_no_such_setting(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.keep() is False
