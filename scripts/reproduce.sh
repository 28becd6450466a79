#!/usr/bin/env bash
# A table or figure of the papers, by name; without one, the list of them. Without flags: the embedded model and data.
#   bash scripts/reproduce.sh main --limit 8
#   bash scripts/reproduce.sh main --model llava-hf/llava-1.5-7b-hf --data playground/data/eval
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec "$PYTHON" -m eval reproduce "${@:---list}"
