"""`mtkd extract` from the command to the bytes on disk."""

import os
import random
import shutil
import signal
import sys

import pytest
import torch

from experiments.cli import main
from experiments.config.tree import load_config
from experiments.extraction import run as running
from experiments.extraction.run import extract, share_of
from teacher.store import KVStore
from teacher.store.upkeep import verify
from tests.experiments.small_runs import said, small_config
from tests.teacher.store.conftest import visible

FEW = {"data": {"train_samples": 20}}


@pytest.fixture
def config(tiny_zoo, tmp_path):
    """Write a config whose store has 20 texts in 5 shards; its path."""

    def write(name="kv", **store):
        settings = {"dir": str(tmp_path / name), "shard_samples": 4} | store
        return str(small_config(tmp_path, tiny_zoo, FEW | {"store": settings}))

    return write


def files(folder):
    return {
        f"{path.name}/{name}": data
        for path in folder.iterdir()
        if (path / "plan.json").is_file()
        for name, data in visible(path).items()
    }


@pytest.mark.slow
def test_a_config_becomes_one_store_a_teacher_that_other_tasks_make_alike(
    config, tmp_path, capsys
):
    assert said(["extract", config()], capsys) == (0, "")
    whole = files(tmp_path / "kv" / "run")
    store = KVStore(tmp_path / "kv" / "run" / "gpt2-prose")
    assert len(store) == 20
    assert store.plan.encoding.name == "bfloat16"
    assert set(store.plan.facts["errors"]) == {"k", "v", "attention_kl"}
    tasks = config("tasks")
    for share in ("3/3", "1/3", "1/3", "2/3"):
        assert said(["extract", tasks, "--shard", share], capsys) == (0, "")
    assert files(tmp_path / "tasks" / "run") == whole
    capsys.readouterr()
    assert main(["extract", tasks]) == 0
    assert "0 shards made, 10 there already" in capsys.readouterr().out


def test_shares_are_neighbours_and_make_a_whole():
    for shards in (0, 1, 7, 24):
        every = [n for i in range(1, 6) for n in share_of(shards, (i, 5))]
        assert every == list(range(shards))


