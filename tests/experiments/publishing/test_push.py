"""What goes to the hub, in a commit that a stand-in for its client takes down."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from align.errors import InputError, MachineError
from experiments.cli import main
from experiments.publishing.card import Wishes
from experiments.publishing.push import pack, send

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
    assert main([*words, "--terms", "strict"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)
    assert "nothing was sent" in out
    assert hub.calls == []


def test_the_command_says_where_it_is(hub, finished, capsys):
    words = ["push", str(finished.path), "me/tiny", "--terms", "strict"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub/commit/1"
