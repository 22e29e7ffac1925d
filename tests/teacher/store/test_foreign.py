"""Stores that somebody made to reach files outside."""

import json
import shutil

import pytest

from align.foreign.inside import OutsideError
from teacher.store import Encoding, KVStore
from teacher.store.manifest import (
    MANIFEST,
    PLAN,
    Manifest,
    Plan,
    ShardRecord,
    digest_of,
    read_sealed,
    seal,
)
from teacher.store.records import file_record, read_constants, record_name
from teacher.store.upkeep import merge, stores_in, summarize, take_out, verify
from tests.teacher.store.conftest import Maker, make_plan

ACTIONS = {
    "read": lambda path: KVStore(path, verify=False).read(0),
    "read, digests compared": lambda path: KVStore(path).read(0),
    "info": summarize,
    "verify": verify,
    "merge": merge,
    "repair": lambda path: take_out(path, verify(path)),
}
NAMES = ["../victim.safetensors", "{outside}", "a/../../victim.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with constants, which no test touches."""
    folder = tmp_path_factory.mktemp("whole") / "kv"
    Maker(folder, make_plan(encoding=Encoding(name="int8"))).run()
    return folder


@pytest.fixture
def store(whole, tmp_path):
    """A copy of it, and a victim beside it."""
    path = shutil.copytree(whole, tmp_path / "kv")
    (tmp_path / "victim.safetensors").write_bytes(b"keep me")
    yield path
    assert (tmp_path / "victim.safetensors").read_bytes() == b"keep me"
    assert not (tmp_path / "victim.safetensors").is_symlink()


def whole_again(store):
    """Make records and manifest fit a changed plan or record, as its maker would."""
    plan = digest_of(read_sealed_any(store / PLAN, Plan))
    for number in range(3):
        record = read_sealed_any(store / record_name(number), ShardRecord)
        file = store / record_name(number)
        file.write_bytes(seal(record.model_copy(update={"plan": plan})))
    records = [file_record(store / record_name(n)) for n in range(3)]
    manifest = read_sealed_any(store / MANIFEST, Manifest).model_copy(
        update={"plan": file_record(store / PLAN), "records": records}
    )
    (store / MANIFEST).write_bytes(seal(manifest))


def read_sealed_any(file, kind):
    content = json.loads(file.read_text())
    del content["digest"]
    return kind.model_validate(content)


def resealed(file, kind, **changes):
    """Change a sealed file as somebody does who can compute digests."""
    value = read_sealed(file, kind)
    content = json.loads(value.model_dump_json())
    for name, change in changes.items():
        change(content[name])
    file.write_bytes(seal(kind.model_validate(content)))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["constants", "record", "manifest"])
def test_a_name_that_leads_out_of_a_store_is_refused(store, action, name, place):
    outside = name.format(outside=store.parent / "victim.safetensors")

    def point_out(entry):
        entry["file"] = outside

    if place == "constants":
        resealed(store / PLAN, Plan, constants=point_out)
    elif place == "record":
        resealed(store / record_name(0), ShardRecord, data=point_out)
    else:
        resealed(store / MANIFEST, Manifest, data=lambda files: point_out(files[1]))
    whole_again(store)
    before = sorted(store.iterdir())
    with pytest.raises(OutsideError) as refused:
        ACTIONS[action](store)
    assert "\n" not in str(refused.value) and repr(outside) in str(refused.value)
    assert sorted(store.iterdir()) == before


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", [PLAN, MANIFEST, record_name(0), "kv-99999.json"])
def test_a_link_out_of_a_store_is_refused(store, action, name):
    kept = store.parent / "kept.json"
    if (store / name).is_file():
        (store / name).rename(kept)
    else:
        kept.write_text("{}")
    (store / name).symlink_to(kept)
    with pytest.raises(OutsideError, match="is a link that leads out of"):
        ACTIONS[action](store)
    assert (store / name).is_symlink() and kept.is_file()


def test_a_store_behind_a_link_out_of_their_folder_is_refused(store):
    folder = store.parent / "stores"
    folder.mkdir()
    (folder / "teacher").symlink_to(store)
    with pytest.raises(OutsideError, match="is a link that leads out of"):
        stores_in(folder)


def test_one_sealed_file_or_constants_alone_are_seen_to_lie_in_the_store(store):
    plan = read_sealed(store / PLAN, Plan)
    data = store / plan.constants.file
    data.rename(store.parent / "elsewhere")
    data.symlink_to(store.parent / "elsewhere")
    with pytest.raises(OutsideError, match="leads out of"):
        read_constants(store, plan)


def test_a_linked_store_is_read_as_the_store_it_is(store):
    linked = store.parent / "linked"
    linked.symlink_to(store)
    assert verify(linked) == [] and len(KVStore(linked)) == 11
