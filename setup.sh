#!/usr/bin/env bash
# One step from a fresh clone to a working environment. Safe to run again: does nothing when nothing is to be done.
#
#   bash setup.sh                 .venv with the pinned requirements (CPU or CUDA torch, as your package index gives it)
#   bash setup.sh --gpu           also flash-attn and deepspeed
#   bash setup.sh --forks [NAME]  also the authors' code: submodules, patches, and the environments they need
#
# DEBIAS_PYTHON=/path/to/python  use that interpreter (your own environment) as it is; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")"

usage() { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; }
fail() { echo "setup.sh: $*" >&2; exit 1; }

gpu=0 forks=0 names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --gpu) gpu=1 ;;
    --forks) forks=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) [ "$forks" = 1 ] || { usage >&2; exit 2; }; names+=("$1") ;;
  esac
  shift
done

if [ -n "${DEBIAS_PYTHON:-}" ]; then
  "$DEBIAS_PYTHON" -c 'import torch, transformers, scipy' 2>/dev/null ||
    fail "DEBIAS_PYTHON=$DEBIAS_PYTHON cannot import torch, transformers and scipy. Install requirements.txt there, or unset DEBIAS_PYTHON."
else
  base="${PYTHON:-python3}"
  command -v "$base" >/dev/null || fail "no '$base' on the PATH. Install Python 3.10 or newer, or name one: PYTHON=/path/to/python3 bash setup.sh"
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "Python 3.10 or newer is needed, but '$base' is $("$base" -V 2>&1 | cut -d' ' -f2). Name another one: PYTHON=/path/to/python3 bash setup.sh"
  # The stamp names what the environment was made from: unchanged means there is nothing to do.
  wanted=$( (cat requirements.txt pyproject.toml; echo "gpu=$gpu") | cksum)
  stamp=.venv/.made-from
  # An environment made with --gpu also serves a call without it.
  also=$( (cat requirements.txt pyproject.toml; echo "gpu=1") | cksum)
  made=$(cat "$stamp" 2>/dev/null || true)
  if [ "$made" != "$wanted" ] && [ "$made" != "$also" ]; then
    [ -x .venv/bin/python ] || { echo "setup.sh: making .venv" >&2; "$base" -m venv .venv || fail "python3 -m venv failed (Debian and Ubuntu: install python3-venv)"; }
    echo "setup.sh: installing the pinned requirements into .venv (once; a few minutes)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    if [ "$gpu" = 1 ]; then
      .venv/bin/python -m pip install --quiet --disable-pip-version-check "deepspeed>=0.17"
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation "flash-attn>=2.7" ||
        fail "flash-attn did not install (it needs a CUDA toolkit and a matching torch). Everything else is ready; PyTorch's own flash kernel is used instead."
    fi
    echo "$wanted" >"$stamp"
  fi
fi

if [ "$forks" = 1 ]; then
  exec bash scripts/forks.sh ${names[@]+"${names[@]}"}
fi
