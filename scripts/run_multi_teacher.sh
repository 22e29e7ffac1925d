#!/usr/bin/env bash
#SBATCH --job-name=mtkd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
# Multi-teacher KV distillation, on a laptop or on a cluster, by the same line:
#
#   bash scripts/run_multi_teacher.sh
#   sbatch scripts/run_multi_teacher.sh
#   PHASE=4 TEACHER_MODELS="gpt2 Qwen/Qwen2.5-0.5B" STUDENT_MODEL=./student \
#     DATA="train.jsonl" sbatch --nodes=2 --gpus-per-node=4 scripts/run_multi_teacher.sh
#   bash scripts/run_multi_teacher.sh --dry-run            # check, print, do nothing
#   bash scripts/run_multi_teacher.sh --submit             # check, then sbatch
#   bash scripts/run_multi_teacher.sh train.steps=20       # any config override
#
# Partition, time, account and GPUs are your site's: give them to sbatch, or with
# --submit in SBATCH_OPTIONS="--nodes=2 --gpus-per-node=4".
# The run's folder is ./runs/mtkd-JOB where you submit, as `mtkd train` writes ./runs.

# ---- what to train; empty: as CONFIG or the defaults say ---------------------------
STUDENT_MODEL="${STUDENT_MODEL:-}"   # hub name, local folder or zoo:NAME
TEACHER_MODELS="${TEACHER_MODELS:-}" # several of the same, by blanks or commas
PHASE="${PHASE:-all}"                # 1..5, a name, several of them, or all
FUSION_METHOD="${FUSION_METHOD:-}"   # fixed, similarity, learnable or a plugin's
ROUTER_TYPE="${ROUTER_TYPE:-}"       # mlp, gate, attention or a plugin's
BATCH_SIZE="${BATCH_SIZE:-}"         # samples per process and forward pass
GRAD_ACCUM="${GRAD_ACCUM:-}"         # forward passes per optimiser step
MAX_LENGTH="${MAX_LENGTH:-}"         # student tokens per sample
NUM_EPOCHS="${NUM_EPOCHS:-}"         # passes over the text, per phase
LEARNING_RATE="${LEARNING_RATE:-}"   # peak, of the student

# ---- where, on what, how; empty: likewise ------------------------------------------
CONFIG="${CONFIG:-}"         # a YAML file; without teachers here: quickstart
RUN_DIR="${RUN_DIR:-}"       # the run's folder; empty: ./runs/mtkd-JOB
DATA="${DATA:-}"             # training text: files or folders, by blanks or commas
EVAL_DATA="${EVAL_DATA:-}"   # held-out text, likewise
PRECISION="${PRECISION:-}"   # auto, bf16, fp16 or fp32
ZERO_STAGE="${ZERO_STAGE:-}" # DeepSpeed ZeRO stage
GRADIENT_CHECKPOINTING="${GRADIENT_CHECKPOINTING:-}" # 1 saves memory, costs time
SEED="${SEED:-}"

# ---- the machine -------------------------------------------------------------------
PYTHON="${PYTHON:-}"                    # empty: this checkout's .venv, else python3
MODULES="${MODULES:-}"                  # for `module load`, such as "gcc cuda/12.8"
CONDA_ENV="${CONDA_ENV:-}"              # for `conda activate`
SITE_HOOK="${SITE_HOOK:-}"              # a file to source for anything else
NPROC_PER_NODE="${NPROC_PER_NODE:-}"    # empty: one per GPU, or one
MASTER_ADDR="${MASTER_ADDR:-}"          # several nodes: an address of the first one,
MASTER_PORT="${MASTER_PORT:-}"          # which listens there; empty: its name, the job id
MAX_REQUEUES="${MAX_REQUEUES:-20}"      # how often a stopped job may go back in line
SHUTDOWN_TIMEOUT="${SHUTDOWN_TIMEOUT:-240}" # seconds a stopping run has for saving
MTKD_ENTRY="${MTKD_ENTRY:-}"            # another program to start in place of training
SBATCH_OPTIONS="${SBATCH_OPTIONS:-}"    # words for sbatch, with --submit

