"""A folder is this account's where its marker is signed with this account's key."""

import os
import stat
from multiprocessing.pool import ThreadPool

import pytest

from align.errors import InputError, MachineError
from align.foreign import signature
from align.foreign.marker import MARKER
from align.foreign.signature import (
    SIGNATURE,
    UnsignedError,
    check_signed,
    is_signed,
    key_file,
    sign,
    signing_key,
)
from student.checkpoint import mark_complete


@pytest.fixture
def folder(tmp_path):
    """Complete, and not signed."""
    place = tmp_path / "phase"
    place.mkdir()
    (place / "weights").write_bytes(b"1234")
    mark_complete(place, {"step": 3})
    return place


@pytest.fixture
def other_account(tmp_path, monkeypatch):
    """From here on, another account's settings."""

    def become(name="other"):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / name))
        monkeypatch.setenv("MTKD_CACHE", str(tmp_path / f"{name}-cache"))

    return become


def test_what_is_signed_is_this_accounts_wherever_it_goes(folder, tmp_path):
    assert not is_signed(folder)
    sign(folder)
    assert is_signed(folder)
    check_signed(folder.rename(tmp_path / "elsewhere"))


@pytest.mark.parametrize("damage", ["marker", "signature", "absent", "folder", "empty"])
def test_what_another_wrote_or_changed_asks_for_trust_once(folder, damage):
    sign(folder)
    if damage == "marker":  # as after other weights, with digests that fit
        (folder / "weights").write_bytes(b"4321")
        (folder / MARKER).unlink()
        mark_complete(folder, {"step": 3})
    elif damage == "signature":
        (folder / SIGNATURE).write_text("0" * 64)
    else:
        (folder / SIGNATURE).unlink()
        if damage == "folder":
            (folder / SIGNATURE).mkdir()
        elif damage == "empty":
            (folder / SIGNATURE).touch()
    said = r"phase is not signed .*earlier version.*--trust-checkpoint.*run\.name"
    with pytest.raises(UnsignedError, match=said):
        check_signed(folder)
    if damage != "folder":
        check_signed(folder, trust=True)
        check_signed(folder)


def test_another_account_signs_otherwise(folder, other_account):
    sign(folder)
    other_account()
    assert not is_signed(folder)


def test_a_link_in_the_place_of_a_signature_is_not_followed(folder, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / SIGNATURE).symlink_to(victim)
    check_signed(folder, trust=True)
    assert victim.read_text() == "mine" and is_signed(folder)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_key_is_one_for_all_and_its_owners_alone(other_account):
    other_account()
    with ThreadPool(8) as pool:
        keys = set(pool.map(lambda _: signing_key(), range(32)))
    assert len(keys) == 1 and len(keys.pop()) == 32
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_key_that_others_may_read_is_not_used(other_account):
    other_account()
    signing_key()
    key_file().chmod(0o640)
    with pytest.raises(InputError, match=r"others may read it; delete .*chmod 600"):
        signing_key()


def test_a_key_that_is_cut_off_is_not_used(other_account):
    other_account()
    signing_key()
    key_file().write_bytes(b"1234")
    with pytest.raises(InputError, match="holds 4 bytes and no key; delete it"):
        signing_key()


def test_without_a_home_the_key_lies_in_the_cache_and_else_nowhere(
    other_account, tmp_path
):
    other_account()
    (tmp_path / "other").touch()  # a file where a folder should be
    signing_key()
    assert (tmp_path / "other-cache" / "key").is_file()
    other_account("third")
    for name in ("third", "third-cache"):
        (tmp_path / name).touch()
    with pytest.raises(MachineError, match=r"neither in .*XDG_CONFIG_HOME"):
        signing_key()


@pytest.mark.parametrize(
    ("environ", "platform", "place"),
    [
        ({"XDG_CONFIG_HOME": "/etc/x"}, "linux", "/etc/x/mtkd/key"),
        ({"XDG_CONFIG_HOME": "x"}, "linux", "/home/me/.config/mtkd/key"),
        ({}, "darwin", "/home/me/Library/Application Support/mtkd/key"),
        ({"APPDATA": "/roaming"}, "win32", "/roaming/mtkd/key"),
    ],
)
def test_the_key_lies_where_settings_lie(monkeypatch, environ, platform, place):
    monkeypatch.setattr(signature.Path, "home", lambda: signature.Path("/home/me"))
    assert str(key_file(environ, platform)) == place
