"""The oldest set of versions that everything runs with (requirements-floor.txt): every name that we use is there.

tests/floor.txt lists those of the packages whose interfaces change most, as they were looked up in these versions.
New names? `nox -s floor` looks all of them up there and writes the listing (PYTHONPATH=. python tests/test_floor.py).
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LISTING = Path(__file__).with_name("floor.txt")
LISTED = ("transformers", "accelerate", "tokenizers", "huggingface_hub", "safetensors")
OTHERS = (*LISTED, "torch", "numpy", "scipy", "PIL")
EXTRA = {"torch.utils.tensorboard.SummaryWriter"}  # needs the extra `trackers`, and is tested where that is
NOX = ROOT / ".nox" / "floor" / "bin" / "python"


def floor():
    """{package: version}"""
    lines = (ROOT / "requirements-floor.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def used():
    """Every dotted name of other people's packages in ours; the authors' code runs in environments of its own."""
    found = set()
    for package in ("debias", "pruners", "eval", "tiny"):
        for path in (ROOT / package).rglob("*.py"):
            if "forks" not in path.parts:
                found |= names(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found - EXTRA)


def names(tree):
    """What a module imports from OTHERS, and the attributes that it reads of what it imports as a module."""
    known, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OTHERS:
                    known[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else ""
                    known.setdefault(alias.name.split(".")[0], "")
                    found.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OTHERS:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in known:
            found.add(".".join([known[node.id] or node.id, *reversed(parts)]))
    return found


def there(name):
    """Whether the dotted name can be had: modules are imported, and the rest is read."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_names_are_found_in_code():
    tree = ast.parse(
        "import torch\nimport numpy as np\nfrom torch.nn import functional as F\nF.pad\nnp.a\ntorch.c()\nd.e"
    )
    assert names(tree) == {"torch", "numpy", "torch.nn.functional", "torch.nn.functional.pad", "numpy.a", "torch.c"}
    assert there("torch.nn.functional.pad")
    assert not there("torch.nn.functional.no_such_name")
    assert not there("no_such_package.name")


def test_every_name_is_in_the_floor_and_here():
    listed = LISTING.read_text(encoding="utf-8").splitlines()
    asked = [name for name in used() if name.split(".")[0] in LISTED]
    assert listed[0].split()[1:] == [f"{name}=={version}" for name, version in floor().items()]
    assert not set(asked) - set(listed[1:]), "not looked up in the oldest versions yet: run `nox -s floor`"
    assert not [name for name in used() if not there(name)]


def test_what_a_machine_of_the_floor_lacks_is_carried():
    """`scripts/gpu.sh wheels` names every package that is required and not there, but av."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {Requirement(line).name for line in project["dependencies"]} - {"tomli"}  # Python 3.12 has its own
    carried = re.search(r'runs/wheels" ([a-z0-9 ]+)\n', (ROOT / "scripts" / "gpu.sh").read_text(encoding="utf-8"))
    assert asked - {*floor(), "scipy", "pillow", "matplotlib", "av"} == {*carried[1].split()}


def test_the_ranges_begin_at_or_below_the_floor():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, exact in floor().items():
        low = re.search(rf'"{package}>=([\d.]+)', text)
        assert low, package
        assert [*map(int, low[1].split("."))] <= [*map(int, exact.split("."))], package
    assert f'"transformers>={floor()["transformers"].removesuffix(".0")},' in text


@pytest.mark.long
def test_a_step_is_rehearsed_with_exactly_these_versions(tmp_path):
    """The first part of what a GPU machine is asked for, and the names once more, in the environment that nox makes."""
    python = os.environ.get("FLOOR_PYTHON") or NOX
    if not Path(python).exists():
        pytest.skip("no environment with these versions: `nox -s floor` makes it, and FLOOR_PYTHON names another one")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for words in (
        ["-c", f"from importlib.metadata import version as v; assert {floor()} == {{n: v(n) for n in {[*floor()]}}}"],
        ["tests/test_floor.py"],
        ["-m", "eval", "gpu", "smoke", "--rehearse", "--out", str(tmp_path), "--seconds", "900"],
    ):
        done = subprocess.run([python, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def main():
    """Look every name up in the floor's versions, and write the listing."""
    wrong = []
    for package, exact in floor().items():
        try:
            here = version(package)
        except PackageNotFoundError:
            here = "missing"
        if here.split("+")[0] != exact:
            wrong.append(f"{package} {here} instead of {exact}")
    assert not wrong, f"not the versions of requirements-floor.txt: {', '.join(wrong)}"
    asked = used()
    missing = [name for name in asked if not there(name)]
    assert not missing, f"not in these versions: {', '.join(missing)}"
    head = " ".join(["#", *(f"{name}=={exact}" for name, exact in floor().items())])
    listed = [name for name in asked if name.split(".")[0] in LISTED]
    LISTING.write_text("\n".join([head, *listed]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
