#!/usr/bin/env bash
# Every published number by name; without arguments it explains itself.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tools/venv.sh
source tools/venv.sh

case ${1-help} in
  # Standard library only, as is the check: a typing error installs nothing.
  help | -h | --help | list) exec "${PYTHON:-python3}" experiments/run.py "$@" ;;
esac
"${PYTHON:-python3}" experiments/run.py --check "$@"
use_venv .
exec python experiments/run.py "$@"
