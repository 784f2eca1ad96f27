# shellcheck shell=bash
# Sourced by the scripts above: `use_venv .`, or `use_venv ".[test]"`, enters
# .venv, having made it and installed that in it if it is missing or outdated.

require_version() {
  if ! "$1" -c 'import sys
sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
    echo "Python 3.10 to 3.13 is needed; $1 is" \
      "$("$1" --version 2>/dev/null || echo missing)." \
      "Name another: PYTHON=python3.12 $0" >&2
    return 1
  fi
}

use_venv() {
  local python=${PYTHON:-python3} stamp=".venv/$1.installed"

  if [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    require_version "$python"
    echo "Installing into .venv: a minute or more, TensorFlow is large."
    "$python" -m venv .venv
    .venv/bin/python -m pip install -c constraints.txt -e "$1"
    touch "$stamp"
  fi
  PATH=$PWD/.venv/bin:$PATH
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
}
