"""What may happen to a store while it is written and after, and what is left then."""

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from teacher.store import Encoding, KVStore, StoreError, StoreWriter
from teacher.store.files import NoRoomError
from teacher.store.upkeep import summarize, take_out, verify
from tests.teacher.store.conftest import OUTPUTS, stored, text, visible

WRITES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir"}


def run_and_die(maker, after):
    """Run one task in a process that kills itself before its n-th file operation.

    Every write is two of them, with half of the bytes on disk in between.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    counted = 0

    def count():
        nonlocal counted
        counted += 1
        if counted > after:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event in WRITES and str(maker.path) in str(arguments[0]):
            count()

    class Slow(io.FileIO):
        def write(self, data):
            view = memoryview(data).cast("B")
            for half in (view[: len(view) // 2], view[len(view) // 2 :]):
                super().write(half)
                count()
            return len(view)

    real = Path.open
    Path.open = lambda path, mode="r", *rest, **options: (
        Slow(path, "wb") if mode == "wb" else real(path, mode, *rest, **options)
    )
    sys.addaudithook(watch)
    maker.run()
    os._exit(0)


def check_seeds(maker, tmp_path, seeds):
    whole = maker("whole", encoding=Encoding(name="int8"), **OUTPUTS)
    whole.run()
    killed = 0
    for seed in seeds:
        one = maker(f"kv{seed}", encoding=Encoding(name="int8"), **OUTPUTS)
        kept = {}
        rng = random.Random(seed)
        while os.WIFSIGNALED(run_and_die(one, rng.randrange(130))):
            killed += 1
            now = visible(one.path) if one.path.exists() else {}
            done = {n: now[n] for n in now if n.endswith(".json")}
            assert kept.items() <= done.items(), "a finished shard was lost"
            kept = done
            for name in done:  # no half shard is visible
                assert done[name] == visible(whole.path)[name]
        assert visible(one.path) == visible(whole.path)
        assert verify(one.path) == []
        shutil.rmtree(one.path)
    return killed


@pytest.mark.slow
def test_a_task_killed_anywhere_loses_nothing_and_is_made_good(maker, tmp_path):
    assert check_seeds(maker, tmp_path, range(20)) >= 20


@contextmanager
def without_locks(self, number):
    yield self.record(number) is None


@pytest.mark.slow
@pytest.mark.parametrize("turns", [2, 16])
@pytest.mark.parametrize("locks", [True, False])
def test_tasks_on_one_shard_at_once_all_end_well_and_one_wins(
    maker, monkeypatch, locks, turns
):
    if not locks:
        monkeypatch.setattr(StoreWriter, "claim", without_locks)
    alone = maker("alone", encoding=Encoding(name="int8"), **OUTPUTS)
    alone.run()
    for turn in range(turns):
        one = maker(f"kv{turn}", encoding=Encoding(name="int8"), **OUTPUTS)
        start = time.monotonic() + 0.05
        children = [os.fork() or run_at(one, start) for _ in range(4)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        one.run()  # with locks each task leaves what others are making to them
        assert visible(one.path) == visible(alone.path)


def run_at(maker, start):
    """Run one task in this process, which ends with it."""
    try:
        time.sleep(max(0, start - time.monotonic()))
        maker.run()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_file_system_without_locks_leaves_it_to_the_first_record(maker, monkeypatch):
    import filelock

    def refuse(self, *_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    one = maker()
    writer = one.open()
    with writer.claim(0) as ours, writer.claim(0) as theirs:
        assert (ours, theirs) == (True, True)
    one.run()
    with writer.claim(0) as ours:
        assert not ours
    assert verify(one.path) == []


def test_a_file_too_large_leaves_earlier_shards_and_says_what_is_needed(maker):
    one = maker(samples=12)
    one.run([0])
    before = visible(one.path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(NoRoomError) as error:
            one.run([1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(error.value)
    needed = sum(one.open().sample_bytes(stored(n).k.shape[1]) for n in range(4, 8))
    assert f"needs {needed:,} bytes" in said
    assert "more than a file of this process (`ulimit -f`) or of its file sys" in said
    assert "free there" not in said
    assert visible(one.path) == before
    assert not list(one.path.glob(".*.part"))
    one.run()
    assert verify(one.path) == []


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def check_flips(path, positions, seed=0):
    """Flip single bits all over a store: each is found before any number is used."""
    rng = random.Random(seed)
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    for turn in range(positions):
        file = files[turn % len(files)]
        bit = rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        faults = verify(path)
        assert faults, (file.name, bit)
        if file.name.startswith("kv-"):
            number = int(file.name[3:8])
            assert number in {fault.shard for fault in faults}, (file.name, bit)
        with pytest.raises((StoreError, FileNotFoundError)):
            store = KVStore(path)
            for index in range(len(store)):
                store.read_sample(index)
        flip(file, bit)
    assert verify(path) == []


def test_flipped_bits_are_found_before_use_and_the_shard_is_named(maker):
    one = maker(encoding=Encoding(name="int8"), **OUTPUTS)
    one.run()
    check_flips(one.path, 36)


@pytest.mark.slow
def test_a_thousand_flipped_bits(maker):
    one = maker(encoding=Encoding(name="int8"), **OUTPUTS)
    one.run()
    check_flips(one.path, 1000, seed=1)


def shard_of(path, number):
    return next(path.glob(f"kv-{number:05d}-*.safetensors"))


def cut(path, other):
    file = shard_of(path, 1)
    file.write_bytes(file.read_bytes()[:-8])


def lose(path, other):
    shard_of(path, 1).unlink()


def lose_record(path, other):
    (path / "kv-00001.json").unlink()


def rename(path, other):
    (path / "kv-00002.json").replace(path / "kv-00001.json")


def foreign_shard(path, other):
    """The same shard of another revision of the teacher, record and all."""
    lose(path, other)
    shutil.copy(shard_of(other, 1), path)
    shutil.copy(other / "kv-00001.json", path)


def foreign_data(path, other):
    shutil.copy(shard_of(other, 2), shard_of(path, 1))


@pytest.mark.parametrize("harm", [cut, lose])
def test_what_a_store_says_of_itself_misses_data_without_reading_them(maker, harm):
    one = maker()
    one.run()
    assert summarize(one.path).finished == 3
    file = shard_of(one.path, 1)
    harm(one.path, None)
    with pytest.raises(StoreError, match=f"{file.name} (has|is missing)"):
        summarize(one.path)


@pytest.mark.parametrize(
    "harm", [cut, lose, lose_record, rename, foreign_shard, foreign_data]
)
def test_what_is_wrong_is_named_refused_and_made_again_alone(maker, harm):
    foreign = {"model": "m", "revision": "def"}
    other = maker("other", fingerprint=foreign, samples=10, **OUTPUTS)
    other.run()
    one = maker(**OUTPUTS)
    one.run()
    whole = visible(one.path)
    harm(one.path, other.path)
    faults = verify(one.path)
    assert 1 in {fault.shard for fault in faults}
    with pytest.raises((StoreError, FileNotFoundError), match="kv-00001"):
        store = KVStore(one.path)
        store.read_sample(store.find(text(5)))
    spared = shard_of(one.path, 0).stat().st_mtime_ns
    broken = take_out(one.path, faults)
    assert broken == ([1, 2] if harm is rename else [1])
    one.run()
    assert visible(one.path) == whole
    assert shard_of(one.path, 0).stat().st_mtime_ns == spared


def test_files_that_could_be_taken_for_shards_are_reported_others_left(maker):
    one = maker()
    one.run()
    shutil.copy(shard_of(one.path, 0), one.path / "kv-00007-deadbeef.safetensors")
    (one.path / "README").write_text("mine")
    (fault,) = verify(one.path)
    assert "kv-00007-deadbeef.safetensors does not belong" in fault.what
    assert len(KVStore(one.path)) == 11  # it is never read
    assert take_out(one.path, [fault]) == []
    one.run()
    assert verify(one.path) == []
    assert (one.path / "README").read_text() == "mine"


def test_a_damaged_plan_or_constants_cost_no_shard_that_is_whole(maker):
    one = maker(encoding=Encoding(name="int8"), **OUTPUTS)
    one.run()
    whole = visible(one.path)
    for name in ("plan.json", next(one.path.glob("constants-*")).name):
        flip(one.path / name, 1000)
        take_out(one.path, verify(one.path))
        times = {p: p.stat().st_mtime_ns for p in one.path.glob("kv-*")}
        one.run()
        assert visible(one.path) == whole
        assert {p: p.stat().st_mtime_ns for p in one.path.glob("kv-*")} == times


def test_an_edited_record_is_not_believed(maker):
    one = maker()
    one.run()
    file = one.path / "kv-00001.json"
    record = json.loads(file.read_text())
    record["samples"][0]["tokens"] += 1
    file.write_text(json.dumps(record, indent=1) + "\n")
    with pytest.raises(StoreError, match=r"kv-00001\.json does not match"):
        KVStore(one.path)
    assert next(fault.shard for fault in verify(one.path)) == 1
