import os
import time

import pytest

from experiments import doctor


def findings(check, env):
    return list(check(env))


def test_a_stale_extension_lock_is_found_and_a_fresh_one_only_noted(tmp_path):
    lock = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert findings(doctor._extension_locks, env)[0].state == "warn"
    old = time.time() - 2 * doctor.STALE_LOCK_SECONDS
    os.utime(lock, (old, old))
    (found,) = findings(doctor._extension_locks, env)
    assert found.state == "fail"
    assert str(lock) in found.found
    assert "delete" in found.advice


def test_offline_without_models_is_a_warning_with_advice(tmp_path):
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    (found,) = findings(doctor._hub, env)
    assert (found.state, found.advice[:9]) == ("warn", "use local")
    (tmp_path / "models--gpt2").mkdir()
    assert findings(doctor._hub, env)[0].state == "ok"
    assert "1 model(s)" in findings(doctor._hub, env)[0].found


def test_slurm_is_recognised_from_inside_a_job():
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
    assert findings(doctor._slurm, env)[0].found == "inside job 7, 2 node(s)"


def test_an_old_package_is_told_apart_from_a_missing_one(monkeypatch):
    versions = {"torch": "2.9.1", "transformers": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "99.0"))
    bounds = [
        "torch>=2.10",
        "transformers>=5.0",
        "accelerate>=1.1",
        "x>=3; extra == 'y'",
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: bounds)
    found = {finding.topic: finding for finding in doctor._packages({})}
    assert found["torch"].state == "warn"
    assert found["transformers"].state == "fail"
    assert "pip install 'transformers>=5.0'" in found["transformers"].advice
    assert found["accelerate"].state == "ok"
    assert doctor._numbers("0.19.8") > doctor._numbers("0.19.7+cpu")


@pytest.mark.parametrize(
    ("free", "state"), [(100e9, "ok"), (5e9, "warn"), (0.5e9, "fail")]
)
def test_little_free_disk_is_said(monkeypatch, free, state):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1, 1, free))
    assert {found.state for found in doctor._disk({})} == {state}


def test_a_check_that_breaks_does_not_hide_the_rest(monkeypatch):
    def broken(_):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(doctor, "_devices", broken)
    monkeypatch.setattr(doctor, "_deepspeed", lambda _: iter(()))
    found = {finding.topic: finding for finding in doctor.examine({})}
    assert found["devices"].state == "fail"
    assert "RuntimeError: driver too old" in found["devices"].found
    assert {"python", "torch", "slurm", "hub", "disk, here", "zoo"} <= set(found)


@pytest.mark.slow
def test_whatever_is_not_ok_says_what_to_do():
    for finding in doctor.examine():
        assert finding.state == "ok" or finding.advice, finding


def test_an_installed_plugin_that_fails_to_load_must_be_repaired(monkeypatch):
    from plugins import discovery
    from plugins.errors import Failure

    broken = Failure("acme", "acme-router", "1.2", "ModuleNotFoundError: no acme")
    monkeypatch.setattr(discovery, "installed", lambda skip, env: ([], [broken]))
    failed, others = findings(doctor._plugins, {})
    assert (failed.state, others.state) == ("fail", "ok")
    assert "'acme' of acme-router 1.2: ModuleNotFoundError" in failed.found
    assert "--skip-plugin acme" in failed.advice


def test_the_doctor_says_which_font_shows_chinese_or_what_to_install(monkeypatch):
    from align.pictures import fonts

    bare = {fonts.BASE: fonts._families()[fonts.BASE]}
    monkeypatch.setattr(fonts, "_families", lambda: bare)
    (found,) = doctor._fonts({})
    assert found.state == "warn"
    assert found.found.startswith("none shows Chinese or Japanese or Korean")
    assert "fonts-noto-cjk or fonts-wqy-zenhei (apt)" in found.advice
    monkeypatch.setattr(
        fonts, "fonts_for", lambda text: fonts.Fonts((fonts.BASE, "Hei"), frozenset())
    )
    (found,) = doctor._fonts({})
    assert (found.state, found.found) == ("ok", "Hei shows Chinese, Japanese, Korean")
