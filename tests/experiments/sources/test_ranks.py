"""Teachers on ranks of their own: who holds whom, what is refused, and the same run."""

import json
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from align.errors import InputError, MachineError
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry
from experiments.config.tree import load_config
from experiments.run.driver import run_training
from experiments.run.plan import plan_run
from experiments.sources import ranks
from experiments.sources.distant import Distant, homes, movable
from student.config import TrainConfig
from student.loop.launch import MEETING, Parting
from teacher.distant.wire import LEAVE, Line, LineGoneError, Message, pack
from teacher.hub import pinned
from teacher.sources.files import Files, ZooModel
from teacher.teacher_config import TeacherConfig
from tests.experiments.small_runs import small_config

LAST = 20
"""Answers until a rank dies: within the first phase, after a step."""
TIMES = ("time", "tokens_per_s", "step_s", "parts_s", "memory_gib")


@pytest.mark.parametrize(
    ("teachers", "students", "dealt"),
    [
        (1, 2, [{"a": 2, "b": 2, "c": 2}] * 2),
        (2, 1, [{"a": 1, "b": 2, "c": 1}]),
        (3, 2, [{"a": 2, "b": 3, "c": 4}] * 2),
        (5, 2, [{"a": 2, "b": 3, "c": 4}, {"a": 5, "b": 6, "c": 4}]),
    ],
)
def test_teachers_are_dealt_to_ranks_and_ranks_left_share_the_students(
    teachers, students, dealt
):
    parting = Parting(students, teachers, 0)
    assert [homes("abc", parting, s) for s in range(students)] == dealt


def test_a_rank_that_nobody_would_ask_is_refused():
    with pytest.raises(InputError, match=r"2 teachers and 1 proc.* 2 ranks busy"):
        homes("ab", Parting(1, 3, 0), 0)


def test_a_launch_without_anybody_to_train_says_how_to_start_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"none of 2 processes.*nproc-per-node 3"):
        Parting.of_launch(2)


