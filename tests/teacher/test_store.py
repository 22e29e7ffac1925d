import json
import os
import stat

import pytest
import torch

from align.kv import KV
from teacher.store import KVStore, load_kvs, save_kvs


def _kv(tokens, dtype=torch.float32):
    generator = torch.Generator().manual_seed(tokens)
    k = torch.randn(3, 1, 2, tokens, 4, generator=generator).to(dtype)
    v = torch.randn(3, 1, 2, tokens, 5, generator=generator).to(dtype)
    return KV(k, v, torch.ones(1, tokens, dtype=torch.bool))


@pytest.mark.parametrize("shard_bytes", [1, 1200, 1 << 30])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path, shard_bytes):
    kvs = [_kv(5), _kv(0), _kv(3, torch.bfloat16), _kv(7)]
    manifest = save_kvs(kvs, tmp_path / "kv", shard_bytes=shard_bytes)
    assert len(manifest.shards) == {1: 3, 1200: 2, 1 << 30: 1}[shard_bytes]
    for want, got in zip(kvs, load_kvs(tmp_path / "kv"), strict=True):
        assert got.k.dtype == want.k.dtype
        assert got.k.equal(want.k)
        assert got.v.equal(want.v)
        assert got.mask.equal(want.mask)
    assert [p.name for p in tmp_path.iterdir()] == ["kv"]


def test_single_layers_of_single_samples(tmp_path):
    kvs = [_kv(5), _kv(3)]
    save_kvs(kvs, tmp_path / "kv")
    store = KVStore(tmp_path / "kv")
    assert len(store) == 2
    got = store.read(1, layers=[2, 0])
    assert got.k.equal(kvs[1].k[[2, 0]])
    assert got.v.equal(kvs[1].v[[2, 0]])
    with pytest.raises(IndexError, match=r"samples 0\.\.1, not 2"):
        store[2]


def test_views_of_one_tensor_are_saved_whole(tmp_path):
    big = _kv(6)
    kvs = [KV(big.k[..., :2, :], big.v[..., :2, :], big.mask[:, :2]), big]
    save_kvs(kvs, tmp_path / "kv")
    assert load_kvs(tmp_path / "kv")[0].k.equal(big.k[..., :2, :])


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    save_kvs([_kv(5)], tmp_path / "kv")
    shard = tmp_path / "kv" / "kv-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(data if damage == "flip" else data[:-8])
    with pytest.raises(ValueError, match=r"kv-00000\.safetensors"):
        load_kvs(tmp_path / "kv")


def test_an_unfinished_or_foreign_folder_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished KV store"):
        load_kvs(tmp_path / "absent")
    save_kvs([_kv(2)], tmp_path / "kv")
    file = tmp_path / "kv" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(ValueError, match="reads mtkd-kv 1"):
        load_kvs(tmp_path / "kv")
    file.write_text(json.dumps(manifest | {"colour": 2}))
    with pytest.raises(ValueError, match="no KV manifest"):
        load_kvs(tmp_path / "kv")


def test_a_failed_save_leaves_what_was_there(tmp_path):
    class Broken:
        num_tokens = 1

        @property
        def k(self):
            raise RuntimeError("disk on fire")

    save_kvs([_kv(2)], tmp_path / "kv")
    with pytest.raises(RuntimeError, match="disk on fire"):
        save_kvs([_kv(3), Broken()], tmp_path / "kv", overwrite=True)
    assert load_kvs(tmp_path / "kv")[0].num_tokens == 2
    assert [p.name for p in tmp_path.iterdir()] == ["kv"]


def test_existing_folders_are_replaced_only_when_asked(tmp_path):
    save_kvs([_kv(2)], tmp_path / "kv")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_kvs([_kv(3)], tmp_path / "kv")
    save_kvs([_kv(3)], tmp_path / "kv", overwrite=True)
    assert load_kvs(tmp_path / "kv")[0].num_tokens == 3
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="no KV store"):
        save_kvs([_kv(3)], tmp_path / "mine", overwrite=True)


def test_files_are_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        save_kvs([_kv(2)], tmp_path / "kv")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o750
    for file in (tmp_path / "kv").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_texts_and_provenance_are_vouched_for(tmp_path):
    save_kvs([_kv(2)], tmp_path / "kv", texts=["abc"], provenance={"model": "m"})
    manifest = KVStore(tmp_path / "kv").manifest
    assert manifest.provenance == {"model": "m"}
    assert manifest.samples[0].text_sha256.startswith("ba7816bf")  # of "abc", FIPS 180
    with pytest.raises(ValueError, match="2 texts for 1 KV"):
        save_kvs([_kv(2)], tmp_path / "other", texts=["a", "b"])
