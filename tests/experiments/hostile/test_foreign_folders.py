"""Runs and stores that somebody made to reach what lies outside them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from align.foreign.seal import read_sealed as read_json_sealed
from align.foreign.seal import sealed_text
from align.support.digest import sha256_of
from experiments.cli import main
from student.checkpoint import MARKER
from teacher.store.manifest import MANIFEST, PLAN, Manifest, Plan, read_sealed, seal
from teacher.store.records import file_record
from tests.everyday import some_daily
from tests.experiments.small_runs import said, small_config

FEW = {"data": {"train_samples": 20}}


@pytest.fixture(scope="module")
def folders(tiny_zoo, tmp_path_factory):
    """A folder with a run, its store and its config."""
    folder = tmp_path_factory.mktemp("own")
    store = {"dir": str(folder), "shard_samples": 8}
    config = small_config(folder, tiny_zoo, FEW | {"store": store})
    assert main(["extract", str(config), "store.name=kv"]) == 0
    assert main(["train", str(config)]) == 0
    return folder


@pytest.fixture
def foreign(folders, tmp_path):
    """A copy that a test may change, with a victim beside run and store."""
    for name in ("run", "kv"):
        shutil.copytree(folders / name, tmp_path / name)
        saved = tmp_path / name / "config.yaml"
        settings, here = saved.read_text(), f"  dir: {folders}\n"
        assert settings.count(here) == 2  # of runs and of stores
        saved.write_text(settings.replace(here, f"  dir: {tmp_path}\n"))
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("kept.json", "metrics.jsonl", "losses.png"):
        (victim / name).write_bytes(b"keep me, without an end")
    yield tmp_path
    assert sorted(file.name for file in victim.iterdir()) == [
        "kept.json",
        "losses.png",
        "metrics.jsonl",
    ]
    for file in victim.iterdir():
        assert file.read_bytes() == b"keep me, without an end"


ON_RUNS = {
    "status": ["status", "{run}"],
    "report": ["report", "{run}"],
    "viz": ["viz", "routing", "{run}"],
    "generate": ["generate", "{run}", "--prompt", "The"],
    "eval": ["eval", "{run}"],
    "train": ["train", "{run}/config.yaml"],
    "check": ["train", "{run}/config.yaml", "--check"],
}
ON_STORES = {
    "info": ["store", "info", "{kv}"],
    "verify": ["store", "verify", "{kv}"],
    "merge": ["store", "merge", "{kv}"],
    "repair": ["store", "repair", "{kv}"],
    "take out": ["store", "repair", "{kv}", "--take-out-only"],
    "extract": ["extract", "{kv}/config.yaml"],
    "train": [
        "train",
        "{kv}/config.yaml",
        "store.read=true",
        "run.name=new",
        "phase.all.output.projected_kl=0",
    ],
}
LINKS = {
    "metrics.jsonl": "victim/metrics.jsonl",
    "figures": "victim",
    ".lock": "victim/kept.json",
    "phases/1-dual/student": "victim",
    "lease.json": "victim/nothing",
}


def refused(words, folder, capsys):
    places = {"run": folder / "run", "kv": folder / "kv"}
    code, message = said([word.format(**places) for word in words], capsys)
    assert code == 2, message
    assert message.startswith("mtkd: error: ")
    return message


@pytest.mark.parametrize(
    ("link", "command"),
    some_daily(
        [(link, command) for link in LINKS for command in ON_RUNS],
        lambda case: case[0] == "metrics.jsonl" or case[1] == "status",
    ),
)
def test_every_command_refuses_a_run_with_a_link_out_of_it(
    foreign, command, link, capsys
):
    place = foreign / "run" / link
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(foreign / LINKS[link])
    message = refused(ON_RUNS[command], foreign, capsys)
    assert f"{place} is a link that leads out of" in message


@pytest.mark.parametrize("command", ["status", "train"])
def test_a_marker_that_lists_a_file_outside_is_refused(foreign, command, capsys):
    marker = foreign / "run" / "phases" / "1-dual" / MARKER
    record, _ = read_json_sealed(marker)
    name = "../../../victim/kept.json"
    sealed = sealed_text(record | {"files": {name: 23}, "sha256": {name: "0" * 64}})
    marker.write_text(sealed)
    message = refused(ON_RUNS[command], foreign, capsys)
    assert f"{marker} names the file '../../../victim/kept.json'" in message


def test_phases_and_teachers_that_name_folders_elsewhere_are_refused(foreign, capsys):
    saved = foreign / "run" / "config.yaml"
    settings = yaml.safe_load(saved.read_text())
    saved.write_text(yaml.safe_dump(settings | {"phases": ["../../victim"]}))
    message = refused(ON_RUNS["status"], foreign, capsys)
    assert "phases has '../../victim'" in message
    saved.write_text(yaml.safe_dump(settings))
    (foreign / "run" / "texts.json").write_text('{"../../victim": 8}')
    message = refused(ON_RUNS["eval"], foreign, capsys)
    assert "names '../../victim', which is no teacher" in message


def test_a_picture_named_after_a_phase_stays_in_its_folder(foreign, capsys):
    line = {"kind": "layer_similarity", "arm": "main", "phase": "/../../../victim/x"}
    with (foreign / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line | {"teachers": {}}) + "\n")
    from experiments.record.run_dir import read_run
    from experiments.report.figures import draw_layer_similarity

    run = read_run(foreign / "run")
    with pytest.raises(ValueError, match="which is no file of its folder"):
        draw_layer_similarity(run, run.figures)


@pytest.mark.parametrize("command", ON_STORES)
def test_every_command_refuses_a_store_that_names_a_file_outside(
    foreign, command, capsys
):
    plan_file = next((foreign / "kv").glob(f"*/{PLAN}"))
    plan = json.loads(read_sealed(plan_file, Plan).model_dump_json())
    plan["constants"] = {
        "file": "../../victim/kept.json",
        "size": 23,
        "sha256": "0" * 64,
    }
    plan_file.write_bytes(seal(Plan.model_validate(plan)))
    manifest_file = plan_file.with_name(MANIFEST)
    manifest = read_sealed(manifest_file, Manifest)
    fitting = manifest.model_copy(update={"plan": file_record(plan_file)})
    manifest_file.write_bytes(seal(fitting))
    message = refused(ON_STORES[command], foreign, capsys)
    assert f"{plan_file} names the file '../../victim/kept.json'" in message


@pytest.mark.parametrize("command", ON_STORES)
@pytest.mark.parametrize("link", ["kv-00000.json", ".kv-00000.json.lock"])
def test_every_command_refuses_a_store_with_a_link_out_of_it(
    foreign, command, link, capsys
):
    store = next((foreign / "kv").glob(f"*/{PLAN}")).parent
    (store / link).unlink(missing_ok=True)
    (store / link).symlink_to(foreign / "victim" / "kept.json")
    message = refused(ON_STORES[command], foreign, capsys)
    assert f"{store / link} is a link that leads out of" in message


def test_a_repair_writes_where_it_was_pointed_whatever_the_config_says(foreign, capsys):
    saved = foreign / "kv" / "config.yaml"
    settings = yaml.safe_load(saved.read_text())
    settings["store"] |= {"dir": str(foreign), "name": "victim"}
    saved.write_text(yaml.safe_dump(settings))
    shard = next((foreign / "kv").glob("*/kv-00001-*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert said(["store", "repair", str(foreign / "kv")], capsys) == (0, "")
    assert shard.read_bytes() == whole


def test_own_folders_are_read_as_before(foreign, capsys):
    for words in (ON_RUNS["status"], ON_RUNS["check"], ON_STORES["verify"]):
        places = {"run": foreign / "run", "kv": foreign / "kv"}
        assert said([word.format(**places) for word in words], capsys) == (0, "")
    assert Path(foreign / "run" / "metrics.jsonl").is_file()


@pytest.fixture
def with_code(foreign, monkeypatch):
    """Run and store whose configs name a plugin that tells when it runs."""
    monkeypatch.chdir(foreign)
    code = (
        "from pathlib import Path\n"
        "from plugins import hookimpl\n\n"
        f"Path({str(foreign / 'ran')!r}).write_text('ran')\n\n"
        "@hookimpl\ndef aligners():\n    return {'mine': None.__class__}\n"
    )
    (foreign / "brought.py").write_text(code)
    for name in ("run", "kv"):
        saved = foreign / name / "config.yaml"
        settings = yaml.safe_load(saved.read_text()) | {"plugins": ["brought.py"]}
        saved.write_text(yaml.safe_dump(settings))
    sys.modules.pop(f"mtkd_plugin_{''.join(_letters(foreign / 'brought.py'))}", None)
    return foreign


def _letters(path):
    return (c if c.isalnum() else "_" for c in str(path.resolve()))


BY_FOLDER = {
    "repair": ["store", "repair", "{kv}"],
    "config show": ["config", "show", "{run}/config.yaml", "--phase", "dual"],
    "viz layers": ["viz", "layers", "{run}/config.yaml", "--out", "{run}.png"],
    "estimate": ["estimate", "{run}/config.yaml", "--plan"],
}
SHOWING = {
    **{name: ON_RUNS[name] for name in ("status", "report", "generate", "eval")},
    "config show": ["config", "show", "{run}/config.yaml"],
    "info": ON_STORES["info"],
    "verify": ON_STORES["verify"],
    "merge": ON_STORES["merge"],
    "take out": ON_STORES["take out"],
}


def filled(words, folder):
    return [word.format(run=folder / "run", kv=folder / "kv") for word in words]


@pytest.mark.parametrize("command", BY_FOLDER)
def test_code_that_a_folder_brings_along_is_refused_unrun(with_code, command, capsys):
    message = refused(BY_FOLDER[command], with_code, capsys)
    digest = sha256_of(with_code / "brought.py")
    assert f"config.yaml names the plugin 'brought.py' (SHA-256 {digest})" in message
    assert "--plugin brought.py" in message and "--no-plugins" in message
    assert not (with_code / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", SHOWING)
def test_no_command_that_shows_a_folder_runs_its_code(with_code, command, capsys):
    assert said(filled(SHOWING[command], with_code), capsys) == (0, "")
    assert not (with_code / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", BY_FOLDER)
def test_code_of_a_folder_runs_where_the_command_names_it(with_code, command, capsys):
    words = filled(BY_FOLDER[command], with_code)
    assert main([*words, "--plugin", str(with_code / "brought.py")]) == 0
    shown = capsys.readouterr().err
    digest = sha256_of(with_code / "brought.py")
    assert f"plugin {with_code / 'brought.py'}: SHA-256 {digest}" in shown
    assert (with_code / "ran").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", BY_FOLDER)
def test_no_plugins_leaves_out_what_a_config_names_and_says_so(
    with_code, command, capsys
):
    assert main([*filled(BY_FOLDER[command], with_code), "--no-plugins"]) == 0
    shown = capsys.readouterr().err
    assert shown.count("left out: plugin brought.py, which the config names") == 1
    assert not (with_code / "ran").exists()


def test_what_a_config_needs_and_no_plugins_leaves_out_is_missed_by_name(
    with_code, capsys
):
    words = filled(["train", "{run}/config.yaml", "align.aligner=mine"], with_code)
    code, message = said([*words, "--no-plugins"], capsys)
    assert code == 2 and "no aligner is called 'mine'" in message
    code, message = said([*words, "--no-plugins", "--plugin", "brought.py"], capsys)
    assert code == 2 and "contradict" in message
    assert not (with_code / "ran").exists()


@pytest.mark.slow
def test_a_run_goes_on_by_its_own_config_that_its_user_passes(with_code, capsys):
    assert main(filled(ON_RUNS["train"], with_code)) == 0
    shown = capsys.readouterr().err
    assert f"SHA-256 {sha256_of(with_code / 'brought.py')}" in shown
    assert (with_code / "ran").is_file()


def test_a_config_of_ones_own_may_name_plugins_for_every_command(with_code, capsys):
    own = with_code / "my.yaml"
    shutil.copy(with_code / "run" / "config.yaml", own)
    words = ["config", "show", str(own), "--phase", "dual"]
    assert said(words, capsys) == (0, "")
    assert (with_code / "ran").is_file()