set -euo pipefail

say() { printf 'run_multi_teacher: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

usage() { # the comment at the top, without the SBATCH lines
  sed -n '2,/^$/{/^#SBATCH/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# ---- finding things ----------------------------------------------------------------

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

load_site() { # these scripts of others do not hold under `set -eu`
  set +eu
  local failed=
  if [[ -n $MODULES ]]; then
    # shellcheck disable=SC2086 # several words on purpose
    module load $MODULES || failed="module load $MODULES"
  fi
  if [[ -n $CONDA_ENV ]]; then
    eval "$(conda shell.bash hook)" && conda activate "$CONDA_ENV" \
      || failed="conda activate $CONDA_ENV"
  fi
  if [[ -n $SITE_HOOK ]]; then
    # shellcheck disable=SC1090 # the user's file
    source "$SITE_HOOK" || failed="source $SITE_HOOK"
  fi
  set -eu
  [[ -z $failed ]] || die "'$failed' did not succeed"
}

find_python() {
  if [[ -n $PYTHON ]]; then
    :
  elif [[ -n $CONDA_ENV || -n ${VIRTUAL_ENV:-} ]]; then
    PYTHON=python
  elif [[ -x $ROOT/.venv/bin/python ]]; then
    PYTHON=$ROOT/.venv/bin/python
  else
    PYTHON=python3
  fi
  command -v "$PYTHON" >/dev/null || die "no interpreter '$PYTHON'; set PYTHON"
}

gpus_here() {
  if [[ -n ${SLURM_GPUS_ON_NODE:-} ]]; then
    echo "$SLURM_GPUS_ON_NODE"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
  else
    echo 0
  fi
}

# Print an address of the job's first node. Where its name is not one the resolver
# knows (clusters in a box), SLURM's own record of the address serves.
first_node_address() {
  local name address
  name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  if ! getent hosts "$name" >/dev/null; then
    address=$(scontrol show node -o "$name" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  fi
  echo "${address:-$name}"
}

# ---- settings to overrides ----------------------------------------------------------

json_string() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

words() { # one a line, from a list by blanks, commas or lines
  tr -s ', \t\n' '\n' <<<"$1" | sed '/^$/d'
}

json_list() {
  local word out=''
  while IFS= read -r word; do
    out+="${out:+, }$(json_string "$word")"
  done < <(words "$1")
  printf '[%s]' "$out"
}

# Print {"gpt2": {"model": "gpt2"}, ...}: names are the last part of each path, with
# a number where two would be the same.
json_teachers() {
  local word name base out='' i
  declare -A seen=()
  while IFS= read -r word; do
    base=${word%/}
    base=${base##*/}
    base=${base#zoo:}
    base=${base//[^A-Za-z0-9_-]/-}
    name=$base
    for ((i = 2; ${seen[$name]:-0}; i++)); do name=$base-$i; done
    seen[$name]=1
    out+="${out:+, }$(json_string "$name"): {\"model\": $(json_string "$word")}"
  done < <(words "$1")
  printf '{%s}' "$out"
}

phase_names() { # one a line; 1..5 are the built-in phases in their order
  local word names=(dual multi_basic real_multi routing z_space)
  while IFS= read -r word; do
    case $word in
      [1-5]) echo "${names[word - 1]}" ;;
      *[!0-9]*) echo "$word" ;;
      *) die "PHASE names phase $word; give 1 to 5, a phase's name, several, or all" ;;
    esac
  done < <(words "$1")
}

add() { # KEY VALUE: one override, unless there is no value
  [[ -z $2 ]] || arguments+=("$1=$2")
}

resolve_arguments() {
  local phases
  phases=$(phase_names "$PHASE")
  arguments=()
  [[ -n $CONFIG || -n $TEACHER_MODELS ]] || CONFIG=quickstart
  [[ -z $CONFIG ]] || arguments+=("$CONFIG")
  add run.dir "$(dirname "$RUN_DIR")"
  add run.name "$(basename "$RUN_DIR")"
  add run.seed "$SEED"
  add student.model "$STUDENT_MODEL"
  [[ -z $TEACHER_MODELS ]] || add teachers "$(json_teachers "$TEACHER_MODELS")"
  [[ -z $DATA ]] || add data.train "$(json_list "$DATA")"
  [[ -z $EVAL_DATA ]] || add data.eval "$(json_list "$EVAL_DATA")"
  [[ $PHASE == all ]] || add phases "$(json_list "$phases")"
  add data.max_length "$MAX_LENGTH"
  # The general sections lie below a phase's preset; what the user sets lies above.
  add phase.all.fuse.fusion_method "$FUSION_METHOD"
  add phase.all.fuse.router_type "$ROUTER_TYPE"
  add phase.all.train.batch_size "$BATCH_SIZE"
  add phase.all.train.grad_accum "$GRAD_ACCUM"
  add phase.all.train.num_epochs "$NUM_EPOCHS"
  [[ -z $NUM_EPOCHS ]] || add phase.all.train.steps null # a number would outrank it
  add phase.all.train.learning_rate "$LEARNING_RATE"
  add phase.all.train.zero_stage "$ZERO_STAGE"
  case $PRECISION in
    '') ;;
    fp32) arguments+=(phase.all.train.bf16=false phase.all.train.fp16=false) ;;
    auto) arguments+=(phase.all.train.bf16=auto phase.all.train.fp16=false) ;;
    bf16) arguments+=(phase.all.train.bf16=true phase.all.train.fp16=false) ;;
    fp16) arguments+=(phase.all.train.bf16=false phase.all.train.fp16=true) ;;
    *) die "PRECISION is '$PRECISION'; give auto, bf16, fp16 or fp32" ;;
  esac
  case $GRADIENT_CHECKPOINTING in
    '' | 0 | false) ;;
    1 | true) arguments+=(phase.all.train.gradient_checkpointing=true) ;;
    *) die "GRADIENT_CHECKPOINTING is '$GRADIENT_CHECKPOINTING'; give 1 or 0" ;;
  esac
  arguments+=("$@")
}

