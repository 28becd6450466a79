#!/usr/bin/env bash
# IVC-Prune, with and without debiasing. Without flags: the embedded model and data.
# Every flag of `python -m eval run` is passed on: --keep 64, --model DIR, --data DIR, --full, --dry-run, ...
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec "$PYTHON" -m eval run --method ivcprune "$@"
