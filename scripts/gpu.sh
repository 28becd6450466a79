#!/usr/bin/env bash
# Everything that is measured on a GPU, a step at a time: smoke, speed, forks, throughput, train, vllm.
#   bash scripts/gpu.sh STEP               under 8 minutes on one H100; writes STEP.json and STEP.md
#   bash scripts/gpu.sh STEP --rehearse    every line of it on the CPU, scaled down
#   bash scripts/gpu.sh wheels             for a GPU machine without a network: what its Python lacks, into runs/wheels
#                                          (2 MB; not av, 36 MB, which only clips are read with)
# OUT=FOLDER is where (default runs/gpu). Where there is no .venv and python3 has torch, python3 serves as it is, with
# what runs/wheels holds besides.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ "${1:-}" = wheels ]; then
  exec "${DEBIAS_PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
    --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --constraint "$root/requirements.txt" --dest "$root/runs/wheels" rich shtab jinja2 openpyxl
fi
if [ -z "${DEBIAS_PYTHON:-}" ] && [ ! -x "$root/.venv/bin/python" ] && python3 -c 'import torch' 2>/dev/null; then
  export DEBIAS_PYTHON=python3
  if [ -d "$root/runs/wheels" ]; then
    [ -d "$root/runs/site" ] || python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
      --target "$root/runs/site" "$root"/runs/wheels/*.whl
    export PYTHONPATH="$root/runs/site${PYTHONPATH:+:$PYTHONPATH}"
  fi
fi
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
exec "$PYTHON" -m eval gpu --out "${OUT:-runs/gpu}" "$@"
