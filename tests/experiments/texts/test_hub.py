"""Data sets of the hub, from its cache as ``huggingface_hub`` lays it out."""

import json
from pathlib import Path

import pytest

from align.errors import InputError, MissingFileError
from experiments.assemble.text_sources import Reading, sources_of
from experiments.texts.config import DataConfig
from experiments.texts.hub import hub_set, pinned, pinned_alike, pinned_lists

FIRST, SECOND = "1" * 40, "2" * 40
CARD = """---
license: mit
configs:
- config_name: words
  default: true
  data_files:
  - split: train
    path: words/train-*.jsonl
  - {split: test, path: [words/test.jsonl]}
- config_name: numbers
  data_files: numbers/*.jsonl
---
# Words
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def lay(repo, commit, files, main=True):
        folder = tmp_path / f"datasets--{repo.replace('/', '--')}"
        if main:
            (folder / "refs").mkdir(parents=True, exist_ok=True)
            (folder / "refs" / "main").write_text(commit)
        for name, rows in files.items():
            blob = folder / "blobs" / f"{commit[:2]}{abs(hash(name))}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"text": row}) + "\n" for row in rows]
            blob.write_text(rows if isinstance(rows, str) else "".join(lines))
            file = folder / "snapshots" / commit / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to(blob)

    return lay


def texts(*entries, which="train"):
    reading = Reading(DataConfig(**{which: list(entries)}))
    return [(sample.domain, sample.text) for sample in reading.samples(which, which)]


def test_a_card_says_which_files_a_part_is(cache):
    cache(
        "org/words",
        FIRST,
        {
            "README.md": CARD,
            "words/train-0.jsonl": ["a", "b"],
            "words/train-1.jsonl": ["c"],
            "words/test.jsonl": ["d"],
            "numbers/all.jsonl": ["1"],
        },
    )
    assert texts("hf:org/words") == [("words", row) for row in "abc"]
    assert texts("hf:org/words@test") == [("words", "d")]
    assert texts("hf:org/words", which="eval") == [("words", "d")]
    assert texts("n=hf:org/words:numbers") == [("n", "1")]
    with pytest.raises(InputError, match=r"no configuration 'word'; did you mean"):
        texts("hf:org/words:word")
    with pytest.raises(InputError, match=r"no split dev; it has train, test: write"):
        texts("hf:org/words@dev")


def test_without_a_card_names_tell_splits(cache):
    cache(
        "org/plain",
        FIRST,
        {"train.jsonl": ["a"], "de/valid.jsonl": ["b"], "de/train.jsonl": ["c"]},
    )
    assert [text for _, text in texts("hf:org/plain")] == ["c", "a"]
    assert [text for _, text in texts("hf:org/plain:de")] == ["c"]
    assert [text for _, text in texts("hf:org/plain@valid")] == ["b"]
    assert [text for _, text in texts("hf:org/plain", which="eval")] == ["b"]
    with pytest.raises(InputError, match=r"no file's name has 'dev' in it; there are"):
        texts("hf:org/plain@dev")
    with pytest.raises(InputError, match="it has no folder fr; leave the config"):
        texts("hf:org/plain:fr")


def test_a_run_keeps_the_commit_that_it_began_with(cache, tmp_path):
    cache("org/words", FIRST, {"train.jsonl": ["old"]})
    assert pinned(["w=hf:org/words@train", "zoo"]) == [
        f"w=hf:org/words@train#{FIRST}",
        "zoo",
    ]
    begun = pinned_lists(DataConfig(train=["hf:org/words"]), tmp_path / "none.yaml")
    kept = tmp_path / "config.yaml"
    kept.write_text(json.dumps({"data": {"train": begun.train, "eval": []}}))
    cache("org/words", SECOND, {"train.jsonl": ["new"]})
    again = pinned_lists(DataConfig(train=["hf:org/words"]), kept)
    assert again.train == begun.train == [f"hf:org/words#{FIRST}"]
    assert [text for _, text in texts(*again.train)] == ["old"]
    assert [text for _, text in texts("hf:org/words")] == ["new"]


def test_processes_read_what_the_main_one_saw(cache):
    cache("org/words", FIRST, {"train.jsonl": ["old"]})
    here = pinned_lists(DataConfig(train=["hf:org/words"], eval=["zoo"]), Path("none"))
    there = ([f"hf:org/words#{SECOND}"], ["zoo"])
    data = pinned_alike(here, lambda make: there)
    assert (data.train, data.eval) == there
    assert pinned_alike(here, lambda make: make()) == here
    plain = DataConfig(train=["zoo"])
    assert pinned_alike(plain, None) is plain  # nobody is asked


def test_a_part_may_be_called_by_any_name(cache):
    cache("org/words", FIRST, {"lang=de/train.jsonl": ["a"]})
    for entry in ("hf:org/words:lang=de", "w=hf:org/words:lang=de"):
        assert pinned([entry]) == [f"{entry}#{FIRST}"]


def test_a_split_of_which_files_are_missing_is_not_read(cache):
    name = "train-0000{}-of-00003{}.jsonl".format
    parts = {f"words/{name(n, '-0ab1')}": [str(n)] for n in (0, 2)}
    cache("org/part", FIRST, parts)
    missing = r"hf:org/part.*: 1 of 3 files of a split are not in .*, such as .*train-"
    for entry in ("hf:org/part", "hf:org/part@train"):
        with pytest.raises(MissingFileError, match=f"{missing}00001-of-00003"):
            texts(entry)
    card = CARD.replace("words/train-*.jsonl", f"words/{name('[02]', '*')}")
    cache("org/part", FIRST, {"README.md": CARD})
    with pytest.raises(MissingFileError, match=missing):
        texts("hf:org/part")
    # Two of three are all that is asked for.
    cache("org/part", SECOND, {"README.md": card, **parts})
    assert [text for _, text in texts("hf:org/part")] == ["0", "2"]


def test_what_is_not_here_says_the_command_that_brings_it(cache):
    with pytest.raises(MissingFileError) as error:
        sources_of(DataConfig(train=["hf:org/none#v1"]), "train")
    assert "data.train: hf:org/none#v1 is not in the cache" in str(error.value)
    command = "`hf download org/none --repo-type dataset --revision v1`"
    assert command in str(error.value) and "offline" in str(error.value)
    for wrong in ("hf:none", "hf:a/b/c", "hf:org/name@"):
        with pytest.raises(InputError, match="names no data set of the hub; write"):
            hub_set(wrong)
    assert hub_set("texts.jsonl") is None
