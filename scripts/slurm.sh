#!/usr/bin/env bash
#SBATCH --job-name=debias
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=6
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=debias-%j.log
# One process per GPU, each with its share of the questions. Run it from the repository's root; flags of sbatch come
# first and win over those above, every flag of `python -m eval run` is passed on:
#   sbatch --nodes 8 scripts/slurm.sh --method all --model DIR --data DIR --out runs/paper
# A process that dies loses the batch it was at, and the others go on. What it left open is answered by the next try
# (TRIES, by default 3), by a requeued job, or by the same command with any other number of processes.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=scripts/env.sh
source scripts/env.sh
if ! command -v srun >/dev/null; then
  echo "slurm.sh: srun is not there. On a machine without SLURM: torchrun --nproc-per-node 8 -m eval run ..." >&2
  exit 2
fi
for ((try = 1; try <= ${TRIES:-3}; try++)); do
  status=0
  srun --kill-on-bad-exit=0 "$PYTHON" -m eval run "$@" || status=$?
  if [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then # done, or flags that no second try makes better
    exit "$status"
  fi
  echo "slurm.sh: try $try ended with status $status; what is answered stays" >&2
done
exit "$status"
