"""What a file holds is told by its name and first bytes, never guessed in silence."""

import bz2
import gzip
import lzma
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from align.errors import InputError, MissingPackageError
from align.text.documents import read_texts
from align.text.files import kind_of, numbered_lines, stem_of, text_blocks

pytestmark = pytest.mark.edges

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("code.txt", "One.\r\n\r\n深度"),
        ("code.jsonl", '{"text": "One.\\r\\n\\r\\n深度"}\n'),
        ("code.json", '[{"text": "One.\\r\\n\\r\\n深度"}]'),
        ("code.csv", 'id,text\n1,"One.\r\n\r\n深度"\n'),
    ],
)
def test_packed_files_are_read_as_what_is_inside(tmp_path, suffix, name, content):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKERS[suffix](content.encode()))
    (sample,) = read_texts(path)
    assert (sample.text, sample.domain) == ("One.\r\n\r\n深度", "code")
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / path.name)
    assert [s.text for s in read_texts(tmp_path / "folder")] == [sample.text]


@pytest.mark.parametrize("suffix", PACKERS)
def test_members_one_after_the_other_are_one_text(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACKERS[suffix](b"one ") + PACKERS[suffix](b"two"))
    assert "".join(text_blocks(path)) == "one two"


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_that_is_cut_short_is_refused(tmp_path, suffix):
    whole = PACKERS[suffix]("".join(map(str, range(50_000))).encode())
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=r"a\.txt.* cannot be unpacked .*copy it again"
    ):
        list(text_blocks(path))


def test_zstd_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a"}'))
    with pytest.raises(MissingPackageError, match=r"pip install 'mtkd\[zstd\]'"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.zip", "an archive; unpack it"),
        ("a.tar.gz", "an archive; unpack it"),
        ("a.jsonl.lz4", "unpack it"),
        ("a.pdf", r"save its text as \.txt"),
        ("a.docx", r"save its text as \.txt"),
        ("a.xlsx", r"save it as \.csv"),
        ("a.ipynb", r"a notebook; save it as \.py"),
        ("a.warc.gz", r"a web archive; save the text of its pages as \.jsonl"),
        ("a.avro", r"save its rows as \.parquet"),
        ("a.sqlite", r"save its rows as \.parquet"),
        ("a.bin", "give the text they were made of"),
        ("model.SAFETENSORS", "weights; text is learned"),
        ("a.png", "a picture; text is learned"),
        ("a.parquet.gz", "unpack it: such files are packed inside"),
    ],
)
def test_known_formats_are_refused_by_name_even_where_they_decode(
    tmp_path, name, advice
):
    path = tmp_path / name
    path.write_text("it decodes", encoding="utf-8")
    with pytest.raises(InputError, match=f"{name} is .*{advice}"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        (
            "a.txt",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer and not the data; `git lfs pull`",
        ),
        (
            "a.jsonl.gz",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
        ("a.txt", b"PK\x03\x04", "a zip archive"),
        ("a.json", b"%PDF-1.7\n", "a PDF"),
        ("a.csv", b"PAR1", r"a parquet file; let its name end in \.parquet"),
        ("notes", b"\x89PNG\r\n\x1a\n", "a picture"),
        ("a.txt", "\ufeffdeep".encode("utf-16"), "UTF-16; convert it"),
        ("a.txt", "deep".encode("utf-16-be"), "byte 0 is 0, so that it is no text"),
    ],
)
def test_other_formats_under_a_name_of_text_are_refused(tmp_path, name, head, message):
    path = tmp_path / name
    path.write_bytes(head)
    with pytest.raises(InputError, match=message):
        read_texts(path)


@pytest.mark.parametrize("name", ["val.de", "notes", "page.md", "x.py", "v1.0"])
def test_names_that_tell_no_format_are_plain_text(tmp_path, name):
    (tmp_path / name).write_text("Guten Tag", encoding="utf-8")
    assert kind_of(tmp_path / name) == "plain"
    assert [s.text for s in read_texts(tmp_path / name)] == ["Guten Tag"]


def test_the_stem_is_the_name_without_its_endings():
    names = ["a/code.jsonl", "code.jsonl.zst", "code", "code.v2.txt", "code.gz"]
    stems = [stem_of(Path(name)) for name in names]
    assert stems == ["code", "code", "code", "code.v2", "code"]


@pytest.mark.parametrize("before", [0, 3, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "marked"])
def test_the_byte_that_is_not_utf8_is_named_with_its_line(tmp_path, before, mark):
    path = tmp_path / "a.txt"
    good = mark + (b"ab\n" * (before // 3 + 1))[:before]
    path.write_bytes(good + b"\xe6\xb7" + b"\xff")  # a character that is never whole
    where = rf"byte {len(good)} \(line {good.count(10) + 1}\) is 0xe6"
    with pytest.raises(InputError, match=where):
        list(text_blocks(path))
    path.write_bytes(good + b"\xe6\xb7")  # nor at the end
    with pytest.raises(InputError, match=where):
        list(text_blocks(path))


def test_a_line_of_any_length_is_read_once_and_what_is_held_is_not_the_file(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        for _ in range(48):
            file.write(b"x" * (1 << 20))
        file.write("\n深\n".encode())
    tracemalloc.start()
    held = sum(len(block) for block in text_blocks(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held == (48 << 20) + 3
    assert peak < 16 << 20
    assert [(n, len(line)) for n, line in numbered_lines(path)] == [
        (1, 48 << 20),
        (2, 1),
    ]
