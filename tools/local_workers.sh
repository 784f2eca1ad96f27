#!/usr/bin/env bash
# Trains by several processes on this host, each started again if it dies.
#
#   tools/local_workers.sh 2 maml-tf --strategy=multi_worker --logdir=DIR …
#
# They listen at ports from PORT on (default 2222); the output is that of the
# first. Each has the GPU of its number, unless CUDA_VISIBLE_DEVICES is set.
# See tools/supervise.sh for TRIES and PAUSE.
set -euo pipefail

workers=$1
shift
hosts=""
for i in $(seq 0 $((workers - 1))); do
  hosts+="\"localhost:$((${PORT:-2222} + i))\", "
done
stop() {
  trap - INT TERM
  # shellcheck disable=SC2046 # One word for each job.
  kill $(jobs -p) 2> /dev/null
  wait
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
for i in $(seq $((workers - 1)) -1 0); do
  task="{\"type\": \"worker\", \"index\": $i}"
  export TF_CONFIG="{\"cluster\": {\"worker\": [${hosts%, }]}, \"task\": $task}"
  if [ "$i" = 0 ]; then exec 3>&1; else exec 3> /dev/null; fi
  CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-$i}" \
    "$(dirname "$0")/supervise.sh" "$@" >&3 &
done
status=0
for job in $(jobs -p); do
  wait "$job" || status=$?
done
exit "$status"
