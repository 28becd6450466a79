"""The run scripts: each is one line over the command line, and passes every flag on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pruners import names

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
METHODS = {
    "fastv": "fastv", "pdrop": "pyramiddrop", "sparsevlm": "sparsevlm", "himap": "himap", "tokencarve": "tokencarve",
    "illava": "illava", "vispruner": "vispruner", "d2pruner": "d2pruner", "deeplayer": "deeplayer", "all": "all",
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_script_is_one_line_that_passes_its_flags_on(name):
    path = SCRIPTS / f"run_{name}.sh"
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in text
    assert re.findall(r'^exec "\$PYTHON" -m eval (.*)$', text, re.MULTILINE) == [f'run --method {METHODS[name]} "$@"']
    assert METHODS[name] == "all" or METHODS[name] in names()


def script(name, *arguments, status=0):
    done = subprocess.run(
        ["bash", str(SCRIPTS / f"run_{name}.sh"), *map(str, arguments)],
        env={**os.environ, "DEBIAS_PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "arguments", "method"),
    [
        ("fastv", ["--keep", "9"], "FastV(keep=9, mode='gather', layer=2)"),
        ("vispruner", ["7", "0.25"], "VisPruner(keep=7, important_ratio=0.25"),
        ("vispruner", ["7"], "VisPruner(keep=7, important_ratio=0.5"),
    ],
)
def test_dry_run_says_what_would_run(checkpoints, world, tmp_path, name, arguments, method):
    common = ["--model", checkpoints["image"], "--data", world, "--benchmarks", "pope", "--out", tmp_path / "run"]
    done = script(name, *arguments, "--dry-run", "--json", *common)
    found = json.loads(done.stdout)
    assert found["run"]["method"].startswith(method)
    assert found["out"] == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_failure_is_the_scripts_status(checkpoints, world):
    done = script("fastv", "--model", checkpoints["image"], "--data", world, "--benchmarks", "poppe", status=1)
    assert "did you mean pope" in done.stderr or "unknown benchmark 'poppe'" in done.stderr
