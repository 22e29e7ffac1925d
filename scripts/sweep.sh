#!/usr/bin/env bash
#SBATCH --job-name=mtkd-sweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A_%a.out
# Train a config under several settings, the trials shared by the tasks of an array:
#
#   sbatch --array=0-7 --gpus=1 scripts/sweep.sh my.yaml seed=[0,1,2] \
#     train.learning_rate=[0.001,0.003] --by bits_per_char
#   bash scripts/sweep.sh my.yaml loss.lambda_k=[0,1] --by bits_per_char  # all of it, here
#   bash scripts/sweep.sh --print my.yaml ...                  # print, do nothing
#
# Tasks take whatever trial nobody else is training, so that they may die, run twice, in
# any number and on different nodes. A task whose time is up saves its trial and ends with
# 75; the same line again trains only what is missing. Under --search halving tasks wait
# for each other at every rung.

# ---- the machine; empty: found -------------------------------------------------------
PYTHON="${PYTHON:-}"         # an interpreter; empty: this checkout's .venv, else python3
MODULES="${MODULES:-}"       # for `module load`, such as "gcc cuda/12.8"
SITE_HOOK="${SITE_HOOK:-}"   # a file to source for anything else

set -euo pipefail

say() { printf 'sweep: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Print the checkout this script belongs to. SLURM runs a copy from its spool folder, so
# there the job's own record of the command comes first. That copy has no neighbour to
# source before this has found one: these lines are the same in all scripts
# (tests/scripts/test_find_root.py).
find_root() {
  local candidates=() submitted folder
  [[ -z ${MTKD_HOME:-} ]] || candidates+=("$MTKD_HOME")
  candidates+=("$(dirname "${BASH_SOURCE[0]}")/..")
  if [[ -n ${SLURM_JOB_ID:-} ]]; then
    submitted=$(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null \
      | sed -n '1s/.* Command=\([^ ]*\).*/\1/p') || submitted=
    [[ -z $submitted ]] || candidates+=("$(dirname "$submitted")/..")
    candidates+=("${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/..")
  fi
  for folder in "${candidates[@]}"; do
    if [[ -f $folder/scripts/run_multi_teacher.sh && -d $folder/experiments ]]; then
      (cd "$folder" && pwd -P)
      return
    fi
  done
  die "cannot find the checkout: looked in ${candidates[*]}; set MTKD_HOME to it"
}

print_only=false
words=()
for word in "$@"; do
  case $word in
    --print) print_only=true ;;
    -h | --help) sed -n '2,/^$/{/^#SBATCH/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) words+=("$word") ;;
  esac
done
((${#words[@]})) || die "give a config, as to 'mtkd sweep'; -h shows examples"

ROOT=$(find_root)
set +eu # these scripts of others do not hold under it
# shellcheck disable=SC2086 # several words on purpose
[[ -z $MODULES ]] || module load $MODULES || die "module load $MODULES did not succeed"
# shellcheck disable=SC1090 # the user's file
[[ -z $SITE_HOOK ]] || source "$SITE_HOOK" || die "source $SITE_HOOK did not succeed"
set -eu
if [[ -z $PYTHON ]]; then
  PYTHON=python3
  [[ ! -x $ROOT/.venv/bin/python ]] || PYTHON=$ROOT/.venv/bin/python
fi
command -v "$PYTHON" >/dev/null || die "no interpreter '$PYTHON'; set PYTHON"

if [[ -n ${SLURM_JOB_ID:-} ]]; then # nodes of a cluster seldom reach the hub
  export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
  export TRANSFORMERS_OFFLINE="$HF_HUB_OFFLINE"
fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}" PYTHONUNBUFFERED=1
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
command=("$PYTHON" -m experiments.cli sweep "${words[@]}")
if $print_only; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
# In place of this shell, so that TERM before the time is up reaches it: the trial that is
# being trained is saved, and the task ends with 75.
exec "${command[@]}"
