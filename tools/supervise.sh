#!/usr/bin/env bash
# Runs a command again until it succeeds, as systemd or Kubernetes does.
#
#   tools/supervise.sh maml-tf --strategy=multi_worker --logdir=DIR …
#
# It gives up after TRIES times (default 100), with PAUSE seconds between them
# (default 5). Training goes on from its latest checkpoint each time.
set -uo pipefail

for try in $(seq "${TRIES:-100}"); do
  "$@" && exit 0
  status=$?
  echo "supervise: status $status in try $try." >&2
  sleep "${PAUSE:-5}"
done
exit "$status"
