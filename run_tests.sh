#!/usr/bin/env bash
# The whole test suite, from a bare machine. Arguments are pytest's.
# A worker takes one core and grows to 6 GB, so there are at most four.
# PYTHON=python3.12 ./run_tests.sh chooses the Python that .venv is made from.
# ./run_tests.sh --torture [FLAG…] instead kills trainings for an hour or so,
# see tests/torture/torture.py.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tools/venv.sh
source tools/venv.sh

use_venv ".[test]"
if [ "${1-}" = --torture ]; then
  exec python tests/torture/torture.py "${@:2}"
fi
ruff format --check .
ruff check .
mypy
python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