def test_those_that_train_are_a_launch_of_their_own(monkeypatch):
    """Of two nodes of four, the last three hold teachers."""
    for name, value in {"WORLD_SIZE": 8, "RANK": 4, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    parting = Parting.of_launch(3)
    assert (parting.students, parting.teaches) == (5, False)
    with parting.among_students():
        assert os.environ["WORLD_SIZE"] == "5"
        assert os.environ["LOCAL_WORLD_SIZE"] == "1"
    assert os.environ["WORLD_SIZE"] == "8" and os.environ["LOCAL_WORLD_SIZE"] == "4"


def test_processes_that_are_started_again_read_nothing_of_their_first_life(
    monkeypatch, tmp_path
):
    """As torchrun does, into the same store."""
    monkeypatch.setenv("MTKD_MEETING", str(tmp_path / "meeting"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = Parting(1, 1, 0).store()
    first.set("address", "of a process that is gone")
    assert Parting(1, 1, 1).store().check(["address"])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not Parting(1, 1, 1).store().check(["address"])


def lose(words):
    """Be a rank that holds teachers, and one that trains and then stands still."""
    ranks.patience_of = lambda engine: timedelta(seconds=6)
    train, began = TrainConfig(teacher_ranks=1), time.monotonic()
    config = SimpleNamespace(store=SimpleNamespace(read=[]))
    if student := os.fork():
        ranks.answer_students(Parting(1, 1, 1), train, None)
        print(f"after {time.monotonic() - began}", flush=True)
        os.kill(student, signal.SIGKILL)
        return
    sources = {"a": ZooModel("a")}
    with ranks.among_students(Parting(1, 1, 0), config, sources, train):
        time.sleep(9)
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
def test_a_rank_waits_for_who_is_silent_but_not_for_ever_for_who_is_lost(
    warm, tmp_path
):
    """A machine that is gone closes no connection; one that stands still is like it."""
    place = {MEETING: str(tmp_path / "meeting"), "WORLD_SIZE": "2"}
    place["LOCAL_WORLD_SIZE"] = "2"
    log = tmp_path / "log.txt"
    warm.start(f"{__name__}:lose", log=log, environ=place).wait(timeout=240)
    said = log.read_text()
    assert "process 1: process 0, which trains, is gone: nothing was heard" in said
    assert "for 0:00:06 (hours" in said, said
    assert float(said.partition("after ")[2].split()[0]) > 9 + 6 - 1  # less a sign's


def test_a_plugins_source_stays_where_its_models_can_be_worked_on(tiny_zoo, tmp_path):
    """It may average them; without weights that would go unseen."""

    class Mean(Files):
        def open(self, opening):
            return opening.load(self.files)

    config = load_config(small_config(tmp_path, tiny_zoo))
    sources = {"gpt2-prose": Mean("a,b"), "qwen-code": ZooModel("tiny/qwen-code")}
    assert movable(config, sources) == ["qwen-code"]


def test_the_rank_reads_the_commit_that_the_run_has_settled_on(monkeypatch):
    """A branch may have moved since; and beside what student, which decides how an
    encoder-decoder is read."""
    commit, questions = "c" * 40, []

    class Heard:
        def ask(self, message):
            questions.append(message.head)
            raise LineGoneError("enough")

    monkeypatch.setattr(pinned, "pinned_folder", lambda *_: Path("snapshots") / commit)
    there = Distant(homes={"a": 1}, lines={1: Heard()})
    entry = TeacherConfig(model="org/tiny@main")
    for model in ("org/tiny@main", "zoo:tiny/gpt2-prose"):
        with pytest.raises(MachineError):
            kind = {"student_kind": "encoder-decoder"}
            there.load("a", entry, model, torch.device("cpu"), **kind)
    asked = [question["model"] for question in questions]
    assert asked == [f"org/tiny@{commit}", "zoo:tiny/gpt2-prose"]
    assert questions[0]["student_kind"] == "encoder-decoder"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teachers": {"gpt2-prose": {"shard": True}}}, "whole on a rank of its own"),
        ({"store": {"read": True}}, "name those that are read in store.read"),
        (
            {"store": {"read": ["gpt2-prose", "qwen-code"]}},
            "no teacher can be on a rank of its own",
        ),
        (
            {"data": {"max_length": 80, "written": {"share": 0.5, "by": "gpt2-prose"}}},
            "data.written.by is 'gpt2-prose'",
        ),
    ],
    ids=["shard", "store", "all stored", "writer"],
)
def test_what_cannot_be_is_refused_before_any_work(tiny_zoo, tmp_path, changes, said):
    train = {"train": {"teacher_ranks": 1}}
    config = load_config(small_config(tmp_path, tiny_zoo, {**train, **changes}))
    with pytest.raises(ConfigError, match=said):
        plan_run(config, load_registry(config))


def lines_of(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def weights_of(run):
    files = sorted(run.rglob("*.safetensors"))
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.fixture
def elsewhere(monkeypatch):
    """Runs a config with its teachers on a rank of their own, for which a thread stands
    that answers over gloo, as a process does."""

    def run(config):
        store = dist.HashStore()

        def joined(parting, patience):
            return dist.ProcessGroupGloo(store, parting.rank, 2, timedelta(seconds=60))

        monkeypatch.setattr(ranks, "_joined", joined)
        registry = load_registry(config)
        plan = plan_run(config, registry)
        scaler = registry.guarded("rope_scaler", config.align.rope_scaling_method)
        train = plan.phases[0].train
        thread = threading.Thread(
            target=ranks.answer_students, args=(Parting(1, 1, 1), train, scaler)
        )
        thread.start()
        try:
            run_training(config, registry=registry)
        finally:
            thread.join(timeout=30)
            assert not thread.is_alive()

    monkeypatch.setattr(ranks.signal, "signal", lambda *_: None)  # of main threads
    monkeypatch.setenv("WORLD_SIZE", "2")
    return run


@pytest.mark.slow
def test_a_run_with_teachers_elsewhere_is_the_same_run(
    tiny_zoo, tmp_path, monkeypatch, elsewhere
):
    """Undisturbed, and where that rank dies in between."""
    settings = {
        "phases": ["dual", "routing"],
        "phase": {"routing": {"teachers": {"min": 2}}},
        "output": {"projected_kl": 1},
    }

    def config(name, teacher_ranks=0, **more):
        train = {"teacher_ranks": teacher_ranks, **more}
        changes = {**settings, "run": {"name": name}, "train": train}
        return load_config(small_config(tmp_path, tiny_zoo, changes))

    here, there = config("here"), config("there", teacher_ranks=1)
    with monkeypatch.context() as alone:
        alone.delenv("WORLD_SIZE")
        run_training(here)
    elsewhere(there)
    told = [
        json.loads((c.run_dir / "teachers.json").read_text()) for c in (here, there)
    ]
    assert told[0] == told[1]
    assert lines_of(there.run_dir) == lines_of(here.run_dir)
    assert weights_of(there.run_dir) == weights_of(here.run_dir)

    died = config("died", teacher_ranks=1, prefetch=False)
    receive, answers = Line.receive, []

    def until(self):
        if threading.current_thread() is threading.main_thread():
            answers.append(1)
            if len(answers) > LAST:
                receive(self)
                self.send(
                    pack(Message({"what": LEAVE}))
                )  # the thread ends, as a process
                raise LineGoneError("Connection closed by peer")
        return receive(self)

    monkeypatch.setattr(Line, "receive", until)
    with pytest.raises(MachineError, match="process 1, which holds teachers"):
        elsewhere(died)
    assert len(list(died.run_dir.rglob("step-*"))) == 1
    monkeypatch.setattr(Line, "receive", receive)
    elsewhere(died)
    assert weights_of(died.run_dir) == weights_of(here.run_dir)
