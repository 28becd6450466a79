"""iLLaVA's own LLaVA-OneVision runs with our patch, in the arms. (The fork backend refuses it: docs/differences.md.)"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from debias import Padding
from eval.forks.setup import ROOT, environment, setup


@pytest.mark.forks
def test_its_own_model_runs_in_every_arm():
    try:
        python, path = environment("illava")
    except ValueError as reason:
        pytest.skip(str(reason))
    if not setup("illava").patched:
        pytest.skip("third_party/iLLaVA is not patched: bash scripts/apply_patches.sh illava")
    whole = os.pathsep.join([path, str(ROOT / "third_party/iLLaVA/src/LLaVA-OneVision")])
    environ = {**os.environ, "PYTHONPATH": whole, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, ROOT / "tests/forks/onevision.py", ROOT / "eval/forks"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    plain, none, both = json.loads(done.stdout.splitlines()[-1]).values()
    assert plain == {"ids": none["ids"], "logits": none["logits"]}, "without a debias nothing changes"
    assert len(none["kept"]) == len(both["kept"]) == 181, "of 361, round(361 / 2) are merged into one more"
    assert none["kept"] != both["kept"]
    valid = set(Padding().valid((640, 360), (19, 19)).nonzero()[:, 0].tolist())
    assert len(valid & set(both["kept"])) == min(181, len(valid)) > len(valid & set(none["kept"]))
