#!/usr/bin/env bash
# Makes the figures of the README and the docs again, from the embedded model and data, into assets/figures.
#   bash scripts/figures.sh [QUESTIONS]      questions of each benchmark (default 96: all of the embedded subset)
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
questions="${1:-96}"
at=runs/figures-$questions
out=assets/figures
commands=()

do_() { # says, runs and remembers a command of the evaluation
  commands+=("python -m eval $*")
  "$PYTHON" -m eval "$@"
}

mkdir -p "$out"
do_ diagnose --out "$at/diagnosis.json"
do_ figures "$at/diagnosis.json" --out "$out"
do_ run --method fastv --benchmarks gqa,pope,textvqa --limit "$questions" --out "$at/fastv"
do_ figures "$at/fastv" --out "$out"
# The question that debiasing wins and whose picture has the widest border; any key would do.
sample=$("$PYTHON" - "$at/fastv" <<'PYTHON'
import sys
from eval.results import results
from eval.store import Folder

best = (-1.0, "")
for one in results(Folder(sys.argv[1])):
    items = {arm: result.score.items for arm, result in one.arms.items()}
    for row in one.arms["both"].rows:
        key, (width, height) = row["metadata"]["key"], row["metadata"]["size"]
        won = items["both"].get(key, 0) - items["none"].get(key, 0)
        best = max(best, (won + 1 - min(width, height) / max(width, height), key))
print(best[1])
PYTHON
)
do_ figures "$at/fastv" --sample "$sample" --out "$at"
for kind in svg png; do cp "$at/kept-$sample.$kind" "$out/kept.$kind"; done
if [[ "${RADAR:-1}" == 1 ]]; then
  do_ reproduce main --limit "$questions" --out "$at"
  cp "$at"/main/figures/radar.* "$out"
fi
{
  echo "# Figures"
  echo
  echo "Made by \`bash scripts/figures.sh $questions\`, which ran the commands below on the embedded model"
  echo "($("$PYTHON" -c 'from eval.checkpoints import digest_of; print("tiny-llava", digest_of("assets/tiny-llava"))'))."
  echo "They show that model on its drawn world, not what the methods do on real checkpoints."
  echo
  echo '```'
  printf '%s\n' "${commands[@]}"
  echo '```'
} > "$out/README.md"
