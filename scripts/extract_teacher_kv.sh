#!/usr/bin/env bash
#SBATCH --job-name=mtkd-extract
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%A_%a.out
# Store teachers' keys and values, each task of an array its own stretch of shards:
#
#   sbatch --array=0-7 scripts/extract_teacher_kv.sh my.yaml store.encoding=int8
#   sbatch --array=0-7 --gpus=1 scripts/extract_teacher_kv.sh my.yaml
#   bash scripts/extract_teacher_kv.sh my.yaml             # all of it, here
#   bash scripts/extract_teacher_kv.sh --dry-run my.yaml   # print, do nothing
#
# or let a teacher write text, each task its own stretch of openings:
#
#   sbatch --array=0-7 scripts/extract_teacher_kv.sh write my.yaml --by llama --out w.jsonl
#
# Tasks may die, run twice, in any order and on different nodes. The same line again
# makes only what is missing; whoever makes the last shard also writes the manifest, or
# the file of all texts.

# ---- the machine; empty: found -------------------------------------------------------
PYTHON="${PYTHON:-}"         # an interpreter; empty: this checkout's .venv, else python3
MODULES="${MODULES:-}"       # for `module load`, such as "gcc cuda/12.8"
SITE_HOOK="${SITE_HOOK:-}"   # a file to source for anything else

set -euo pipefail

say() { printf 'extract_teacher_kv: %s\n' "$*" >&2; }
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

# Print I/N: this task's number from 1, and how many tasks the array has. An array with
# gaps would leave shards to nobody.
share() {
  local id=${SLURM_ARRAY_TASK_ID:-0} first=${SLURM_ARRAY_TASK_MIN:-0}
  local last=${SLURM_ARRAY_TASK_MAX:-0} count=${SLURM_ARRAY_TASK_COUNT:-1}
  if [[ -n ${SHARE:-} ]]; then
    echo "$SHARE" # of a single task that is run again
    return
  fi
  ((last - first + 1 == count)) || die "the array $first-$last has $count tasks; give" \
    "one without gaps, such as --array=0-7; to run a single task again set SHARE=3/8"
  echo "$((id - first + 1))/$count"
}

dry_run=false
words=()
for word in "$@"; do
  case $word in
    --dry-run) dry_run=true ;;
    -h | --help) sed -n '2,/^$/{/^#SBATCH/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) words+=("$word") ;;
  esac
done
((${#words[@]})) || die "give a config, as to 'mtkd extract'; -h shows examples"

verb=extract
if [[ ${words[0]} == write && ! -e write ]]; then
  verb=write words=("${words[@]:1}")
fi
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
share=$(share)
command=("$PYTHON" -m experiments.cli "$verb" "${words[@]}" --shard "$share")
if $dry_run; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
# In place of this shell, so that TERM before the time is up reaches it: the shard that
# is being made is finished, and the task ends with 75.
exec "${command[@]}"