# Text is given here, by a config or by an override; else models of one's own would
# learn from the embedded sample unnoticed.
say_where_no_text_is_given() {
  local word
  [[ -z $DATA && -z $CONFIG ]] || return 0
  for word in "$@"; do
    [[ $word != data.train=* && $word != data=* ]] || return 0
  done
  while IFS= read -r word; do
    [[ $word != zoo:* ]] || continue
    say "WARNING: DATA is empty: $word learns from the embedded sample of Python's" \
      "prose and code; give your own text, such as DATA=texts.jsonl"
    return 0
  done < <(words "$STUDENT_MODEL $TEACHER_MODELS")
}

whole_numbers() { # NAME...: what bash counts with, before it does
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[0-9]*$ ]] || die "$name is '${!name}'; give a whole number"
  done
}

# Have the command itself look at what would be trained: settings, plugins, texts and
# models, as far as they can be seen from here. Another entry has rules of its own.
check_arguments() {
  [[ -z $OTHER_ENTRY ]] || return 0
  "$PYTHON" "$MTKD_ENTRY" "${arguments[@]}" --check >&2 \
    || die "nothing was started or submitted: see the error above"
}

resolve_launcher() {
  local nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}} torchrun
  torchrun=("$PYTHON" "$ROOT/experiments/launcher.py") # see docs/cluster.md on who listens
  # USR1 unhandled would end torchrun and orphan its ranks.
  torchrun+=(--signals-to-handle "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
  torchrun+=(--shutdown-timeout "$SHUTDOWN_TIMEOUT" --nproc-per-node "$NPROC_PER_NODE")
  torchrun+=(--max-restarts 0)
  if $under_slurm; then
    torchrun+=(--nnodes "$nodes" --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}")
    if ((nodes > 1)); then
      : "${MASTER_ADDR:=$(first_node_address)}"
      : "${MASTER_PORT:=$((10000 + SLURM_JOB_ID % 20000))}" # below ephemeral ports
      torchrun+=(--rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT")
    fi
    # One launcher a node. A launcher which stops cleanly must not have SLURM kill the
    # others while they save, but neither may the rest wait for it for ever.
    launcher=(srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1)
    launcher+=(--kill-on-bad-exit=0 --wait "$SHUTDOWN_TIMEOUT" --input=none)
    # srun takes the job's CPUs per task from no one else since SLURM 22.05.
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] \
      || launcher+=(--cpus-per-task "$SLURM_CPUS_PER_TASK")
    launcher+=("${torchrun[@]}")
  elif ((NPROC_PER_NODE > 1)); then
    launcher=("${torchrun[@]}" --nnodes 1)
  else
    launcher=("$PYTHON")
  fi
}

