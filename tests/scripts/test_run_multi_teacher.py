"""The script without SLURM: what it resolves, what it starts, what it refuses."""

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "run_multi_teacher.sh"
STAND_IN = Path(__file__).with_name("stand_in.py")

FIXED_VARIABLES = [
    "STUDENT_MODEL",
    "TEACHER_MODELS",
    "PHASE",
    "FUSION_METHOD",
    "ROUTER_TYPE",
    "BATCH_SIZE",
    "GRAD_ACCUM",
    "MAX_LENGTH",
    "NUM_EPOCHS",
    "LEARNING_RATE",
]


def start(*words, script=SCRIPT, cwd=ROOT, **variables):
    kept = ("PATH", "HOME", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PYTHON": sys.executable, "MTKD_ENTRY": str(STAND_IN)}
    # A machine with GPUs would start one process on each.
    environment |= {"NPROC_PER_NODE": "1", **variables}
    return subprocess.run(
        ["bash", str(script), *words],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(*words, **options):
    """The resolved command as a list of words."""
    done = start("--dry-run", *words, **options)
    assert done.returncode == 0, done.stderr
    command = done.stdout.partition("\ncd ")[2].partition("\n")[2]
    return shlex.split(command.replace("\\\n", " "))


def overrides(*words, **options):
    command = dry_run(*words, **options)
    return dict(word.split("=", 1) for word in command if "=" in word)


def fake_slurm(folder, root):
    """srun, scontrol and scancel which only tell what they were asked."""
    script = f"{root}/scripts/run_multi_teacher.sh"
    programs = {
        "srun": 'echo "srun $*"',
        "scontrol": f"""case "$*" in
          "show hostnames"*) echo node7; echo node8;;
          "show job"*) echo "JobId=41234 Command={script} x";;
          "show node"*) echo "NodeName=node7 NodeAddr=127.0.0.7 x";;
        esac""",
    }
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
    }


def test_the_fixed_variables_stand_at_the_top_in_their_order():
    lines = SCRIPT.read_text().splitlines()
    found = [
        line.partition("=")[0] for line in lines if ":-" in line and line[0] != " "
    ]
    assert found[: len(FIXED_VARIABLES)] == FIXED_VARIABLES
    code = next(i for i, line in enumerate(lines) if line.startswith("set -e"))
    assert code > max(lines.index(line) for line in lines if ':-}"  ' in line)


def test_a_job_is_warned_requeued_and_appends_to_its_log():
    header = [line for line in SCRIPT.read_text().splitlines() if "#SBATCH" in line]
    for option in (
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@300",
        "--output=%x-%j.out",
    ):
        assert f"#SBATCH {option}" in header


def test_with_nothing_set_it_is_the_quickstart():
    command = dry_run()
    assert command[:3] == [sys.executable, str(STAND_IN), "quickstart"]
    assert all(word.startswith("run.") for word in command[3:])


def test_the_entry_is_the_documented_one(tmp_path):
    """The check that goes before is passed here; others in this file have it run."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    done = start("--dry-run", MTKD_ENTRY="", PYTHON=str(python))
    assert f"{ROOT}/experiments/train_multi_teacher_kv.py" in done.stdout


def test_every_variable_becomes_an_override():
    values = overrides(
        STUDENT_MODEL="./my student",
        TEACHER_MODELS="gpt2 zoo:qwen-code, /models/Qwen2.5-0.5B/ other/gpt2",
        PHASE="1, routing 5",
        FUSION_METHOD="similarity",
        ROUTER_TYPE="gate",
        BATCH_SIZE="4",
        GRAD_ACCUM="2",
        MAX_LENGTH="64",
        NUM_EPOCHS="3",
        LEARNING_RATE="1e-4",
        DATA="a.txt b.jsonl",
        EVAL_DATA='prose=c"d.txt',
        PRECISION="bf16",
        ZERO_STAGE="2",
        GRADIENT_CHECKPOINTING="1",
        SEED="7",
        RUN_DIR="/runs/one",
    )
    assert values["student.model"] == "./my student"
    assert json.loads(values["teachers"]) == {
        "gpt2": {"model": "gpt2"},
        "qwen-code": {"model": "zoo:qwen-code"},
        "Qwen2-5-0-5B": {"model": "/models/Qwen2.5-0.5B/"},
        "gpt2-2": {"model": "other/gpt2"},
    }
    assert json.loads(values["phases"]) == ["dual", "routing", "z_space"]
    assert json.loads(values["data.train"]) == ["a.txt", "b.jsonl"]
    assert json.loads(values["data.eval"]) == ['prose=c"d.txt']
    assert values["data.max_length"] == "64"
    phase = {k.removeprefix("phase.all."): v for k, v in values.items()}
    assert phase["fuse.fusion_method"] == "similarity"
    assert phase["fuse.router_type"] == "gate"
    assert phase["train.batch_size"] == "4"
    assert phase["train.grad_accum"] == "2"
    assert (phase["train.num_epochs"], phase["train.steps"]) == ("3", "null")
    assert phase["train.learning_rate"] == "1e-4"
    assert (phase["train.bf16"], phase["train.fp16"]) == ("true", "false")
    assert phase["train.zero_stage"] == "2"
    assert phase["train.gradient_checkpointing"] == "true"
    assert (values["run.dir"], values["run.name"]) == ("/runs", "one")
    assert values["run.seed"] == "7"


def test_the_config_takes_every_override_the_script_gives():
    from experiments.config.presets import builtin_presets
    from experiments.config.tree import load_config, resolve_phases

    command = dry_run(
        STUDENT_MODEL="zoo:student",
        TEACHER_MODELS="a b c",
        PHASE="1 2 3 4 5",
        FUSION_METHOD="fixed",
        ROUTER_TYPE="gate",
        BATCH_SIZE="4",
        GRAD_ACCUM="2",
        MAX_LENGTH="64",
        NUM_EPOCHS="3",
        LEARNING_RATE="1e-4",
        DATA="a.txt",
        EVAL_DATA="b.txt",
        PRECISION="bf16",
        ZERO_STAGE="1",
        GRADIENT_CHECKPOINTING="1",
        SEED="7",
        CONFIG="quickstart",
    )
    config = load_config(command[2], command[3:])
    routing = resolve_phases(config, builtin_presets())[3]
    assert routing.name == "routing" and routing.train.zero_stage == 1
    assert routing.fuse.fusion_method == "fixed"  # the user's wish, not the preset's
    assert routing.train.steps is None
    assert routing.train.num_epochs == 3
    assert routing.train.learning_rate == pytest.approx(1e-4)
    assert routing.train.bf16


def test_the_numbers_are_the_phases_of_the_config():
    from experiments.config.phase_choice import PHASES

    values = overrides(PHASE="1 2 3 4 5")
    assert json.loads(values["phases"]) == list(PHASES)


def test_the_choice_of_precision_can_be_left_to_the_hardware():
    values = overrides(PRECISION="auto")
    assert values["phase.all.train.bf16"] == "auto"
    assert values["phase.all.train.fp16"] == "false"


def test_arguments_come_last_so_that_they_win():
    command = dry_run("train.steps=3", "--bf16", BATCH_SIZE="4")
    assert command[-2:] == ["train.steps=3", "--bf16"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PHASE": "7"}, "phase 7; give 1 to 5"),
        ({"PRECISION": "int8"}, "PRECISION is 'int8'; give auto, bf16, fp16 or fp32"),
        ({"GRADIENT_CHECKPOINTING": "x"}, "GRADIENT_CHECKPOINTING is 'x'"),
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE is 'two'; give a whole number"),
        ({"MASTER_PORT": "-1"}, "MASTER_PORT is '-1'; give a whole number"),
        ({"PYTHON": "/no/python"}, "no interpreter '/no/python'; set PYTHON"),
        ({"SITE_HOOK": "/no/hook"}, "'source /no/hook' did not succeed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(variables, words):
    done = start("--dry-run", **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


REFUSAL = "mtkd: error: phases: nope is not known"


@pytest.fixture
def refusing(tmp_path):
    """A python whose check refuses, without importing anything for it."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{REFUSAL}' >&2\nexit 2\n")
    python.chmod(0o755)
    return str(python)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--dry-run", "--submit"])
