#!/usr/bin/env bash
# Everything that must hold before a commit: format, lint, shell scripts, tests with coverage. Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" HF_HUB_OFFLINE=1

"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
shellcheck=$(command -v "$(dirname "$PYTHON")/shellcheck" || command -v shellcheck || true)
if [ -n "$shellcheck" ]; then
  "$shellcheck" -x setup.sh scripts/*.sh .ci/run
else
  echo "test.sh: shellcheck is not installed; the shell scripts were not checked" >&2
fi
"$PYTHON" -m mypy debias pruners
exec "$PYTHON" -m pytest -q --cov --cov-report=term "$@"