resolve_environment() {
  # Nodes of a cluster seldom reach the hub, and a job must not wait for one.
  if $under_slurm; then
    export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
    # Per job: a build killed half way leaves a lock that blocks every later one.
    export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-${TMPDIR:-/tmp}/mtkd-$(id -u)-$SLURM_JOB_ID}"
  fi
  export HF_HOME="${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}"
  export TRANSFORMERS_OFFLINE="${TRANSFORMERS_OFFLINE:-${HF_HUB_OFFLINE:-0}}"
  export HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-${HF_HUB_OFFLINE:-0}}"
  export MTKD_CACHE="${MTKD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mtkd}"
  export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
  local cpus=${SLURM_CPUS_PER_TASK:-0}
  if [[ -z ${OMP_NUM_THREADS:-} ]] && ((cpus || NPROC_PER_NODE > 1)); then
    export OMP_NUM_THREADS=$((cpus > NPROC_PER_NODE ? cpus / NPROC_PER_NODE : 1))
  fi
  export PYTHONUNBUFFERED=1
}

print_resolved() {
  local name word
  for name in HF_HOME HF_HUB_OFFLINE MTKD_CACHE TORCH_EXTENSIONS_DIR \
    OMP_NUM_THREADS GLOO_SOCKET_IFNAME; do
    [[ -z ${!name:-} ]] || printf 'export %s=%q\n' "$name" "${!name}"
  done
  printf 'cd %q\n' "$PWD"
  printf '%q' "${command[0]}"
  for word in "${command[@]:1}"; do printf ' \\\n  %q' "$word"; done
  printf '\n'
}

# ---- running under SLURM: stop in time, save, come back ---------------------------------

stopping='' # the signal that asked us to stop
pid=''

# shellcheck disable=SC2317 # the traps call it
forward() { # a signal came: TERM makes every rank save and end
  interrupted=true
  [[ -z $stopping ]] || return 0
  stopping=$1
  say "got $1: asking the run to save and stop"
  [[ -z $pid ]] || ask_to_stop
}

# TERM to srun itself would have SLURM kill the step within KillWait, saved or not;
# sent through SLURM it reaches the launchers on all nodes and srun waits for them.
ask_to_stop() {
  scancel --signal=TERM "$SLURM_JOB_ID" || say "scancel could not signal the run"
}

run_and_wait() { # sets status
  trap 'forward USR1' USR1
  trap 'forward TERM' TERM
  trap 'forward HUP' HUP
  trap 'forward QUIT' QUIT
  "${command[@]}" &
  pid=$!
  [[ -z $stopping ]] || ask_to_stop
  while true; do # a signal ends `wait` early; the child is still to be waited for
    interrupted=false
    status=0
    wait "$pid" || status=$?
    $interrupted || break
  done
}

