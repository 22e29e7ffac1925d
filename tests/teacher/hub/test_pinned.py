"""Models of the hub by branch, tag and commit, and what the hub answers instead."""

import json
import shutil
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from align.errors import InputError, MissingFileError
from experiments.assemble.fingerprint import commit_of, file_digests
from experiments.cli import main
from experiments.config.tree import load_config
from teacher import load_model
from teacher.hub import pinned as module
from teacher.loading.model_files import not_found
from teacher.names import model_source, pinned
from tests.experiments.conftest import undrawn
from tests.experiments.small_runs import small_config

pytestmark = pytest.mark.edges

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def cache(tiny_zoo, tmp_path, monkeypatch):
    """A hub's cache with two commits of one name; ``main`` is the second."""
    folder = tmp_path / "models--org--tiny"
    for commit, model in ((FIRST, "student"), (SECOND, "gpt2-prose")):
        shutil.copytree(tiny_zoo[model], folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(SECOND)
    (folder / "refs" / "v1").write_text(FIRST)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_revision_names_the_commit_that_is_read(cache):
    kinds = {
        name: load_model(name).model.config.model_type
        for name in ("org/tiny", "org/tiny@v1", f"org/tiny@{SECOND}")
    }
    assert list(kinds.values()) == ["gpt2", "llama", "gpt2"]
    assert load_model("org/tiny", revision="v1").name == "org/tiny@v1"
    assert [commit_of(name) for name in kinds] == [SECOND, FIRST, SECOND]
    assert file_digests("org/tiny@main") == file_digests("org/tiny")
    assert file_digests("org/tiny@v1") != file_digests("org/tiny")


def test_a_setting_of_its_own_is_joined_to_the_name():
    tree = {"teachers": {"a": {"model": "org/tiny", "revision": "v1"}}}
    config = load_config(tree, ["student.model=org/other", "student.revision=v2"])
    assert config.teachers["a"].model == "org/tiny@v1"
    assert config.student.model == "org/other@v2"
    for model in ("zoo:student", "./here", "org/tiny@v2"):
        with pytest.raises(InputError, match=r"teachers.*\.revision is 'v1', but"):
            load_config({"teachers": {"a": {"model": model, "revision": "v1"}}})


def test_a_folder_whose_name_has_the_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@v2").mkdir()
    assert pinned("mine@v2") is None and pinned("other@v2") == ("other", "v2")
    assert model_source("mine@v2") == "mine@v2"


def test_a_revision_that_is_not_here_is_told_with_the_command_that_fetches_it(cache):
    with pytest.raises(MissingFileError, match=r"hf download org/tiny --revision v9`"):
        load_model("org/tiny@v9")


def test_weights_are_fetched_once_the_model_is_loaded(cache, monkeypatch):
    """What is looked at only, as --check does, needs none."""
    weights = cache / "snapshots" / FIRST / "model.safetensors"
    kept = weights.rename(cache / "kept")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def fetch(name, *, revision, allow_patterns):
        kept.rename(weights)
        return str(weights.parent)

    download = Mock(side_effect=fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pin = f"org/tiny@{FIRST}"
    assert model_source(pin) == str(weights.parent) and not download.called
    assert load_model(pin).kind == "decoder"
    download.assert_called_once_with(
        "org/tiny", revision=FIRST, allow_patterns=["*.safetensors"]
    )
    load_model(pin)
    assert download.call_count == 1


def answered(kind):
    return kind("refused", response=Mock())


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (errors.GatedRepoError, "it is gated: ask for access at .*org/x, then run `hf"),
        (errors.RepositoryNotFoundError, "no org/x, or it is private: .*`hf auth logi"),
        (
            errors.RevisionNotFoundError,
            "no branch, tag or commit 'v1'; .*/commits/m",
        ),
    ],
)
def test_what_the_hub_answers_comes_with_what_helps(monkeypatch, kind, told):
    error = answered(kind)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(MissingFileError, match=told):
        load_model("org/x@v1")
    wrapped = OSError("as transformers says it")
    wrapped.__cause__ = error
    assert module.why_not("org/x@v1", wrapped) in str(
        not_found("org/x@v1", "org/x", wrapped)
    )


def test_a_branch_that_is_settled_stays_what_it_was(cache):
    with module.settled({("org/tiny", "v1"): SECOND}):
        assert commit_of("org/tiny@main") == commit_of("org/tiny@v1") == SECOND
        (cache / "refs" / "main").write_text(FIRST)
        assert commit_of("org/tiny@main") == SECOND
    assert commit_of("org/tiny@main") == commit_of("org/tiny@v1") == FIRST


def test_processes_read_a_branch_as_the_main_one_saw_it(cache):
    branch, other = ("org/tiny", "main"), ("org/elsewhere", "main")
    with module.settled({}):
        module.settle_alike([branch], lambda _: {branch: FIRST})
        assert commit_of("org/tiny@main") == FIRST
    made = []
    with module.settled({}):
        module.settle_alike([branch, other], lambda f: made.append(f()) or {})
    assert made == [{branch: SECOND}]  # what is not here is told by who reads it


@pytest.mark.slow
def test_a_run_goes_on_with_the_commits_it_began_with(cache, tiny_zoo, tmp_path):
    """Both branches move while it rests."""
    twin = cache.parent / "models--org--other"
    shutil.copytree(cache, twin)
    (twin / "refs" / "main").write_text(FIRST)
    changes = {
        "student": {"model": "org/other@main"},
        "teachers": {"gpt2-prose": {"model": "org/tiny@main"}},
    }
    config = small_config(tmp_path, tiny_zoo, changes)
    with undrawn():
        assert main(["train", str(config), "--pause-after", "1"]) == 75
        for folder, commit in ((cache, FIRST), (twin, SECOND)):
            (folder / "refs" / "main").write_text(commit)
        assert main(["train", str(config)]) == 0
    run = tmp_path / "run"
    noted = json.loads((run / "teachers.json").read_text())
    assert noted["teachers"]["gpt2-prose"]["revision"] == SECOND
    assert noted["student"] == {"model": "org/other@main", "revision": FIRST}
