"""A folder gives the text that is asked for, and names what it leaves out."""

import json
from pathlib import Path

import pytest

from align.errors import InputError, MissingFileError
from align.text.documents import read_texts
from align.text.folder import shortest_names, text_files

HUB = [
    ".gitattributes",
    ".cache/huggingface/download/train.jsonl",
    "LICENSE.txt",
    "README.md",
    "README.txt",
    "dataset_infos.json",
    "data/test-00000-of-00001.jsonl",
    "data/train-00000-of-00002.jsonl",
    "data/train-00001-of-00002.jsonl",
    "data/validation-00000-of-00001.jsonl",
]


@pytest.fixture
def folder(tmp_path):
    def make(names, top="novels"):
        for name in names:
            path = tmp_path / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"text": name}) + "\n", encoding="utf-8")
        return tmp_path / top

    return make


def names(found):
    return [file.name for file in found.files]


def test_a_hub_folder_gives_its_training_files_and_says_what_it_left(folder):
    found = text_files(folder(HUB), "train")
    assert names(found) == HUB[7:9]
    assert found.left_out == {
        "hidden": (HUB[1], HUB[0]),
        "about the text": ("LICENSE.txt", "README.md", "README.txt", HUB[5]),
        "of the split test": (HUB[6],),
        "of the split validation": (HUB[9],),
    }
    assert str(found).startswith(
        "2 files hidden: .cache/huggingface/download/train.jsonl, .gitattributes; "
        "4 files about the text: LICENSE.txt, README.md, README.txt, …; 1 file of"
    )


@pytest.mark.parametrize(
    ("files", "split", "taken"),
    [
        (HUB, "eval", [HUB[9]]),
        (HUB[:9], "eval", [HUB[6]]),
        (HUB[7:9], "eval", HUB[7:9]),
        (["a.txt", "train.txt"], "eval", ["a.txt"]),
        (["a.txt", "dev.txt", "train.txt"], "train", ["a.txt", "train.txt"]),
        (["test.jsonl", "val.jsonl"], "train", ["test.jsonl", "val.jsonl"]),
        (["en/test.csv", "en/train.csv", "test/x.csv"], "train", ["en/train.csv"]),
        (["dev-tools/train.txt", "dev-tools/x.txt"], "train", ["dev-tools/train.txt"]),
        (["contest.txt", "trainer.txt", "latest.txt"], "train",
         ["contest.txt", "latest.txt", "trainer.txt"]),
        (HUB, None, HUB[6:]),
    ],
)  # fmt: skip
def test_splits_are_told_by_words_in_names(folder, files, split, taken):
    assert names(text_files(folder(files), split)) == taken


