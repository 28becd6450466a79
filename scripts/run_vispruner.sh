#!/usr/bin/env bash
# VisPruner, with and without silencing padding. Without flags: the embedded model and data.
# Its own calling convention works too: run_vispruner.sh KEEP [IMPORTANT_RATIO], as in run_vispruner.sh 128 0.5
# Every flag of `python -m eval run` is passed on: --keep 64, --model DIR, --data DIR, --full, --dry-run, ...
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
number='^[0-9]+(\.[0-9]+)?$'
if [[ "${1:-}" =~ $number ]]; then
  set -- --keep "$@"
  [[ "${3:-}" =~ $number ]] && set -- "${@:1:2}" --important-ratio "${@:3}"
fi
exec "$PYTHON" -m eval run --method vispruner "$@"
