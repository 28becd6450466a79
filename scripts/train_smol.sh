#!/usr/bin/env bash
# Trains what `smol` adds to its language model: tower, projector, LoRA. Stopped and started again, it goes on where it
# was. Hours on one core with bfloat16 products, minutes on a GPU; started in the background, it gives way to all else:
#   nohup nice -n 15 bash scripts/train_smol.sh [FOLDER] &   # FOLDER holds checkpoints and curves, default runs/smol
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
run="${1:-runs/smol}"
for stage in tower bridge tune check save; do
  "$PYTHON" -m tiny.smol.train "$stage" --run "$run"
done
