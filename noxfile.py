"""The suite on every supported Python, and on the lowest supported torch and transformers.

    nox                             the Pythons, the lowest versions, release and types, one after the other
    nox -s python-3.12              one Python, with the newest versions that the ranges allow
    nox -s lowest                   the lowest supported torch
    nox -s floor                    the versions of requirements-floor.txt, with the lowest supported transformers
    nox -s release                  sdist and wheel: built, checked, installed into an empty environment and run
    nox -s types                    mypy --strict
    nox -s audit                    known vulnerabilities of the pinned versions, where the index has such data
    nox -s faults                   hundreds of kills, and files of ten million lines
    nox -s vllm                     the plugin inside vLLM, in an environment of its own (`bash setup.sh --vllm`, 4 GB)
    nox -s mutants                  mistakes put into debias/ and the scorers: does a test notice each one?

What stands behind `--` goes to pytest, to tests/faults or to tests/mutants (nox -s faults -- --kills 20). To use a
torch that is there already, or a CPU build, set PIP_CONSTRAINT or PIP_INDEX_URL as for any pip. docs/release.md has
the versions that were tried.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# The mechanism's own tests; those of the evaluation do not look at a decoder layer.
MECHANISM = ("tests/debias", "tests/pruners")

nox.options.sessions = ["python", "lowest", "floor", "release", "types"]
nox.options.error_on_missing_interpreters = False


def bound(package: str) -> str:
    """The lower end of a dependency's range in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf'"{package}>=([\d.]+)', text)
    assert found, f"pyproject.toml gives no lowest version of {package}"
    return found[1]


def tests(session: nox.Session, folders: tuple[str, ...], *constraints: str) -> None:
    session.install(".[judge,serve]", "pytest", "hypothesis", *constraints)
    session.run(
        "python", "-c", "import sys, torch, transformers as t; print(sys.version, torch.__version__, t.__version__)"
    )
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    session.run("python", "-m", "pytest", *folders, "-m", "not long", "-q", *session.posargs, env=env)


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """One Python with the newest versions that the ranges allow."""
    tests(session, (*MECHANISM, "tests/eval", "tests/tiny"))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The lower end of torch's range; `python` tries the upper ends."""
    tests(session, MECHANISM, f"torch=={bound('torch')}")


@nox.session(python="3.12")
def floor(session: nox.Session) -> None:
    """Exactly the versions of requirements-floor.txt; writes tests/floor.txt."""
    tests(session, ("tests/debias", "tests/pruners", "tests/eval/speed/test_gpu.py"), "-r", "requirements-floor.txt")
    session.run("python", "tests/test_floor.py", env={"PYTHONPATH": "."})


@nox.session(python="3.11")
def release(session: nox.Session) -> None:
    """Build, check, install into an empty environment, run."""
    out = Path(session.create_tmp()).resolve()
    shutil.rmtree(out)  # what an earlier call left
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", str(out))
    built = [str(path) for path in out.iterdir()]
    session.run("twine", "check", "--strict", *built)
    session.run("python", "-m", "venv", f"{out}/empty")
    wheels = [path for path in built if path.endswith(".whl")]
    session.run(f"{out}/empty/bin/pip", "install", "--quiet", *wheels, external=True)
    session.chdir(out)
    session.run(f"{out}/empty/bin/python", "-c", "import debias, pruners", external=True)
    session.run(f"{out}/empty/bin/debias", "--version", external=True)
    run = ["run", "--method", "fastv", "--benchmarks", "pope", "--limit", "8", "--out", "run"]
    session.run(f"{out}/empty/bin/debias", *run, external=True)


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """mypy --strict over the packages."""
    session.install(".[judge,serve]", "mypy")
    session.run("mypy", "debias", "pruners", "eval", "tiny")


@nox.session(python="3.11")
def audit(session: nox.Session) -> None:
    session.install("pip-audit", "pytest")
    session.run("python", "-m", "pytest", "-q", "tests/test_audit.py", "--noconftest")


@nox.session(python="3.11")
def faults(session: nox.Session) -> None:
    session.install(".[judge]", "pytest", "hypothesis")
    session.run("python", "tests/faults", *session.posargs)
    session.run("python", "-m", "pytest", "-q", "-s", "tests/faults/test_large.py", env={"FAULT_LARGE": "1"})


@nox.session(python=False)
def vllm(session: nox.Session) -> None:
    """The plugin inside vLLM, in the environment that users make."""
    session.run("bash", "scripts/vllm.sh", external=True)
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in ("vllm", "vllm_families", "vllm_parallel", "vllm_server"):  # an engine is for a process of its own
        command = [".venv-vllm/bin/python", "-m", "pytest", "-q", f"tests/reach/test_{name}.py"]
        session.run(*command, *session.posargs, env=env, external=True)


@nox.session(python="3.11")
def mutants(session: nox.Session) -> None:
    session.install(".[judge]", "pytest", "hypothesis", "coverage")
    session.run("python", "tests/mutants", *session.posargs)
