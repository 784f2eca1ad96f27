#!/usr/bin/env bash
# Runs a command again until it succeeds, as systemd or Kubernetes does.
#
#   tools/supervise.sh maml-tf --strategy=multi_worker --logdir=DIR …
#
# It gives up after TRIES times (default 100), with PAUSE seconds between them
# (default 5). Training goes on from its latest checkpoint each time. SIGINT and
# SIGTERM end the command, which saves first on a single host, and this.
set -muo pipefail  # A terminal's Ctrl-C comes to this alone, not to both.

stop() {
  kill -TERM "$child" 2> /dev/null
  wait "$child"
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
for try in $(seq "${TRIES:-100}"); do
  "$@" &
  child=$!
  wait "$child" && exit 0
  status=$?
  echo "supervise: status $status in try $try." >&2
  sleep "${PAUSE:-5}" &
  child=$!
  wait "$child"
done
exit "$status"