def test_wrong_values_fail_in_the_shell_and_not_after_the_queue(
    how, refusing, tmp_path
):
    """What else the check finds, tests/experiments/run/test_preflight.py tells."""
    folder = tmp_path / "here"
    folder.mkdir()
    sbatch = folder / "sbatch"
    sbatch.write_text("#!/bin/sh\necho submitted\n")
    sbatch.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    wrong = {"PHASE": "nope", "PATH": path, "MTKD_ENTRY": ""}
    if how == "--submit":  # the check is one for both, and real in the other
        wrong["PYTHON"] = refusing
    done = start(how, cwd=folder, **wrong)
    assert done.returncode == 2
    assert REFUSAL in done.stderr
    assert "nothing was started or submitted" in done.stderr
    assert done.stdout == ""
    assert list(folder.iterdir()) == [sbatch]


@pytest.mark.slow
def test_what_can_be_trained_is_submitted_with_the_site_s_options(tmp_path):
    """A check that is real and finds nothing goes before a run in
    tests/experiments/runs/test_real_models.py."""
    folder = tmp_path / "here"
    folder.mkdir()
    sbatch = folder / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "$@"\necho "offline=$TRANSFORMERS_OFFLINE"\n')
    sbatch.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    options = {"SBATCH_OPTIONS": "--nodes=2 --time=60", "PATH": path}
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "offline $HF_HUB_OFFLINE: $*"\n')
    python.chmod(0o755)
    options["PYTHON"] = str(python)
    done = start("--submit", "train.steps=3", cwd=folder, MTKD_ENTRY="", **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"--nodes=2 --time=60 {SCRIPT} train.steps=3\noffline=\n"
    (asked,) = done.stderr.splitlines()
    assert asked.startswith("offline 1: ") and " train.steps=3 " in asked
    assert asked.endswith(" --check")
    assert list(folder.iterdir()) == [sbatch]


def test_a_dry_run_leaves_nothing_behind(tmp_path):
    dry_run(RUN_DIR=str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_plain_bash_runs_python_itself(tmp_path):
    done = start("steps=2", RUN_DIR=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 1 begins at step 0" in done.stdout
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state == {"saved": True, "finished": True, "step": 2, "world": 1}


def test_plain_bash_gives_the_exit_status_of_the_run(tmp_path):
    done = start("steps=two", RUN_DIR=str(tmp_path / "run"))
    assert done.returncode == 1
    assert "invalid literal" in done.stderr


LAUNCHER = str(ROOT / "experiments" / "launcher.py")


def test_processes_of_one_machine_are_given_no_address():
    """The launcher has them meet in a file."""
    command = dry_run(NPROC_PER_NODE="2")
    assert command[1] == LAUNCHER
    given = dict(itertools.pairwise(command))
    assert (given["--nproc-per-node"], given["--nnodes"]) == ("2", "1")
    assert not {"--rdzv-backend", "--rdzv-endpoint"} & set(command)


def test_one_node_of_slurm_is_given_no_address(tmp_path):
    slurm = fake_slurm(tmp_path / "bin", ROOT) | {"SLURM_JOB_NUM_NODES": "1"}
    command = dry_run(**slurm)
    assert LAUNCHER in command
    assert dict(itertools.pairwise(command))["--nnodes"] == "1"
    assert "--rdzv-endpoint" not in command


def test_site_hooks_are_sourced_before_python_is_looked_for(tmp_path):
    hook = tmp_path / "site.sh"
    hook.write_text(f"PYTHON={shlex.quote(sys.executable)}\nfalse || true\n")
    command = dry_run(PYTHON="", SITE_HOOK=str(hook))
    assert command[0] == sys.executable


def test_under_slurm_each_node_has_one_launcher(tmp_path):
    command = dry_run(**fake_slurm(tmp_path / "bin", ROOT), SLURM_CPUS_PER_TASK="6")
    given = dict(itertools.pairwise(command))
    assert command[0] == "srun"
    assert (given["--nodes"], given["--ntasks-per-node"]) == ("2", "1")
    assert given["--cpus-per-task"] == "6"
    assert LAUNCHER in command
    assert given["--nnodes"] == "2"
    # node7 is no name the resolver knows, so SLURM's address; 10000 + 41234 % 20000
    assert given["--rdzv-endpoint"] == "127.0.0.7:11234"
    assert given["--rdzv-id"] == "41234-0"


def test_a_job_is_offline_and_keeps_its_caches(tmp_path):
    slurm = fake_slurm(tmp_path / "bin", ROOT)
    done = start("--dry-run", **slurm, SLURM_CPUS_PER_TASK="6", HF_HOME="/big/hf")
    assert "export HF_HUB_OFFLINE=1\n" in done.stdout
    assert "export HF_HOME=/big/hf\n" in done.stdout
    assert "export OMP_NUM_THREADS=6\n" in done.stdout
    assert f"mtkd-{os.getuid()}-41234\n" in done.stdout


def test_the_copy_in_the_spool_folder_finds_its_checkout(tmp_path):
    spool = tmp_path / "job00001"
    spool.mkdir()
    copy = spool / "slurm_script"
    shutil.copy(SCRIPT, copy)
    slurm = fake_slurm(tmp_path / "bin", ROOT)
    command = dry_run(script=copy, cwd=tmp_path, **slurm, RUN_DIR="")
    assert command[-1] == "run.name=mtkd-41234"
    assert command[-4] == str(STAND_IN)
    assert f"run.dir={tmp_path}/runs" in command  # where `mtkd train` would put it
    assert "run.name=mtkd-41234" in command


def test_the_copy_falls_back_to_the_folder_of_submission(tmp_path):
    spool = tmp_path / "job00001"
    spool.mkdir()
    copy = spool / "slurm_script"
    shutil.copy(SCRIPT, copy)
    slurm = fake_slurm(tmp_path / "bin", "/elsewhere")
    options = {"script": copy, "cwd": tmp_path, **slurm}
    assert start("--dry-run", **options, SLURM_SUBMIT_DIR=str(ROOT)).returncode == 0
    lost = start("--dry-run", **options, SLURM_SUBMIT_DIR=str(tmp_path))
    assert lost.returncode == 2
    assert "cannot find the checkout" in lost.stderr
    assert "set MTKD_HOME" in lost.stderr


def test_inside_a_job_step_nothing_is_launched_over_nodes(tmp_path):
    slurm = fake_slurm(tmp_path / "bin", ROOT)
    assert dry_run(**slurm, SLURM_STEP_ID="3")[0] == sys.executable


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(
        ["shellcheck", *map(str, scripts)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_help_teaches_by_example():
    done = start("--help")
    assert done.returncode == 0
    assert "sbatch scripts/run_multi_teacher.sh" in done.stdout
    assert "#SBATCH" not in done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        ((), {"TEACHER_MODELS": "gpt2 b"}, "DATA is empty: gpt2 learns from"),
        ((), {"STUDENT_MODEL": "./s"}, "DATA is empty: ./s learns from"),
        ((), {"TEACHER_MODELS": "gpt2", "DATA": "a.txt"}, ""),
        ((), {"TEACHER_MODELS": "gpt2", "CONFIG": "quickstart"}, ""),
        (("data.train=[a.txt]",), {"TEACHER_MODELS": "gpt2"}, ""),
        ((), {"TEACHER_MODELS": "zoo:qwen-code"}, ""),
        ((), {}, ""),
    ],
)
def test_models_of_ones_own_without_text_are_warned_of(words, settings, said):
    done = start("--dry-run", *words, **settings)
    assert done.returncode == 0
    assert said in done.stderr
    assert bool(said) == ("WARNING" in done.stderr)
