#!/usr/bin/env bash
# Measures the results of README.md again, on the embedded models and data, and writes them there.
#   bash scripts/results.sh                     FastV, benchmark by benchmark (minutes)
#   bash scripts/results.sh fastv pyramiddrop   and a second table with the averages of all methods named
#   bash scripts/results.sh all                 the same with every method
#   bash scripts/results.sh fastv --limit 4     flags go to `python -m eval run`
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
at=runs/results
rm -rf "$at"
methods=() folders=()
while [ $# -gt 0 ] && [[ "$1" != -* ]]; do methods+=("$1"); shift; done
[ ${#methods[@]} -gt 0 ] || methods=(fastv)
if [ "${methods[0]}" = all ]; then
  read -ra methods <<<"$("$PYTHON" -c 'from pruners import names; print(*names())')"
fi
for method in "${methods[@]}"; do
  "$PYTHON" -m eval run --method "$method" --out "$at/$method" "$@"
  folders+=("$at/$method")
done
exec "$PYTHON" scripts/readme.py "${folders[@]}"
