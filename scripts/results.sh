#!/usr/bin/env bash
# Measures the results table of README.md again, on the embedded models and data, and writes it there.
#   bash scripts/results.sh                     FastV, benchmark by benchmark (a minute or two)
#   bash scripts/results.sh fastv pyramiddrop   and a second table with the averages of all methods named
#   bash scripts/results.sh all                 the same with every method
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
at=runs/results
rm -rf "$at"
methods=("${@:-fastv}")
if [ "${methods[0]}" = all ]; then
  read -ra methods <<<"$("$PYTHON" -c 'from debias.names import METHODS; print(*METHODS)')"
fi
folders=()
for method in "${methods[@]}"; do
  arms=()
  [ ${#folders[@]} -gt 0 ] || arms=(--arms "unpruned,none,trend,padding,both")
  "$PYTHON" -m eval run --method "$method" ${arms[@]+"${arms[@]}"} --out "$at/$method"
  folders+=("$at/$method")
done
exec "$PYTHON" -m eval.readme "${folders[@]}"
