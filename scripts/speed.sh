#!/usr/bin/env bash
# Fills every table of docs/speed.md on this machine: prefill, decoding and memory of all shapes, what the methods
# themselves cost and how it grows, one debias call, and how often precision changes the kept tokens.
#   bash scripts/speed.sh [OUT]              writes OUT/*.json (default runs/speed) and prints the tables
# SHAPES, METHODS, KERNELS, TOKENS, BATCHES, KEEPS, ROUNDS and PRECISIONS choose less, or something else.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
out="${1:-runs/speed}"
keeps=${KEEPS:-64,128,192} rounds=${ROUNDS:-7} batches=${BATCHES:-1,8} kernels=${KERNELS:-sdpa,eager}
every=${METHODS:-$("$PYTHON" -c 'from pruners import names; print(",".join(names()))')} # what one cannot do is left out

speed() { # speed NAME FLAGS...
  local name=$1
  shift
  "$PYTHON" -m eval speed --rounds "$rounds" --out "$out/$name.json" "$@"
}

for shape in ${SHAPES:-llava-1.5-7b llava-1.5-13b llava-next-7b video-llava-7b internvl2.5-8b}; do
  speed "$shape" --shape "$shape" --method "$every" --keep "$keeps" --arms none,trend,padding,both \
    --batch-size "$batches" --attention "$kernels"
done
first=${SHAPES:-llava-1.5-7b}
first=${first%% *}
tokens=${TOKENS:-576,2056,2880,3328}
speed tokens --shape "$first" --method fastv,pyramiddrop --arms none,both --tokens "$tokens" --attention "$kernels"
speed ragged --shape "$first" --method fastv,sparsevlm --arms both --batch-size 8 --ragged 8 --decode 64 # padded rows
speed parts --shape "$first" --method "$every" --arms both --tokens "$tokens" --batch-size "$batches" --parts
"$PYTHON" -m eval speed --debias --out "$out/debias.json"
speed precision --precision "${PRECISIONS:-bfloat16,float16}" --shape "${PRECISION_SHAPE:-mid}" --method fastv,sparsevlm
