import json

import pytest
import torch
from safetensors import safe_open

from teacher.store import Encoding, KVStore, StoreError, open_store
from teacher.store.tensor_files import write_tensors
from teacher.store.upkeep import merge, stores_in, summarize, verify
from tests.teacher.store.conftest import LAYERS, make_plan, stored, text, visible

ENCODINGS = [
    Encoding(name="float32"),
    Encoding(name="bfloat16"),
    Encoding(name="int8"),
    Encoding(name="int4"),
    Encoding(name="lowrank", rank=3),
]
ZSTD = [Encoding(name="float32", zstd=1), Encoding(name="int4", zstd=1)]


def closeness(encoding):
    return {
        "float32": 0.0,
        "bfloat16": 0.01,
        "int8": 0.05,
        "int4": 0.5,
        "lowrank": 1.0,
    }[encoding.name]


@pytest.mark.parametrize("encoding", [*ENCODINGS, *ZSTD], ids=str)
def test_every_text_is_found_by_its_words_and_read_layer_by_layer(maker, encoding):
    if encoding.zstd is not None:
        pytest.importorskip("zstandard")
    one = maker(encoding=encoding)
    one.run()
    store = KVStore(one.path)
    assert len(store) == 11
    for number in (0, 3, 4, 10):
        index = store.find(text(number))
        got, want = store.read_sample(index), stored(number)
        assert got.k.shape == want.k.shape
        assert (got.k.float() - want.k).square().mean() <= closeness(encoding)
        assert got.bits_per_char == number / 2
        assert got.origin.equal(want.origin)
        some = store.read_sample(index, layers=[2, 0, 1])
        assert some.v.equal(got.v[[2, 0, 1]])
        assert store.read_sample(index, layers=[1], parts=["k"]).v.numel() == 0
    assert store.find("another text") is None
    with pytest.raises(IndexError, match=r"layers 0\.\.2, not \[3\]"):
        store.read_sample(0, [3])
    assert verify(one.path) == []


def test_shards_are_safetensors_that_the_library_reads(maker):
    one = maker()
    one.run()
    with safe_open(next(one.path.glob("kv-00000-*")), framework="pt") as file:
        rows = LAYERS * sum(stored(n).k.shape[1] for n in range(4))
        assert file.get_tensor("k.x").shape == (rows, 8)
        assert file.get_tensor("k.x")[: stored(0).k.shape[1]].equal(stored(0).k[0])
        assert file.get_tensor("bits_per_char").tolist() == [0, 0.5, 1, 1.5]


def test_tensors_in_pieces_are_written_as_the_library_would(tmp_path):
    pieces = {
        "a": [torch.arange(6, dtype=torch.uint8).view(3, 2), torch.ones(1, 2).byte()],
        "b": [torch.randn(2, 3), torch.zeros(0, 3), torch.randn(1, 3)],
        "c": [torch.randn(5).bfloat16()],
        "d": [torch.arange(3)],
    }
    size, digest = write_tensors(tmp_path / "x", pieces)
    import hashlib

    data = (tmp_path / "x").read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)
    with safe_open(tmp_path / "x", framework="pt") as file:
        for name, parts in pieces.items():
            assert file.get_tensor(name).equal(torch.cat(parts))


def test_tasks_in_any_order_and_twice_give_the_files_of_one_task(maker):
    alone, tasks = maker("alone"), maker("tasks")
    alone.run()
    for numbers in ([2], [0], [2, 0], [1]):
        assert not (tasks.path / "manifest.json").exists()
        tasks.run(numbers)
    assert visible(tasks.path) == visible(alone.path)
    assert [p.name for p in tasks.path.iterdir() if p.name.startswith(".")] == []
    before = {p: p.stat().st_mtime_ns for p in tasks.path.glob("kv-*")}
    tasks.run()
    assert {p: p.stat().st_mtime_ns for p in tasks.path.glob("kv-*")} == before


def test_of_two_tasks_on_one_shard_one_waits_for_nobody_and_one_wins(maker):
    one = maker()
    first, second = one.open(), one.open()
    with first.claim(0) as ours, second.claim(0) as theirs:
        assert (ours, theirs) == (True, False)
    # Without locks, as on some network file systems, linking decides.
    span = one.plan.span(0)
    samples = [one._one(first, n) for n in span]
    other = [one._one(second, n + 1) for n in span]  # as if its node computed otherwise
    assert first.write(0, 0, samples) is True
    assert second.write(0, 0, other) is False
    record = first.record(0)
    assert [s.id for s in record.samples] == ["a:0", "a:1", "a:2", "a:3"]
    assert [p.name for p in one.path.glob("kv-00000-*")] == [record.data.file]


def test_an_unfinished_store_is_not_read_and_not_merged(maker):
    one = maker()
    one.run([0, 2])
    with pytest.raises(FileNotFoundError, match=r"has a plan, but no manifest\.json"):
        KVStore(one.path)
    with pytest.raises(StoreError, match="shard 1 is missing"):
        merge(one.path)
    with pytest.raises(StoreError, match="lacks 1 of 3 shards: 1;"):
        one.open().finish()
    summary = summarize(one.path)
    assert (summary.finished, summary.shards, summary.merged) == (2, 3, False)
    one.run([1])
    assert merge(one.path).samples == 11
    assert summarize(one.path).tokens == sum(stored(n).k.shape[1] for n in range(11))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"fingerprint": {"model": "m", "revision": "def"}},
            "revision: stored 'abc', config 'def'",
        ),
        ({"encoding": Encoding(name="int8")}, "encoding.name: stored 'float32'"),
        ({"samples": 12}, "samples: stored 11, config 12"),
        ({"form": "adapted"}, "form: stored 'raw', config 'adapted'"),
        ({"shard_samples": 5}, "shard_samples: stored 4, config 5"),
    ],
)
def test_what_differs_is_named_field_by_field_and_never_mixed(maker, changes, words):
    one = maker()
    one.run([0])
    before = visible(one.path)
    with pytest.raises(StoreError) as error:
        open_store(one.path, make_plan(**changes))
    assert words in str(error.value)
    assert visible(one.path) == before
    facts = make_plan(facts={"error": 0.1})
    assert open_store(one.path, facts).plan == one.plan  # the first says what is so


def test_several_stores_in_a_folder_are_found(maker, tmp_path):
    for name in ("all/a", "all/b"):
        maker(name).run()
    assert stores_in(tmp_path / "all") == [tmp_path / "all/a", tmp_path / "all/b"]
    assert stores_in(tmp_path / "all/a") == [tmp_path / "all/a"]
    with pytest.raises(FileNotFoundError, match=r"several stores .a, b."):
        KVStore(tmp_path / "all")
    with pytest.raises(FileNotFoundError, match="no KV store at"):
        stores_in(tmp_path)


def test_the_plan_names_its_fields_in_json(maker):
    one = maker()
    one.run()
    plan = json.loads((one.path / "plan.json").read_text())
    assert plan["fingerprint"] == {"model": "m", "revision": "abc"}
    assert plan["shape"] == {"layers": 3, "heads": 2, "k_width": 8, "v_width": 6}
