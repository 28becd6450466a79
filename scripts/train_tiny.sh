#!/usr/bin/env bash
# Trains assets/tiny-llava and assets/tiny-video-llava from nothing. Stopped and started again, it goes on where it was.
#   bash scripts/train_tiny.sh [FOLDER]     # FOLDER holds checkpoints and learning curves, default .cache/tiny-training
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
run="${1:-.cache/tiny-training}"
"$PYTHON" -m tiny.train all --run "$run"
"$PYTHON" -m tiny.probe assets/tiny-llava --json "$run/probe.json"