@pytest.mark.parametrize("share", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_share_that_is_none_is_refused(config, capsys, share):
    code, message = said(["extract", config(), "--shard", share], capsys)
    assert code == 2 and "give I/N with 1 <= I <= N" in message


@pytest.mark.slow
def test_another_teacher_text_or_setting_is_refused_field_by_field(
    config, tiny_zoo, tmp_path, capsys
):
    path = config()
    assert said(["extract", path], capsys) == (0, "")
    before = files(tmp_path / "kv" / "run")
    for override, words in (
        (f"teachers.qwen-code.model={tiny_zoo['neox-mixed']}", "weights: stored"),
        (
            "teachers.qwen-code.dtype=bfloat16",
            "dtype: stored 'auto', config 'bfloat16'",
        ),
        ("data.max_length=24", "max_length: stored 32, config 24"),
        ("data.train_samples=19", "samples: stored 20, config 19"),
        ("store.encoding=int8", "encoding.name: stored 'bfloat16', config 'int8'"),
        ("align.layer_map={qwen-code: [1, 1]}", "layers: stored [0, 1], config [1]"),
        ("store.form=adapted", "form: stored 'raw', config 'adapted'"),
    ):
        code, message = said(["extract", path, override], capsys)
        assert code == 2 and words in message, (override, message)
        assert "a store never holds a mixture" in message
    assert files(tmp_path / "kv" / "run") == before


@pytest.mark.slow
def test_every_form_is_on_the_tokens_layers_and_sizes_it_says(config, tmp_path, capsys):
    shapes = {}
    for form in ("raw", "aligned", "adapted", "fused"):
        assert said(["extract", config(form, form=form)], capsys) == (0, ""), form
        name = "fused" if form == "fused" else "qwen-code"
        store = KVStore(tmp_path / form / "run" / name)
        shape = store.plan.shape
        shapes[form] = (shape.layers, shape.k_width, store.manifest.tokens)
        names = {p.parent.name for p in (tmp_path / form / "run").glob("*/plan.json")}
        assert names == ({"fused"} if form == "fused" else {"gpt2-prose", "qwen-code"})
    assert shapes["aligned"][:2] == shapes["raw"][:2]
    assert shapes["aligned"][2] != shapes["raw"][2]  # the student cuts otherwise
    assert shapes["adapted"] == shapes["fused"]


@pytest.mark.slow
def test_a_form_that_does_not_fit_the_phases_is_refused(config, capsys):
    path = config(form="fused")
    override = "phase.all.fuse.fusion_method=similarity"
    code, message = said(["extract", path, override], capsys)
    assert code == 2 and "fused stores need fixed weights" in message
    path = config(form="adapted")
    code, message = said(["extract", path, "align.aligner=char_iou"], capsys)
    assert code == 2 and "is not causal" in message


@pytest.fixture
def broken_teacher(monkeypatch):
    """Make one teacher's keys infinite on one text."""
    from teacher.extract_teacher_kv import TeacherKVExtractor

    real, bad = TeacherKVExtractor._run, []

    def run(self, batch, *asked):
        got = real(self, batch, *asked)
        if "qwen" not in self.loaded.name:
            return got
        for text, one in zip(batch.texts, got, strict=True):
            bad.append(text)
            if text == bad[0]:
                one.kv.k[1, 0, 0, 0, 0] = float("inf")
        mask = batch.mask.sum(1).tolist()
        kv = [self._one(one.kv, 0, n, 0.0) for one, n in zip(got, mask, strict=True)]
        return kv

    monkeypatch.setattr(TeacherKVExtractor, "_run", run)


@pytest.mark.slow
def test_kv_that_are_not_finite_stop_or_are_left_out_by_name(
    config, broken_teacher, tmp_path, capsys
):
    code, message = said(["extract", config("stop")], capsys)
    assert code == 2
    assert "qwen-code: text.txt:" in message
    assert "not finite, first in layer" in message
    assert "store.on_non_finite=skip" in message
    assert main(["extract", config("skip", on_non_finite="skip")]) == 0
    shown = capsys.readouterr().err
    assert "warning: skipped qwen-code: text.txt:" in shown
    root = tmp_path / "skip" / "run"
    skipped = [s for s in KVStore(root / "qwen-code").samples if s.skipped]
    assert len({s.text_sha256 for s in skipped}) == 1  # the text may stand there twice
    assert all(s.tokens == 0 and s.id in shown for s in skipped)
    assert not [s for s in KVStore(root / "gpt2-prose").samples if s.skipped]
    assert verify(root / "qwen-code") == []


@pytest.mark.slow
def test_a_task_that_is_asked_to_stop_keeps_what_is_finished(config, tmp_path, capsys):
    class After:
        asked = 0

        def __call__(self):
            self.asked += 1
            return self.asked > 2

    path = config()
    outcome = extract(load_config(path), stop=After())
    assert outcome.stopped and outcome.made == 4
    assert said(["extract", path], capsys) == (0, "")
    assert len(KVStore(tmp_path / "kv" / "run" / "gpt2-prose")) == 20


def test_damage_is_named_and_repaired_by_the_saved_config(config, tmp_path, capsys):
    assert said(["extract", config(encoding="int8")], capsys) == (0, "")
    root = tmp_path / "kv" / "run"
    whole = files(root)
    data = next((root / "qwen-code").glob("kv-00002-*"))
    flipped = bytearray(data.read_bytes())
    flipped[-5] ^= 4
    data.write_bytes(flipped)
    next((root / "gpt2-prose").glob("kv-00001-*")).unlink()
    capsys.readouterr()
    assert main(["store", "verify", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "qwen-code (shard 2)" in shown and "does not match its sha256" in shown
    assert "gpt2-prose (shard 1)" in shown
    assert main(["store", "repair", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "took out shards 2" in shown and "2 shards made, 8 there already" in shown
    assert files(root) == whole
    assert main(["store", "verify", str(root)]) == 0
    assert main(["store", "info", str(root)]) == 0
    assert "int8" in capsys.readouterr().out


@pytest.mark.slow
def test_merging_needs_every_shard_and_a_missing_store_is_said(
    config, tmp_path, capsys
):
    path = config()
    assert said(["extract", path, "--shard", "1/2"], capsys) == (0, "")
    root = str(tmp_path / "kv" / "run")
    code, message = said(["store", "merge", root], capsys)
    assert code == 2 and "shard 2 is missing" in message
    assert said(["extract", path, "--shard", "2/2"], capsys) == (0, "")
    assert said(["store", "merge", root], capsys) == (0, "")
    code, message = said(["store", "info", str(tmp_path / "none")], capsys)
    assert code == 2 and "no KV store at" in message


@pytest.mark.slow
def test_extraction_killed_at_random_file_operations_ends_as_if_it_had_not_been(
    config, tmp_path, monkeypatch
):
    torch.set_num_threads(1)  # as in the children: numbers of two threads differ
    path = load_config(config("whole"))
    extract(path)
    whole = files(tmp_path / "whole" / "run")
    extraction = running.open_extraction(path)
    monkeypatch.setattr(
        running, "open_extraction", lambda c, *_, **__: _moved(extraction, c)
    )
    for seed in range(3):
        one = load_config(config(f"kv{seed}"))
        rng = random.Random(seed)
        while os.WIFSIGNALED(_die(one, rng.randrange(40, 200))):
            pass
        assert files(tmp_path / f"kv{seed}" / "run") == whole


def _moved(extraction, config):
    from dataclasses import replace

    return replace(extraction, config=config)


def _die(config, after):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    counted = 0

    def watch(event, arguments):
        nonlocal counted
        if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir"):
            counted += str(config.store_dir) in str(arguments[0])
            if counted > after:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        extract(config)
    finally:
        os._exit(0)


@pytest.mark.slow
def test_whatever_file_of_a_store_is_damaged_repair_makes_it_whole(
    config, tmp_path, capsys
):
    assert said(["extract", config(encoding="int8")], capsys) == (0, "")
    root = tmp_path / "kv" / "run"
    store, whole = root / "qwen-code", files(root)
    plan, constants = store / "plan.json", next(store.glob("constants*"))
    second = next(store.glob("kv-00001.json"))

    def cut_plan():
        plan.write_bytes(plan.read_bytes()[:40])

    def damage_the_rest():
        constants.write_bytes(constants.read_bytes()[:-1])
        (store / "manifest.json").write_text("{}")
        shutil.copy(store / "kv-00000.json", second)

    for damage in (cut_plan, damage_the_rest):
        damage()
        capsys.readouterr()
        assert main(["store", "verify", str(root)]) == 2
        assert f"`mtkd store repair {root}`" in capsys.readouterr().out
        assert main(["store", "repair", str(root)]) == 0
        assert files(root) == whole