# Whether this attempt, not an earlier one, left a checkpoint and work to do:
# state.json holds {"saved": true, "finished": false, ...}.
saved_and_unfinished() {
  [[ $RUN_DIR/state.json -nt $RUN_DIR/.attempt ]] || return 1
  "$PYTHON" - "$RUN_DIR/state.json" <<'PY'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    state = json.load(file)
sys.exit(not (state.get("saved") is True and state.get("finished") is False))
PY
}

still_wanted() { # not when somebody cancelled the job
  scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | grep -q 'JobState=RUNNING'
}

requeue_or_exit() {
  local restarts=${SLURM_RESTART_COUNT:-0}
  if ! saved_and_unfinished; then
    ((status == 0)) || say "the run ended with exit status $status, and $RUN_DIR/state.json" \
      "does not say that it was saved and is unfinished: not requeued"
    exit "$status"
  fi
  if ! still_wanted; then
    say "saved, unfinished, but the job was cancelled: not requeued"
    exit 1
  fi
  if ((restarts >= MAX_REQUEUES)); then
    say "saved, unfinished, but already requeued $restarts times (MAX_REQUEUES)"
    exit 1
  fi
  say "saved, unfinished: requeueing job $SLURM_JOB_ID (time $((restarts + 1)))"
  scontrol requeue "$SLURM_JOB_ID" || {
    say "scontrol requeue failed; submit again with RUN_DIR=$RUN_DIR"
    exit 1
  }
  sleep 60 # SLURM ends this shell
  exit 0
}

# ---- main ------------------------------------------------------------------------------

dry_run=false
submit=false
extra=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry_run=true ;;
    --submit) submit=true ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) extra+=("$argument") ;;
  esac
done

# Within a job step there is nothing left to launch over nodes.
under_slurm=false
[[ -z ${SLURM_JOB_ID:-} || -n ${SLURM_STEP_ID:-} ]] || under_slurm=true

whole_numbers NPROC_PER_NODE MASTER_PORT MAX_REQUEUES SHUTDOWN_TIMEOUT
ROOT=$(find_root)
load_site
find_python
: "${NPROC_PER_NODE:=$(gpus_here)}"
((NPROC_PER_NODE > 0)) || NPROC_PER_NODE=1
: "${RUN_DIR:=$PWD/runs/mtkd-${SLURM_JOB_ID:-$(date +%Y%m%d-%H%M%S)}}"
[[ $RUN_DIR == /* ]] || RUN_DIR=$PWD/$RUN_DIR
say_where_no_text_is_given ${extra[@]+"${extra[@]}"}
resolve_arguments ${extra[@]+"${extra[@]}"}
OTHER_ENTRY=$MTKD_ENTRY
: "${MTKD_ENTRY:=$ROOT/experiments/train_multi_teacher_kv.py}"
if $submit; then
  command -v sbatch >/dev/null || die "--submit needs sbatch, which is not here"
  HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" check_arguments # as the job will look for them
  # shellcheck disable=SC2086 # several words on purpose
  exec sbatch $SBATCH_OPTIONS "$ROOT/scripts/run_multi_teacher.sh" \
    ${extra[@]+"${extra[@]}"}
fi
resolve_launcher
resolve_environment
command=("${launcher[@]}" "$MTKD_ENTRY" "${arguments[@]}")

# Once a job is back from the queue, what it has saved is worth more than a second look.
((${SLURM_RESTART_COUNT:-0})) || check_arguments

if $dry_run; then
  print_resolved
  exit 0
fi

mkdir -p "$RUN_DIR"
if ! $under_slurm; then
  exec "${command[@]}" # signals go straight to it
fi
say "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-?}, attempt ${SLURM_RESTART_COUNT:-0}, $RUN_DIR"
print_resolved >&2
touch "$RUN_DIR/.attempt"
run_and_wait
requeue_or_exit
