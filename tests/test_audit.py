"""No pinned version has a known vulnerability, as far as the package index knows any."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PINS = Path(__file__).parents[1] / "requirements.txt"
AUDIT = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip",
         "--format", "json", "--progress-spinner", "off", "--timeout", "5"]  # fmt: skip


@pytest.mark.skipif(not importlib.util.find_spec("pip_audit"), reason="needs pip-audit (pip install .[dev])")
def test_no_known_vulnerability():
    try:
        done = subprocess.run(AUDIT, capture_output=True, text=True, check=False, timeout=60)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        pytest.skip("no advisories can be had here")
    # An index without advisories is one that knows no package: pip-audit skips them all, and is content.
    audited = [one for one in found if "skip_reason" not in one]
    if not audited:
        pytest.skip("the package index gives no advisories")
    assert len(audited) > len(found) / 2, [one["name"] for one in found if "skip_reason" in one]
    assert not [(one["name"], one["version"], fault["id"]) for one in audited for fault in one["vulns"]]
