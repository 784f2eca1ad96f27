#!/usr/bin/env bash
# Trains on several nodes of a Slurm cluster, a process on each.
#
#   sbatch --nodes=4 tools/slurm.sh maml-tf --strategy=multi_worker …
#
# With --gpus-per-task=1 after --nodes=4 each has a GPU of its own.
# It is run where the package is installed; the folder of the run (--logdir, or
# --checkpoint of reptile-tf) has to be on a disk that all nodes share.
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail

# shellcheck disable=SC2016 # The environment of each task, not of the batch.
srun --kill-on-bad-exit=0 bash -euc '
  export TF_CONFIG; TF_CONFIG=$(python tools/tf_config.py)
  exec tools/supervise.sh "$@"' - "$@"
