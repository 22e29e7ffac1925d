#!/usr/bin/env bash
# Run a program of this checkout's environment; .pre-commit-config.yaml calls it.
#
#   scripts/in_venv.sh PROGRAM [ARGUMENT...]
#
#   VENV    folder of the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
program=$1
shift
if [[ ! -x $VENV/bin/$program ]]; then
  printf '%s\n' "mtkd: $VENV has no $program; make the environment first: make install" >&2
  exit 1
fi
exec "$VENV/bin/$program" "$@"
