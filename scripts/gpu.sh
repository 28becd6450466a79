#!/usr/bin/env bash
# Everything that is measured on a GPU, a step at a time: smoke, speed, forks, throughput, train, vllm.
#   bash scripts/gpu.sh STEP               under 8 minutes on one H100; writes STEP.json and STEP.md
#   bash scripts/gpu.sh STEP --rehearse    every line of it on the CPU, scaled down
# OUT=FOLDER is where (default runs/gpu). Where there is neither .venv nor a network, python3 serves as it is.
set -euo pipefail
root="$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${DEBIAS_PYTHON:-}" ] && [ ! -x "$root/.venv/bin/python" ] && python3 -c 'import torch' 2>/dev/null; then
  export DEBIAS_PYTHON=python3
fi
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec "$PYTHON" -m eval gpu --out "${OUT:-runs/gpu}" "$@"