def save_to_disk(folder, files):
    """As datasets.save_to_disk leaves a folder, map's caches beside its data."""
    folder.mkdir(parents=True)
    pa = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    for name in ("cache-0123456789abcdef.arrow", "tmpab12", *files):
        table = pa.table({"text": [f"{folder.name}/{name}"]})
        with (
            pa.OSFile(str(folder / name), "wb") as out,
            pa.ipc.new_stream(out, table.schema) as to,
        ):
            to.write_table(table)
    listed = {"_data_files": [{"filename": name} for name in files], "_split": None}
    (folder / "state.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


def test_a_saved_data_set_gives_the_files_it_lists(tmp_path):
    data = tmp_path / "novels"
    save_to_disk(data, ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"])
    (data / "older.arrow").write_bytes(b"of an earlier version")
    samples = read_texts(data)
    assert [s.text for s in samples] == [
        "novels/data-00000-of-00002.arrow",
        "novels/data-00001-of-00002.arrow",
    ]
    assert {s.domain for s in samples} == {"novels"}
    left = text_files(data).left_out["left by computations on the data set"]
    assert left == ("cache-0123456789abcdef.arrow", "older.arrow")


@pytest.mark.parametrize(
    ("split", "taken"), [("train", "train"), ("eval", "validation"), (None, None)]
)
def test_a_saved_dict_of_splits_gives_the_one_asked_for(tmp_path, split, taken):
    splits = ["test", "train", "validation"]
    for name in splits:
        save_to_disk(tmp_path / "novels" / name, ["data-00000-of-00001.arrow"])
    written = json.dumps({"splits": splits})
    (tmp_path / "novels" / "dataset_dict.json").write_text(written, encoding="utf-8")
    samples = read_texts(tmp_path / "novels", split=split)
    assert [s.text.partition("/")[0] for s in samples] == ([taken] if taken else splits)
    assert {s.domain for s in samples} == {"novels"}


def test_a_saved_selection_of_rows_is_refused(tmp_path):
    save_to_disk(tmp_path / "novels", ["data.arrow"])
    state = {"_data_files": [{"filename": "data.arrow"}]}
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "novels" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(InputError, match=r"flatten_indices\(\)\.save_to_disk"):
        text_files(tmp_path / "novels")


@pytest.mark.parametrize(
    ("file", "domain"),
    [
        ("code.jsonl", "code"),
        ("a/code-00000-of-00012.jsonl", "code"),
        ("code_3.txt", "code"),
        ("train-00000-of-00002.jsonl", "novels"),
        ("data/train-00000.jsonl", "novels"),
        ("main/train.jsonl", "main"),
        ("main/data/part-0001.jsonl", "main"),
        ("train-00000-of-00001-a09b74b3ef9c3b56.jsonl", "novels"),
        ("c4-train.00000-of-01024.json.gz", "c4-train"),
        ("default/train/0000.jsonl", "novels"),
        ("part-00000-3f2a4c1e.c000.snappy.jsonl", "novels"),
        ("partners.jsonl", "partners"),
        ("en-train.jsonl", "en-train"),
        ("深度/train.txt", "深度"),
    ],
)
def test_a_name_of_splits_and_parts_alone_gives_way_to_the_folders(
    folder, file, domain
):
    assert {s.domain for s in read_texts(folder([file]))} == {domain}


def test_one_file_named_is_read_whatever_its_name(folder):
    data = folder(HUB)
    for name in (HUB[1], HUB[2], HUB[6]):
        assert len(read_texts(data / name, split="train")) == 1
    assert read_texts(data / HUB[6])[0].domain == "test-00000-of-00001"


def test_an_empty_folder_says_what_is_there(folder, tmp_path):
    (tmp_path / "novels").mkdir()
    with pytest.raises(
        MissingFileError, match=r"no text in .*novels; .*\.txt, \.jsonl"
    ):
        text_files(tmp_path / "novels")
    with pytest.raises(MissingFileError, match=r"1 file in formats .*: a\.png"):
        text_files(folder(["a.png"]))


def test_a_missing_path_is_shown_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as missing:
        text_files("gone.txt")
    assert f"there is no {tmp_path / 'gone.txt'}" in str(missing.value)
    assert "relative to the folder the command runs in" in str(missing.value)
    assert "hf download" not in str(missing.value)
    with pytest.raises(MissingFileError, match="hf download some/set --repo-type data"):
        text_files("some/set")
    with pytest.raises(MissingFileError) as missing:
        text_files(tmp_path / "no" / "such" / "gone.txt")
    assert f"(there is {tmp_path})" in str(missing.value)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(MissingFileError, match=r"a\.txt is a link that leads nowhere"):
        read_texts(tmp_path / "d")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a/code/train"], ["train"]),
        (["/a/code/train", "/a/news/train"], ["code/train", "news/train"]),
        (["/a/x/train", "/b/x/train"], ["a/x/train", "b/x/train"]),
        (["/a/x/train", "/b/x/train", "/c/y/train"],
         ["a/x/train", "b/x/train", "y/train"]),
        (["/train", "/a/train"], ["train", "a/train"]),
        (["/a/train", "/a/train"], ["train"]),
        (["/a/code"], ["a/code"]),
        (["/"], ["text"]),
    ],
)  # fmt: skip
def test_names_are_as_long_as_tells_them_apart(paths, expected):
    names = shortest_names(map(Path, paths), taken=["code"])
    assert list(names.values()) == expected
