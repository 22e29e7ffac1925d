import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments.cli import build_parser, main
from experiments.commands import look, plugins, viz
from experiments.record.stop import RunStopped
from student.config import TrainConfig

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["quickstart"],
    ["train"],
    ["sweep"],
    ["adapt"],
    ["estimate"],
    ["teachers"],
    ["teachers", "compare"],
    ["extract"],
    ["store"],
    ["store", "info"],
    ["store", "verify"],
    ["store", "merge"],
    ["store", "repair"],
    ["eval"],
    ["status"],
    ["report"],
    ["doctor"],
    ["viz"],
    ["viz", "alignment"],
    ["viz", "layers"],
    ["viz", "routing"],
    ["plugins"],
    ["plugins", "list"],
    ["plugins", "check"],
    ["plugins", "new"],
    ["zoo"],
    ["zoo", "build"],
    ["zoo", "list"],
    ["config", "show"],
    ["config", "show", "quickstart"],
    ["config"],
    ["config", "show"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_by_example(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert f"  mtkd {' '.join(words)}" in shown


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_example_parses(words, capsys):
    import shlex

    with pytest.raises(SystemExit):
        main([*words, "--help"])
    text = capsys.readouterr().out.split("examples:")[1]
    for line in text.splitlines():
        if line.startswith("  mtkd "):
            command = shlex.split(line.split(" > ")[0])[1:]
            build_parser().parse_known_args(command)


QUICK = """
import contextlib, io, sys
from experiments.cli import main

def brings(words, heavy):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        assert main(words) == 0
    brought = set(heavy) & set(sys.modules)
    assert not brought, f"mtkd {' '.join(words)} imports {', '.join(brought)}"

libraries = ["torch", "numpy", "scipy", "transformers", "tokenizers", "matplotlib"]
brings(["--help"], [*libraries, "yaml", "rich", "pydantic"])
brings(["--version"], [*libraries, "yaml", "rich", "pydantic"])
for words in LISTS:
    brings(words, libraries)
"""
LISTS = (
    ["recipes", "list"],
    ["recipes", "show", "from_store"],
    ["models", "list"],
    ["zoo", "list"],
    ["config", "show"],
    ["config", "show", "quickstart"],
)


def test_help_lists_and_status_come_without_heavy_imports(made_up):
    lists = (*LISTS, ["status", str(made_up.path)])
    done = subprocess.run(
        [sys.executable, "-c", f"LISTS = {lists}\n{QUICK}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_user_error_is_one_line_and_code_2(capsys):
    assert main(["train", "quickstart", "fuse.temprature=1"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("mtkd: error: unknown config key 'fuse.temprature'")
    assert "Traceback" not in shown


def test_debug_shows_the_traceback_wherever_it_stands():
    for words in (["--debug", "train"], ["train", "--debug"]):
        with pytest.raises(ValueError, match="neither a file nor"):
            main([*words, "no-such-config"])


def test_our_own_mistakes_are_told_apart(monkeypatch, capsys):
    monkeypatch.setattr("experiments.doctor.examine", lambda: 1 / 0)
    assert main(["doctor"]) == 1
    assert "should not have happened (ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/locked"),
            ["/locked cannot be used: permission denied; give a path"],
        ),
        (MemoryError("9 GiB"), ["memory does not suffice (9 GiB)", "train.batch_size"]),
        (
            ModuleNotFoundError("No module named 'x.y'", name="x.y"),
            ["needs the package 'x', which is not installed"],
        ),
    ],
    ids=["file", "memory", "package"],
)
def test_what_the_machine_refuses_says_what_to_do(error, parts, monkeypatch, capsys):
    def refuse():
        raise error

    monkeypatch.setattr("experiments.doctor.examine", refuse)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("mtkd: error: ") and shown.count("\n") == 1
    assert all(part in shown for part in parts)


def test_a_working_directory_that_was_deleted_is_told(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    assert main(["config", "show"]) == 2
    told = f"mtkd: error: the working directory {gone} was deleted; change to one that"
    assert capsys.readouterr().err.startswith(told)


def test_a_full_disk_says_what_to_do(monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl")

    monkeypatch.setattr("experiments.doctor.examine", full)
    assert main(["doctor"]) == 2
    assert "disk is full while writing runs/x/metrics.jsonl" in capsys.readouterr().err


def test_full_output_is_told_from_a_full_disk(monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("experiments.doctor.examine", full)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert "the disk is full, or where this command's output goes; free" in shown


def test_ctrl_c_ends_quietly(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.doctor.examine", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "mtkd: interrupted\n"


def test_work_that_something_ends_by_sys_exit_is_not_done(monkeypatch, capsys):
    monkeypatch.setattr("experiments.doctor.examine", lambda: sys.exit(0))
    assert main(["doctor"]) == 1
    assert "ended the process (sys.exit(0)) before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["estimate", "quickstart", "--plan", "--every-text"],
            "--every-text changes n",
        ),
        (
            ["estimate", "quickstart", "--routing", "--processes", "2"],
            "--processes cha",
        ),
        (["eval", "runs/x", "--plugin", "/nope.py"], "/nope.py"),
        (
            ["eval", "a", "--use", "generation", "--pairs", "d=p.jsonl"],
            "pairs of prompt and c",
        ),
        (["eval", "a", "--use", "size", "--pairs", "p.jsonl"], "--pairs changes noth"),
        (["eval", "runs/x", "--pairs", "p.jsonl"], "--pairs changes nothing"),
        (
            ["adapt", "a", "--to", "b", "--steps", "0", "train.steps=3"],
            "both say how l",
        ),
    ],
)
def test_options_that_would_change_nothing_or_lead_nowhere_are_refused(
    words, told, capsys
):
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_options_and_overrides_may_alternate(capsys):
    words = ["config", "show", "quickstart", "train.steps=7"]
    assert main([*words, "--no-plugins", "fuse.z_dim=3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["train"]["steps"], shown["fuse"]["z_dim"]) == (7, 3)
    with pytest.raises(SystemExit) as stop:
        main([*words, "--wrong"])
    assert stop.value.code == 2


def test_a_config_file_may_be_left_out(capsys):
    assert main(["config", "show", "run.name=bare", "teachers=[a]"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["run"]["name"] == "bare"
    assert shown["teachers"]["a"]["model"] == "a"


def test_config_show_resolves_one_phase(capsys):
    words = ["config", "show", "quickstart", "--phase", "routing"]
    assert main([*words, "phase.routing.fuse.temperature=0.5"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["fuse"]["fusion_method"] == "learnable"
    assert shown["fuse"]["temperature"] == 0.5


def test_train_hands_config_registry_and_resume_to_the_run(monkeypatch, capsys):
    from experiments.run import opening, plan

    given = {}

    def plan_run(config, registry, resume):
        given.update(config=config, registry=registry, resume=resume)
        return SimpleNamespace(phases=[SimpleNamespace(train=TrainConfig())])

    def open_run(plan, *, trust, changed_plugins):
        given.update(trust=trust, changed_plugins=changed_plugins)
        raise RunStopped("dual: 3 of 40 steps")

    monkeypatch.setattr(plan, "plan_run", plan_run)
    monkeypatch.setattr(opening, "open_run", open_run)
    words = ["train", "quickstart", "train.steps=3", "--resume", "must"]
    assert main([*words, "--changed-plugins"]) == 75  # stopped, and can go on
    assert "3 of 40 steps" in capsys.readouterr().err
    assert given["config"].train.steps == 3
    assert given["resume"] == "must"
    assert (given["trust"], given["changed_plugins"]) == (False, True)
    assert "routing" in given["registry"].names("phase")


def test_report_writes_the_page_and_prints_the_table(made_up, capsys):
    assert main(["report", str(made_up.path), "--no-figures"]) == 0
    assert "helped" in capsys.readouterr().out
    assert (made_up.path / "report.md").is_file()
    assert not made_up.figures.exists()


def test_plugins_are_listed_as_json(capsys):
    assert main(["plugins", "list", "--kind", "router", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plugins"]
    assert {"mlp", "gate", "attention"} <= {row["name"] for row in rows}
    assert {row["kind"] for row in rows} == {"router"}


def test_a_plugin_from_a_file_is_checked_by_its_contract(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom plugins import hookimpl\n\n"
        "class Loud(torch.nn.Module):\n"
        "    def __init__(self, hidden_dim, num_teachers):\n"
        "        super().__init__()\n"
        "        self.lin = torch.nn.Linear(hidden_dim, num_teachers)\n"
        "    def forward(self, query, available=None):\n"
        "        return self.lin(query)\n\n"
        "@hookimpl\ndef routers():\n    return {'loud': Loud}\n"
    )
    assert main(["plugins", "check", "loud", "--plugin", str(path)]) == 2
    assert "broken" in capsys.readouterr().out
    assert main(["plugins", "check", "mlp"]) == 0


def test_an_unknown_plugin_names_the_nearest(capsys):
    assert main(["plugins", "check", "attension"]) == 2
    assert "did you mean 'attention'" in capsys.readouterr().err


def test_a_new_plugin_can_be_checked_at_once(tmp_path, capsys):
    words = ["plugins", "new", "my_loss", "--kind", "objective", "--dir", str(tmp_path)]
    assert main(words) == 0
    assert "pip install -e" in capsys.readouterr().out
    (module,) = [p for p in tmp_path.rglob("*.py") if "tests" not in p.parts]
    assert main(["plugins", "check", "my_loss", "--plugin", str(module)]) == 0


def test_doctor_prints_a_table_and_fails_on_what_must_be_repaired(monkeypatch, capsys):
    from experiments import doctor

    rows = [doctor.Finding("torch", "fail", "not installed", "pip install torch")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(rows))
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().out
    assert "pip install torch" in shown
    assert "to repair before a run: torch" in shown


def test_the_zoo_is_listed_at_either_scale(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path))
    assert main(["zoo", "list", "--scale", "tiny"]) == 0
    assert "zoo (tiny)" in capsys.readouterr().out
    assert main(["zoo", "list", "--scale", "huge"]) == 2
    assert "huge" in capsys.readouterr().err


def test_help_names_what_can_be_chosen_and_the_defaults(capsys):
    from align.layer_map import STRATEGIES
    from plugins.builtin import aligners
    from plugins.registry import KINDS
    from teacher.zoo import SCALES

    assert set(re.split(", | or ", look.SCALES)) == set(SCALES)
    assert set(re.split(", | or ", plugins.KINDS)) == set(KINDS)
    assert viz.ALIGNERS.split(", ") == list(aligners())
    assert viz.LAYER_MAPS.split(", ") == list(STRATEGIES)
    shown = {
        ("zoo", "build"): [look.SCALES, "(default)"],
        ("plugins", "new"): ["router, space", "(router)", "(.)"],
        ("viz", "alignment"): ["last_token", "(causal_char_iou)", "(alignment.png)"],
        ("viz", "layers"): ["ratio, uniform, skip", "(layers.png)"],
        ("extract",): ["(1/1, all)"],
    }
    for words, parts in shown.items():
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(part in text for part in parts), words


def test_an_unknown_plugin_unlike_any_other_ends_its_sentence(capsys):
    assert main(["plugins", "check", "zzz-qqq"]) == 2
    assert "no plugin offers 'zzz-qqq'. `mtkd plugins list`" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_by_its_setting(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    words = ["train", "quickstart", f"run.dir={tmp_path}/file/runs"]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert "mtkd: error: run.dir and run.name ask for the folder" in shown
    assert "[Errno" not in shown


@pytest.mark.parametrize(
    "words",
    [
        "train .",
        "train file.txt",
        "train not-utf8.yaml",
        "train x=1",
        "train quickstart --plugin broken.py",
        "train quickstart --plugin none.py",
        "config show --phase none",
        "estimate none",
        "extract quickstart --shard 9/2",
        "report file.txt",
        "report .",
        "status .",
        "eval .",
        "eval file.txt --data file.txt",
        "store info file.txt",
        "store repair .",
        "viz layers --teacher-layers 0,32 --student-layers 12",
        "viz layers --teacher-layers x --student-layers 12",
        "viz layers --teacher-layers 24 --student-layers 12 --strategy none",
        "viz routing .",
        "plugins list --kind none",
        "plugins check mlp --plugin broken.py",
        "plugins new okay --kind none",
        "plugins new okay --dir file.txt",
        "zoo build none",
        "zoo list --scale none",
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_code_2(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("one two three")
    (tmp_path / "not-utf8.yaml").write_bytes(b"a: \xff")
    (tmp_path / "broken.py").write_text("def (:")
    assert main(words.split()) == 2
    shown = capsys.readouterr().err.splitlines()
    told = [line for line in shown if line.startswith("mtkd: ")]
    assert len(told) == 1 and told[0].startswith("mtkd: error: ")
    assert not any("[Errno" in line or "Traceback" in line for line in shown)
