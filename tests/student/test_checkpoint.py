import errno
import json
import os
import resource
import stat

import pytest
import torch

from align.foreign.inside import OutsideError
from align.foreign.seal import read_sealed, sealed_text
from student.checkpoint import (
    MARKER,
    CheckpointError,
    NonFiniteStudentError,
    atomic_folder,
    cast_weights,
    export_student,
    full_disk_named,
    mark_complete,
    read_complete,
)

pytestmark = pytest.mark.edges


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "run"
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "a"
    assert [p.name for p in target.parent.iterdir()] == ["run"]


TOO_LARGE, FULL = errno.EFBIG, errno.ENOSPC
TORCH = RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")


@pytest.mark.parametrize(
    ("error", "limit", "code"),
    [
        (OSError(errno.EFBIG, "File too large", "x"), None, TOO_LARGE),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), 4096, FULL),
        (Exception("I/O error: File too large (os error 27)"), None, TOO_LARGE),
        (Exception("I/O error: No space left (os error 28)"), 4096, FULL),
        (TORCH, 4096, TOO_LARGE),
        (TORCH, None, FULL),
    ],
)
def test_a_limit_on_one_file_is_told_from_a_full_disk(tmp_path, error, limit, code):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    soft = before[0] if limit is None else limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))
    try:
        with pytest.raises(OSError) as refused, full_disk_named(tmp_path / "run"):
            raise error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.errno == code
    assert refused.value.filename == str(tmp_path / "run")


def test_an_error_leaves_the_older_folder_and_nothing_else(tmp_path):
    target = tmp_path / "run"
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("old")
    with pytest.raises(OSError, match="disk"), atomic_folder(target) as folder:
        (folder / "a.txt").write_text("new")
        raise OSError("disk full")
    assert (target / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_new_folder_replaces_the_older_as_a_whole(tmp_path):
    for name in ("old.txt", "new.txt"):
        with atomic_folder(tmp_path / "run") as folder:
            (folder / name).write_text("x")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["new.txt"]


def test_state_comes_back_once_the_marker_stands(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"1234")
    assert read_complete(tmp_path) is None
    mark_complete(tmp_path, {"step": 7})
    assert read_complete(tmp_path) == {"step": 7}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda f: (f / "w.bin").write_bytes(b"12"), "w.bin has 2 bytes, not 4"),
        (lambda f: (f / "w.bin").unlink(), "w.bin is missing"),
        (lambda f: (f / "new.bin").write_bytes(b"1"), "new.bin was not written with"),
        (lambda f: (f / MARKER).write_text("{"), "complete.json is damaged"),
        (lambda f: (f / MARKER).write_text("[]"), "complete.json is damaged"),
        (lambda f: (f / MARKER).write_text("{}"), "complete.json is damaged"),
    ],
)
def test_damage_is_named_with_what_to_do(tmp_path, damage, what):
    (tmp_path / "w.bin").write_bytes(b"1234")
    mark_complete(tmp_path, {})
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=what) as error:
        read_complete(tmp_path)
    assert "delete the folder" in str(error.value)


def test_weights_are_cast_by_name_and_none_becomes_infinite():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    whole = model[0].weight.detach().clone()
    cast_weights(model, {"0.weight": torch.bfloat16, "1.running_var": torch.float16})
    assert torch.equal(model[0].weight, whole.bfloat16())
    assert model[0].bias.dtype == model[1].running_mean.dtype == torch.float32
    assert model[1].running_var.dtype == torch.float16
    model[0].bias.data[1] = 7e4
    message = "0.bias reaches 70000, beyond float16; set student.export_dtype=float32"
    with pytest.raises(ValueError, match=message):
        cast_weights(model, {"0.bias": torch.float16})


def test_a_student_with_updates_beside_its_weights_is_not_exported(school, tmp_path):
    pytest.importorskip("peft")
    from student.config import LoraConfig
    from student.lora import add_adapters

    model = school.student()
    add_adapters(model, LoraConfig(rank=2), 0)
    with pytest.raises(ValueError, match="merge them first"):
        export_student(model, school.tokenizer, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_an_exported_student_is_plain_transformers_readable_by_the_umask(
    school, tmp_path
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from teacher.capture.kv_capture import KVCapture

    model = school.student()
    capture = KVCapture(model)  # switches the attention function
    before = os.umask(0o022)
    try:
        export_student(model, school.tokenizer, tmp_path / "student")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "student").iterdir()}
    assert modes == {0o644}
    assert "mtkd" not in (tmp_path / "student" / "config.json").read_text()
    batch = school.batch(2)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    own = capture(batch.ids, batch.mask, logits=True).logits
    theirs = again(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(own[batch.mask], theirs[batch.mask])
    loaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    text = batch.texts[0]
    assert loaded(text)["input_ids"] == school.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", ["../victim", "/etc/hostname", "a/../../victim"])
@pytest.mark.parametrize("digests", [False, True])
def test_a_marker_that_lists_a_file_outside_is_refused(tmp_path, name, digests):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path / "victim").write_text("keep")
    (folder / "a").write_text("keep")
    mark_complete(folder, {})
    marker = folder / MARKER
    record, _ = read_sealed(marker)
    text = json.dumps(record).replace('"a"', f'"{name}"')
    marker.write_text(sealed_text(json.loads(text)))
    with pytest.raises(OutsideError, match="which is no file of its folder"):
        read_complete(folder, digests=digests)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_student_that_is_not_finite_is_not_exported(tmp_path, bad):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias[1] = bad
    with pytest.raises(NonFiniteStudentError, match=r"the student is not finite: 1\.b"):
        export_student(model, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
