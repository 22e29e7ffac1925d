"""What fails in the middle of a run leaves what was finished, and can be put right."""

import errno
import json
import resource
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main
from tests.experiments.small_runs import said, small_config, write_text

TWO = {
    "phases": ["dual", "multi_basic"],
    "phase": {"dual": {"teachers": ["gpt2-prose", "qwen-code"]}},
}


@contextmanager
def largest_file(size: int):
    """Refuse to let any file grow beyond ``size`` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def trained(run: Path) -> list[tuple[str, int]]:
    """Every step that was taken, over all attempts."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(r["phase"], r["step"]) for r in rows if r["kind"] == "train"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finished(run: Path) -> bool:
    return bool(json.loads((run / "state.json").read_text())["finished"])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def job(tiny_zoo, text, tmp_path, capsys):
    """Run the command on a config with changes, any number of times."""

    def run(changes=None, *words):
        config = small_config(tmp_path, tiny_zoo, {**TWO, **(changes or {})})
        given = [f"data.train=[{text}]", *words]
        return said(["train", str(config), *given], capsys)

    return run


@pytest.fixture(scope="module")
def finished_run(tiny_zoo, text, tmp_path_factory):
    """The folder of a run of two phases that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, tiny_zoo, TWO)
    assert main(["train", str(config), f"data.train=[{text}]"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def first_phase(tiny_zoo, text, tmp_path_factory):
    """The folder of a run that ended after the first of them."""
    folder = tmp_path_factory.mktemp("first")
    config = small_config(folder, tiny_zoo, {**TWO, "phases": ["dual"]})
    assert main(["train", str(config), f"data.train=[{text}]"]) == 0
    return folder / "run"


@pytest.fixture
def one_done(first_phase, tmp_path):
    """A copy of it where ``job`` goes on."""
    shutil.copytree(first_phase, tmp_path / "run")


@pytest.fixture
def done(finished_run, tmp_path):
    """A copy of the finished run where ``job`` goes on, and its student's weights."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run", load_file(finished_run / "student" / "model.safetensors")


@pytest.fixture
def overflowing(tiny_zoo, monkeypatch):
    """A third teacher which, in float16, overflows on the later words of a text."""
    from experiments.sources import making

    load = making.load_model

    def overflow(name, **options):
        loaded = load(name, **options)
        if options.get("dtype") == torch.float16:
            embedding = loaded.model.get_input_embeddings()
            embedding.weight.data[len(loaded.tokenizer) // 2 :] = float("inf")
        return loaded

    monkeypatch.setattr(making, "load_model", overflow)

    def teachers(dtype):
        return {"odd": {"model": str(tiny_zoo["neox-mixed"]), "dtype": dtype}}

    return teachers


@pytest.mark.slow
def test_a_teacher_that_is_not_finite_costs_its_own_phase_only(
    job, overflowing, tmp_path
):
    code, message = job({"teachers": overflowing("float16")})
    assert code == 2
    assert "teacher 'odd' gives keys or values that are not finite" in message
    assert "teachers.odd.dtype=float32" in message
    run = tmp_path / "run"
    assert not finished(run)
    first = files(run / "phases" / "1-dual")
    assert trained(run) == [("dual", 1), ("dual", 2)]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(run / "phases" / "1-dual" / "student")
    AutoTokenizer.from_pretrained(run / "phases" / "1-dual" / "student")
    assert main(["eval", str(run), "--json"]) == 0
    assert main(["report", str(run), "--no-figures"]) == 0

    assert job({"teachers": overflowing("float32")}) == (0, "")  # as it advised
    assert files(run / "phases" / "1-dual") == first
    assert trained(run) == [(p, s) for p in TWO["phases"] for s in (1, 2)]
    assert finished(run)


@pytest.mark.slow
def test_what_a_finished_phase_depends_on_cannot_be_changed(one_done, job, tmp_path):
    code, message = job({"phases": ["dual"]}, "train.learning_rate=0.5")
    assert code == 2
    assert "1-dual.train.learning_rate: stored 0.001, config 0.5" in message
    assert "Choose another run.name" in message
    code, message = job({"phases": ["dual"]}, "run.seed=3")
    assert code == 2
    assert "seed: stored 0, config 3" in message
    run = tmp_path / "run"
    assert trained(run) == [("dual", 1), ("dual", 2)]
    # A further phase, and settings of it alone, are no change to what is finished.
    assert job({}, "phase.multi_basic.train.learning_rate=0.5") == (0, "")
    assert trained(run) == [(p, s) for p in TWO["phases"] for s in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "when"), [("torch", "checkpoint"), ("deepspeed", "phase end")]
)
def test_no_room_for_a_file_keeps_the_phases_before(job, tmp_path, engine, when):
    """A checkpoint of DeepSpeed's, test_faults.py has no room for."""
    train = {"engine": engine}
    every = {"checkpoint_every": 1} if when == "checkpoint" else {}
    assert job({"phases": ["dual"]}, f"train.engine={engine}")[0] == 0
    run = tmp_path / "run"
    first = files(run / "phases" / "1-dual")
    assert "student/model.safetensors" in " ".join(first)
    words = [f"train.{key}={value}" for key, value in {**train, **every}.items()]
    with largest_file(100_000):
        code, message = job({}, *words)
    assert code == 2
    assert "would be larger than a file of this process (`ulimit -f`)" in message
    assert "2-multi_basic" in message
    assert "run the same command: finished phases are kept" in message
    parts = [path for path in (run / "phases").iterdir() if path.is_dir()]
    assert [p.name for p in parts] == ["1-dual"]  # nothing half written takes space
    assert not finished(run)

    assert job({}, *words) == (0, "")
    assert files(run / "phases" / "1-dual") == first
    assert finished(run)


