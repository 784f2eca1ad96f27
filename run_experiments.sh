#!/usr/bin/env bash
# Every published number by name; without arguments it explains itself.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
# shellcheck source=tools/venv.sh
source tools/venv.sh

python=.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
require_version "$python"
case " ${*:-help} " in
  # Standard library only, as is the check: a typing error installs nothing.
  " list " | *" help "* | *" -h "* | *" --help "*)
    exec "$python" experiments/run.py "$@"
    ;;
esac
"$python" experiments/run.py --check "$@"
use_venv .
exec python experiments/run.py "$@"
