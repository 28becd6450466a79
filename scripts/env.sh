#!/usr/bin/env bash
# Sourced by every script: goes to the repository's root, makes the environment when it is missing, and sets $PYTHON to its interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash setup.sh
PYTHON="${DEBIAS_PYTHON:-.venv/bin/python}"
export PYTHON PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
