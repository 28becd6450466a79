#!/usr/bin/env bash
# Everything that must hold before a commit: format, lint, types, shell scripts, tests.
# Arguments go to pytest: `bash scripts/test.sh -m "not long"` is the quick half; `--cov` measures coverage, which takes longer.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1

"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
shellcheck=$(command -v "$(dirname "$PYTHON")/shellcheck" || command -v shellcheck || true)
if [ -n "$shellcheck" ]; then
  "$shellcheck" -x setup.sh scripts/*.sh .ci/run
else
  echo "test.sh: shellcheck is not installed; the shell scripts were not checked" >&2
fi
"$PYTHON" -m mypy debias pruners eval tiny
"$PYTHON" -m bandit -q -c pyproject.toml -r debias pruners eval tiny
# Two processes with one thread each, a file at a time, the longest first (tests/conftest.py): what two cores do best.
exec "$PYTHON" -m pytest -q --numprocesses "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"
