import json
import os
import stat

import pytest
import torch

from align.kv import KV
from teacher.store import Encoding, KVStore, load_kvs, save_kvs

INT8 = Encoding(name="int8")


def _kv(tokens, dtype=torch.float32):
    generator = torch.Generator().manual_seed(tokens)
    k = torch.randn(3, 1, 2, tokens, 4, generator=generator).to(dtype)
    v = torch.randn(3, 1, 2, tokens, 5, generator=generator).to(dtype)
    return KV(k, v, torch.ones(1, tokens, dtype=torch.bool))


@pytest.mark.parametrize("shard_bytes", [1, 1200, 1 << 30])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path, shard_bytes):
    kvs = [_kv(5), _kv(0), _kv(3), _kv(7)]
    manifest = save_kvs(kvs, tmp_path / "kv", shard_bytes=shard_bytes)
    assert len(manifest.data) == {1: 4, 1200: 2, 1 << 30: 1}[shard_bytes]
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


def test_an_unfinished_or_foreign_folder_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished KV store"):
        load_kvs(tmp_path / "absent")
    save_kvs([_kv(2)], tmp_path / "kv")
    file = tmp_path / "kv" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"version": 1}))
    with pytest.raises(ValueError, match="version 1 of the store format"):
        load_kvs(tmp_path / "kv")
    file.write_text(json.dumps(manifest | {"colour": 2}))
    with pytest.raises(ValueError, match=r"no manifest of a KV store.*colour"):
        load_kvs(tmp_path / "kv")


def test_a_failed_save_leaves_what_was_there(tmp_path):
    save_kvs([_kv(2)], tmp_path / "kv")
    huge = KV(_kv(3).k * 1e9, _kv(3).v, _kv(3).mask)
    with pytest.raises(ValueError, match="outside what int8 holds"):
        save_kvs(
            [_kv(3), huge],
            tmp_path / "kv",
            overwrite=True,
            encoding=INT8,
            shard_bytes=1,
        )
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
    store = KVStore(tmp_path / "kv")
    assert store.plan.fingerprint == {"model": "m"}
    assert store.samples[0].text_sha256.startswith("ba7816bf")  # of "abc", FIPS 180
    assert store.find("abc") == 0
    assert store.find("abd") is None
    with pytest.raises(ValueError, match="2 texts for 1 KV"):
        save_kvs([_kv(2)], tmp_path / "other", texts=["a", "b"])


def test_types_are_kept_and_mixtures_are_refused(tmp_path):
    save_kvs([_kv(3, torch.bfloat16)], tmp_path / "kv")
    assert load_kvs(tmp_path / "kv")[0].k.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"several types .bfloat16, float32."):
        save_kvs([_kv(3), _kv(3, torch.bfloat16)], tmp_path / "other")
    short = KV(_kv(3).k[:2], _kv(3).v[:2], _kv(3).mask)
    with pytest.raises(ValueError, match="2 shapes"):
        save_kvs([_kv(3), short], tmp_path / "other")
    assert not (tmp_path / "other").exists()
