"""Checkpoints of a phase: which stay, which is taken, and what is refused."""

import os
import pickle
import shutil
from dataclasses import replace

import pytest
import torch

from student.checkpoint import CheckpointError, NonFiniteStudentError, mark_complete
from student.config import TrainConfig
from student.loop.phase_checkpoint import (
    Keeper,
    is_kept,
    load_checkpoint,
    prune,
    save_checkpoint,
    steps_kept,
)
from student.loop.trainer import Job, train_phase
from tests.student.watching import Watching

CONFIG = TrainConfig(steps=3, batch_size=2, engine="torch", checkpoint_every=1)


def made(folder, *steps):
    for step in steps:
        place = folder / f"step-{step:08d}"
        place.mkdir()
        (place / "state-00000.safetensors").write_bytes(b"x" * 64)
        mark_complete(place, {"step": step})
    return [path for _, path in steps_kept(folder)]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_stay(tmp_path):
    made(tmp_path, 1, 2, 30)
    (tmp_path / ".step-00000031.part").mkdir()
    prune(tmp_path, 2)
    assert [step for step, _ in steps_kept(tmp_path)] == [30, 2]


def test_the_only_one_that_verifies_is_never_removed(tmp_path):
    newest, second, oldest = made(tmp_path, 1, 2, 3)
    flip(newest / "state-00000.safetensors")
    flip(second / "state-00000.safetensors")
    prune(tmp_path, 2)
    assert oldest.is_dir()
    flip(second / "state-00000.safetensors")  # whole again
    prune(tmp_path, 2)
    assert not oldest.exists() and newest.is_dir()


@pytest.fixture
def phase(school, start_engine, tmp_path):
    """Train a small phase with a checkpoint after every step; returns its losses."""

    def run(keeper=None, steps=3, config=CONFIG, seed=0):
        lesson = school.lesson(None)
        torch.manual_seed(seed)
        lines = []
        keeper = keeper or Keeper(
            folder=tmp_path, keep=5, run="ours", warn=lines.append
        )
        job = Job(
            samples=school.samples[:8],
            encode=school.encode,
            views=None,
            steps=steps,
            seed=0,
            checkpoints=keeper,
            observer=Watching(lines),
        )
        train_phase(lesson.distiller, start_engine(config), job, config)
        last = keeper.folder / f"step-{steps:08d}"
        shutil.rmtree(last, ignore_errors=True)  # as of a phase killed before its end
        return lines, lesson

    return run


def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_older_one_taken(
    phase, tmp_path
):
    expected = phase()[1].distiller.state_dict()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    flip(tmp_path / "step-00000002" / "state-00000.safetensors")
    lines, lesson = phase(seed=9)
    warning = lines[0]
    assert "step-00000002 is damaged" in warning and "other bytes" in warning
    assert "the older checkpoint of step 1" in warning
    assert "step-00000002.damaged" in names(tmp_path)
    for name, value in lesson.distiller.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_nothing_that_verifies_is_an_error_and_not_a_start_from_zero(phase, tmp_path):
    phase()
    for _, folder in steps_kept(tmp_path):
        flip(folder / "state-00000.safetensors")
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=r"step-00000002 is damaged.*delete"):
        phase()
    assert names(tmp_path) == before


def test_a_folder_that_was_never_completed_is_no_checkpoint(phase, tmp_path):
    phase()
    (tmp_path / "step-00000002" / "complete.json").unlink()
    (tmp_path / ".step-00000003.part").mkdir()
    lines, _ = phase()
    assert "never completed" in lines[0]
    assert ".step-00000003.part" not in names(tmp_path)  # gone with the next save


def test_another_runs_checkpoint_asks_for_trust(phase, tmp_path):
    phase()
    theirs = Keeper(folder=tmp_path, keep=5, run="theirs")
    with pytest.raises(CheckpointError, match=r"another run.*--trust-checkpoint"):
        phase(theirs)
    phase(replace(theirs, trust=True))


def test_another_number_of_samples_per_step_is_refused(phase):
    phase()
    with pytest.raises(CheckpointError, match=r"took 2 samples .* this run takes 4"):
        phase(config=replace(CONFIG, grad_accum=2))


def test_a_checkpoint_holds_no_pickle_and_runs_none(phase, tmp_path):
    phase()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".safetensors", ".json"}

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = tmp_path / "step-00000002"
    (folder / "state-00001.safetensors").write_bytes(pickle.dumps(Planted()))
    mark_complete(folder, {"step": 2, "run": "ours", "samples_per_step": 2})
    with pytest.raises(Exception, match="header"):
        phase()
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_older_checkpoint_alone(
    phase, school, start_engine, tmp_path, monkeypatch
):
    from student.loop import phase_checkpoint

    lesson, engine = school.lesson(None), start_engine(CONFIG)
    keeper = Keeper(folder=tmp_path / "c")
    with engine.prepared(lesson.distiller, CONFIG, 3) as prepared:
        save_checkpoint(keeper, engine, prepared, lesson.distiller, 1)

        def full(*_):
            raise OSError(122, "Disk quota exceeded")

        monkeypatch.setattr(phase_checkpoint, "save_file", full)
        with pytest.raises(OSError, match="Disk quota exceeded") as error:
            save_checkpoint(keeper, engine, prepared, lesson.distiller, 2)
        assert error.value.errno == 28
        assert names(tmp_path / "c") == ["step-00000001"]
        assert load_checkpoint(keeper, engine, prepared, lesson.distiller) == 1


def test_what_is_no_longer_finite_is_no_checkpoint(phase, tmp_path):
    """AdamW takes 1e45 times the weights off them."""
    config = replace(CONFIG, learning_rate=1e30, weight_decay=1e15, warmup_steps=0)
    with pytest.raises(
        NonFiniteStudentError, match="trained for 1 steps is not finite"
    ):
        phase(config=config)
    assert steps_kept(tmp_path) == []


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 100, []), (3, 0, []), (2, 2, [2])],
)
def test_a_phase_long_enough_for_a_checkpoint_has_one_of_its_last_step(
    steps, every, kept
):
    assert [done for done in range(1, steps + 1) if is_kept(done, steps, every)] == kept