@pytest.mark.slow
def test_no_room_for_a_line_of_metrics_is_a_full_disk(job, monkeypatch):
    opened = Path.open

    def full(path, *words, **options):
        place = Path("/dev/full") if path.name == "metrics.jsonl" else path
        return opened(place, *words, **options)

    monkeypatch.setattr(Path, "open", full)
    code, message = job({"phases": ["dual"]})
    assert code == 2
    assert "the disk is full" in message
    monkeypatch.undo()
    assert job({"phases": ["dual"]}) == (0, "")


def test_a_run_on_local_models_asks_nobody_outside(job, tmp_path, monkeypatch):
    asked = []
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        asked.append(address)
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert job({"phases": ["dual"]}) == (0, "")
    assert finished(tmp_path / "run") and not asked


def test_a_missing_plugin_stops_a_run_before_any_model_is_loaded(job, monkeypatch):
    from experiments.assemble import models
    from experiments.sources import making

    def refuse(name, **options):
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(models, "load_model", refuse)
    monkeypatch.setattr(making, "load_model", refuse)
    code, message = job({"loss": {"extra": {"not_installed": 1.0}}})
    assert code == 2 and "no objective is called 'not_installed'" in message


def flip(data: bytes) -> bytes:
    return data[:-7] + bytes([data[-7] ^ 0xFF]) + data[-6:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damage", "parts"),
    [
        (
            "2-multi_basic/student/model.safetensors",
            lambda data: data[: len(data) // 2],
            ["2-multi_basic is damaged: student/model.safetensors has", "bytes, not"],
        ),
        (
            "1-dual/student/model.safetensors",
            flip,
            ["1-dual is damaged: student/model.safetensors holds other bytes"],
        ),
        (
            "1-dual/complete.json",
            lambda data: data[:12],
            ["1-dual/complete.json is damaged"],
        ),
        (
            "1-dual.settings.json",
            lambda data: data[:12],
            ["1-dual.settings.json is damaged"],
        ),
    ],
    ids=["cut", "flipped", "marker", "settings"],
)
def test_damage_to_a_finished_phase_is_named(done, job, file, damage, parts):
    run, _ = done
    path = run / "phases" / file
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        code, message = job()
    finally:
        path.write_bytes(whole)
    assert code == 2
    for part in (*parts, "delete"):
        assert part in message


@pytest.mark.slow
def test_a_phase_that_was_deleted_is_trained_again_to_the_same_student(done, job):
    run, weights = done
    shutil.rmtree(run / "phases" / "2-multi_basic")
    assert job() == (0, "")
    found = load_file(run / "student" / "model.safetensors")
    assert all(found[name].equal(weight) for name, weight in weights.items())
