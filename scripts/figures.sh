#!/usr/bin/env bash
# Makes all figures again, from the embedded model and data, into assets/figures, and the page that shows them.
#   bash scripts/figures.sh [QUESTIONS]      questions of each benchmark (default 32); goes on where it stopped
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"
questions="${1:-32}"
out=assets/figures
model=$("$PYTHON" -c 'from eval.answering.checkpoints import digest_of; print("tiny-llava", digest_of("assets/tiny-llava"))')
at=runs/figures-$questions-${model##* } # runs belong to the weights that answered
page=()

do_() { # runs and remembers a command of the evaluation
  last="python -m eval $*"
  "$PYTHON" -m eval "$@"
}
reproduced() { # an artefact on the embedded data
  do_ reproduce "$1" --limit "$questions" --batch-size 32 --report-samples 0 --out "$at"
}
show() { # FIGURE CAPTION [FOLDER]: a figure that the last command made, in FOLDER or in its place already
  if [[ $# == 3 ]]; then cp "$3/$1".{svg,png} "$out"; fi
  page+=("" "$2" "" "\`$last\`" "" "![$2]($1.png)")
}

mkdir -p "$out"
do_ diagnose --heads --out "$at/diagnosis.json"
do_ figures "$at/diagnosis.json" --out "$out"
show attention-maps "Mean attention over the picture, as a multiple of an even share: as the model gives it, without padding, divided by the exponential if one was found."
show attention-trends "Attention by position, raw, divided by the average of other pictures, and by the exponential fitted to them, if they agree on one."
show attention-layers "Every layer in every arm with 95 % intervals, which carry the error of the fit; before the rotary embedding; what chance gives; crosses: no trend here."
show attention-heads "Rise of every head, with the rotary embedding and before it."
show fit-error "Standard error of a fitted rise against the number of pictures it is fitted to, layer by layer."
do_ fit --method fastv --layer 1 --out "$at/layer1.toml" --plot "$out/fit"
show fit "Mean scores of held-out pictures by position, and the trend fitted to them, for a cut before layer 1. Before layer 2, where FastV cuts by default, this model has no trend, and the stored weights are 1 (dots)."

reproduced methods
methods=$at/methods
fastv=$methods/fastv-128
show budget "Accuracy against budget: every method in every arm; random and grid look at nothing." "$methods/figures"
show debias-by-method "What debiasing changes, by method and budget, with paired 95 % intervals." "$methods/figures"
show debiased-random-by-method "Debiased methods against random tokens that avoid the padding, too." "$methods/figures"
do_ run --method fastv --benchmarks gqa,vqav2,textvqa,pope,vizwiz,mmvet,refcoco --limit "$questions" --batch-size 32 \
  --report-samples 0 --out "$at/fastv"
do_ figures "$at/fastv" --out "$out"
show scores "FastV with 128 of 576 tokens, and the unpruned model: benchmarks by arm, with 95 % intervals over pictures."
show selection-frequency "How often FastV keeps each place of the padded square, for the commonest aspect ratio of each orientation, whose edge is dashed. Arms that keep the same share a column."
# The question that debiasing wins and whose picture has the widest border; any key would do.
sample=$("$PYTHON" - "$fastv" <<'PYTHON'
import sys
from eval.scoring.results import results
from eval.answering.store import Folder

best = (-1.0, "")
for one in results(Folder(sys.argv[1])):
    items = {arm: result.score.items for arm, result in one.arms.items()}
    for row in one.arms["both"].rows:
        key, (width, height) = row["metadata"]["key"], row["metadata"]["size"]
        won = items["both"].get(key, 0) - items["none"].get(key, 0)
        best = max(best, (won + 1 - min(width, height) / max(width, height), key))
print(best[1])
PYTHON
)
rm -rf "$at/kept"
do_ figures "$methods"/{fastv,sparsevlm,vispruner,random}-128 --sample "$sample" --out "$at/kept"
for kind in svg png; do mv "$at"/kept/*."$kind" "$at/kept/kept.$kind"; done
show kept "One picture in four runs and every arm: what stayed after the last cut, and the answer." "$at/kept"

do_ figures "$methods"/{fastv,pyramiddrop,sparsevlm,himap,tokencarve,illava,d2pruner,deeplayer,dart,vscan}-128 --out "$at/radar"
show radar "Ten methods on six benchmarks with 128 of 576 tokens, as they are and debiased: mean scores." "$at/radar"
reproduced ratio
show ratio "A deep layer's attention divided by a shallow one's: mean score on RefCOCO, RefCOCO+ and RefCOCOg." "$at/ratio/figures"
reproduced iou
show token-box-iou "Overlap of the kept tokens with the box that a sentence refers to." "$at/iou/figures"
do_ show assets/example.png "What colour is the circle?" --keep 0.2 --out "$out/show.png" --terminal none
show show "One picture and one question in every arm: what FastV kept of 144 tokens, and the answer."
{
  echo "# Figures"
  echo
  echo "Made by \`bash scripts/figures.sh $questions\` with the embedded model ($model): $questions questions of each"
  echo "benchmark, each figure by the command above it. They show that model on its drawn world, not what the methods do on"
  echo "real checkpoints. All but the last are also there as .svg. [How to read the tables they come from](../../docs/reproduce.md)."
  printf '%s\n' "${page[@]}"
} > "$out/README.md"
