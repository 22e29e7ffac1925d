"""What goes to the hub, in a commit that a stand-in for its client takes down."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from align.errors import InputError, MachineError
from align.support.whole_file import write_whole
from experiments.cli import main
from experiments.publishing.adapter import Base, base_of, settled_config
from experiments.publishing.card import Wishes
from experiments.publishing.evidence import config_of
from experiments.publishing.push import pack, send
from experiments.record.run_dir import read_run
from student.checkpoint import mark_complete
from student.config import LoraConfig
from student.lora import add_adapters, merge_adapters, save_adapter

NAMES = {
    "README.md",
    "config.json",
    "evidence/config.yaml",
    "evidence/digests.json",
    "evidence/results.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


class Hub:
    """Takes down what is asked of it, and fails where it is told to."""

    def __init__(self, fails=None):
        self.calls, self.fails = [], fails or {}

    def __call__(self, **settings):
        return self

    def __getattr__(self, name):
        def call(*args, **settings):
            self.calls.append((name, args, settings))
            if name in self.fails:
                raise self.fails[name]
            return SimpleNamespace(commit_url="https://hub/commit/1")

        return call


@pytest.fixture
def hub(monkeypatch):
    client = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", client)
    return client


@pytest.fixture
def parcel(finished, tmp_path):
    return pack(finished, "me/tiny", tmp_path / "card", Wishes(), read=["strict"])


def test_weights_card_and_evidence_go_in_one_commit(hub, parcel):
    where = send(parcel, private=True, branch=None, message="first")
    assert where == "https://hub/commit/1"
    assert [name for name, _, _ in hub.calls] == [
        "whoami",
        "create_repo",
        "create_commit",
    ]
    assert hub.calls[1][2] == {"private": True, "exist_ok": True}
    _, (repo, adds), settings = hub.calls[2]
    assert (repo, settings["commit_message"]) == ("me/tiny", "first")
    assert {add.path_in_repo for add in adds} == NAMES
    assert parcel.size == sum(add.upload_info.size for add in adds)


def test_a_branch_is_made_first(hub, parcel):
    send(parcel, private=False, branch="later", message="m")
    names = [name for name, _, _ in hub.calls]
    assert names.index("create_branch") < names.index("create_commit")
    assert hub.calls[-1][2]["revision"] == "later"


def test_what_may_not_go_does_not(hub, finished, tmp_path):
    parcel = pack(finished, "me/tiny", tmp_path / "card", Wishes())
    with pytest.raises(InputError, match="nothing was sent: the terms of its teacher"):
        send(parcel, private=True, branch=None, message="m")
    assert hub.calls == []


def response(code):
    request = SimpleNamespace(method="POST", url="https://hub")
    return SimpleNamespace(
        status_code=code, headers={}, request=request, url="https://hub"
    )


@pytest.mark.parametrize(
    ("fails", "kind", "said"),
    [
        ({"whoami": LocalTokenNotFoundError("no")}, InputError, "hf auth login"),
        (
            {"create_commit": HfHubHTTPError("full", response=response(507))},
            MachineError,
            "the same command sends it again",
        ),
        ({"create_repo": ConnectionResetError("gone")}, MachineError, "gone"),
        (
            {"whoami": HfHubHTTPError.__bases__[0]("refused")},
            MachineError,
            "did not take me/tiny: refused",
        ),
    ],
)
def test_what_goes_wrong_is_told_with_the_way_on(hub, parcel, fails, kind, said):
    hub.fails = fails
    with pytest.raises(kind, match=said):
        send(parcel, private=True, branch=None, message="m")


@pytest.mark.parametrize(
    ("repo", "said"),
    [("tiny", "does not say whose"), ("a/b/c", "no name"), ("me/../x", "no name")],
)
def test_a_name_that_the_hub_does_not_take(finished, tmp_path, repo, said):
    with pytest.raises(InputError, match=said):
        pack(finished, repo, tmp_path / "card", Wishes())
    assert not (tmp_path / "card").exists()


def test_terms_of_a_teacher_that_is_none(finished, tmp_path):
    with pytest.raises(InputError, match=r"--terms names 'nobody'.*gpt2-prose, served"):
        pack(finished, "me/tiny", tmp_path / "card", Wishes(), read=["nobody"])


def test_a_dry_run_shows_all_and_sends_nothing(hub, finished, capsys):
    words = ["push", str(finished.path), "me/tiny", "--dry-run"]
    assert main(words) == 2
    out = capsys.readouterr().out
    assert "it may not go: the terms of its teacher strict" in out
    assert "only its owner can see" in out
    assert out.rstrip().endswith("without --dry-run it would be refused, too")
    assert main([*words, "--terms", "strict"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)
    assert out.rstrip().endswith("nothing was sent; without --dry-run it is")
    assert hub.calls == []


def test_the_command_says_where_it_is(hub, finished, capsys):
    words = ["push", str(finished.path), "me/tiny", "--terms", "strict"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub/commit/1"


@pytest.fixture
def updated(finished, tmp_path, tiny_llama):
    """A run whose student has updates, merged and beside the weights."""
    from transformers import AutoModelForCausalLM

    path = tmp_path / "updated"
    shutil.copytree(finished.path, path)
    base, adapted = (AutoModelForCausalLM.from_pretrained(tiny_llama) for _ in "ab")
    add_adapters(adapted, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    merge_adapters(adapted, base)
    (path / "student" / "complete.json").unlink()
    base.save_pretrained(path / "student")
    save_adapter(adapted, path / "student" / "adapter")
    mark_complete(path / "student", {})
    return path


def named(path, **student):
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["student"].update(student)
    write_whole(path / "config.yaml", yaml.safe_dump(config))
    return read_run(path)


def laid(parcel, folder):
    for name, path in parcel.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    return folder


def test_updates_alone_are_what_peft_loads(updated, tmp_path, tiny_llama):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = named(updated, model=f"org/base@{'1' * 40}")
    wishes, ids = Wishes(title="me/tiny", adapter=True), torch.arange(9)[None]
    alone = pack(run, "me/tiny", tmp_path / "card", wishes, read=["strict"])
    assert {n for n in alone.files if "safetensors" in n} == {
        "adapter_model.safetensors"
    }
    assert {"tokenizer.json", "README.md", "evidence/config.yaml"} <= alone.files.keys()
    assert "config.json" not in alone.files
    card = (tmp_path / "card" / "README.md").read_text()
    assert "library_name: peft" in card and "base_model: org/base" in card
    assert f"from_pretrained('org/base', revision='{'1' * 40}'), 'me/tiny')" in card
    both = pack(run, "me/tiny", tmp_path / "both", Wishes(), read=["strict"])
    assert "subfolder='adapter')" in (tmp_path / "both" / "README.md").read_text()
    for parcel, name in ((alone, ""), (both, "adapter/")):
        told = json.loads(parcel.files[f"{name}adapter_config.json"].read_text())
        assert (told["base_model_name_or_path"], told["revision"]) == (
            "org/base",
            "1" * 40,
        )
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    merged = AutoModelForCausalLM.from_pretrained(laid(both, tmp_path / "whole"))
    plain = base(ids).logits
    peft = PeftModel.from_pretrained(base, laid(alone, tmp_path / "alone"))
    found, expected = peft(ids).logits, merged(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_updates_on_a_branch_name_the_commit_that_they_were_trained_on(updated):
    run, commit = named(updated, model="org/base@main"), "2" * 40
    config = config_of(run)
    assert base_of(settled_config(config, run.path)) == Base("org/base", "main")
    noted = {"model": "org/base@main", "revision": commit}
    write_whole(updated / "teachers.json", json.dumps({"student": noted}))
    assert base_of(settled_config(config, run.path)) == Base("org/base", commit)
    for model in ("zoo:tiny/student", "/here/base", "pkg:smollm2"):
        assert base_of({"student": {"model": model}}) is None


def test_updates_that_nobody_could_load_do_not_go_alone(finished, updated, tmp_path):
    wishes = Wishes(adapter=True)
    with pytest.raises(InputError, match=r"no adapter/.*student\.lora\.rank"):
        pack(finished, "me/tiny", tmp_path / "card", wishes, read=["strict"])
    with pytest.raises(InputError, match=r"which no hub has.*leave --adapter out"):
        pack(read_run(updated), "me/tiny", tmp_path / "card", wishes, read=["strict"])
