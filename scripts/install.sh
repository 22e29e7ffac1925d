#!/usr/bin/env bash
# Make the virtual environment of this checkout; `make install` is how to call it.
#
#   PYTHON  interpreter that makes the environment (default python3)
#   VENV    folder of the environment              (default .venv)
#   LOWEST  1 takes the lowest versions that pyproject.toml allows, instead of those
#           in constraints.txt                     (default empty)
#
# A second call only adds what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

say() { printf '%s\n' "$*" >&2; }

explain_no_python() {
  say "mtkd needs Python 3.11 or later; '$PYTHON' is $1."
  say "Name another interpreter, for example: make quickstart PYTHON=python3.12"
}

explain_failed_install() {
  say ""
  say "mtkd: installing $1 did not succeed; pip's own words are above."
  say "  no network      copy a folder of wheels here, then repeat with"
  say "                  PIP_NO_INDEX=1 PIP_FIND_LINKS=/that/folder in the environment;"
  say "                  fill it elsewhere: pip download -d wheels -c constraints.txt ."
  say "  your own mirror set PIP_INDEX_URL (and PIP_CERT where it has its own authority)"
  say "  a slow network  set PIP_DEFAULT_TIMEOUT=180"
  say "  a proxy         set HTTPS_PROXY"
  say "  a full disk     'df -h .' tells; a CPU build needs about 3 GB, CUDA about 9 GB"
  say "Then run the same command again: what is installed already stays."
}

if [[ ! -x $VENV/bin/python ]]; then
  version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
    2>/dev/null) || { explain_no_python "not to be run"; exit 1; }
  if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    explain_no_python "Python $version"
    exit 1
  fi
  say "mtkd: making $VENV with $PYTHON ($version)"
  if ! "$PYTHON" -m venv "$VENV"; then
    rm -rf "$VENV"
    say "mtkd: '$PYTHON -m venv' failed; on Debian and Ubuntu install python3-venv."
    exit 1
  fi
fi

constraints=constraints.txt
if [[ -n ${LOWEST:-} ]]; then
  constraints=$VENV/lowest.txt
  "$VENV/bin/python" scripts/lowest.py >"$constraints"
fi

pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
# pip compiles on one core what it has installed, which takes nearly as long as all else:
# here all cores do, torch's part while pip fetches the rest. Some packages carry files
# that are no Python of this version, which stay as they are.
packages=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
compile() {
  "$VENV/bin/python" -m compileall -q -j "$(nproc 2>/dev/null || echo 0)" "$1" \
    >/dev/null 2>&1 || true
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
trap 'exit 130' INT
# torch first and alone: its pinned release decides which build everything else
# meets, and the editable build below can then do without an environment of its own.
say "mtkd: installing torch (the largest part)"
"${pip[@]}" install --no-compile -c "$constraints" torch 'setuptools>=77' wheel || {
  explain_failed_install torch
  exit 1
}
compile "$packages/torch" &
say "mtkd: installing mtkd and what it needs"
"${pip[@]}" install --no-compile -c "$constraints" --no-build-isolation -e '.[dev]' || {
  explain_failed_install mtkd
  exit 1
}
wait
say "mtkd: compiling bytecode, so that the first command starts as soon as the next"
compile "$packages"
"$VENV/bin/python" -c 'import torch, transformers, deepspeed' >/dev/null 2>&1 || {
  say "mtkd: installed, but torch, transformers or deepspeed does not import:"
  "$VENV/bin/python" -c 'import torch, transformers, deepspeed' || exit 1
}
say "mtkd: $VENV is ready"
