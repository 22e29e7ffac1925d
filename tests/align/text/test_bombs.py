"""What unpacks to more than anybody has is read in pieces, or refused, never held."""

import binascii
import bz2
import gzip
import itertools
import json
import lzma
import resource

import pytest

from align.bounds.row_size import MAX_ROW
from align.errors import InputError
from align.text.documents import read_texts
from align.text.files import text_blocks

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PIECE = 1 << 24


def zstd_frame(megabytes: int, declared: bytes = b"") -> bytes:
    """A frame of the letter a, of four bytes for every 128 KiB.

    Source: RFC 8878, 3.1.1: without a size, of a window of 1 MiB; with one, of as many
    bytes as it says.
    """
    header = b"\x20" + declared if declared else b"\x00\x50"
    size = 1 << 17
    block, last = (
        ((size << 3) | 2 | end).to_bytes(3, "little") + b"a" for end in (0, 1)
    )
    return b"\x28\xb5\x2f\xfd" + header + block * (8 * megabytes - 1) + last


@pytest.fixture
def packed(tmp_path):
    """Text in a file that is packed by an ending's packer."""

    def write(name, text: bytes):
        path = tmp_path / name
        path.write_bytes(PACKERS[path.suffix](text))
        return path

    return write


def test_a_zstd_frame_of_four_gigabytes_comes_in_pieces(tmp_path):
    pytest.importorskip("zstandard")
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd_frame(4096))
    assert path.stat().st_size < 1 << 18
    blocks = list(itertools.islice(text_blocks(path), 3))
    assert all(0 < len(block) <= PIECE + (1 << 17) for block in blocks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"line 1: one row of more than 134,217,728"):
        read_texts(path.rename(tmp_path / "a.jsonl.zst"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 << 10  # kB


def test_a_frame_that_holds_more_than_it_declares_is_damaged(tmp_path):
    pytest.importorskip("zstandard")
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd_frame(1, declared=b"\x0a"))
    with pytest.raises(InputError, match=r"a\.txt\.zst cannot be unpacked"):
        read_texts(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_no_piece_of_a_bomb_is_large(packed, suffix):
    path = packed(f"a.txt{suffix}", b"a" * (16 << 20))
    assert path.stat().st_size < 1 << 17
    sizes = [len(block) for block in text_blocks(path)]
    assert sum(sizes) == 16 << 20 and max(sizes) <= 1 << 20


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", b'{"text": "%s"}', "a.jsonl.gz, line 1"),
        ("a.json", b'[{"text": "%s"}]', "a.json.gz, row 0 (line 1)"),
        ("a.csv", b'text\n"%s"\n', "a.csv.gz, after line 1"),
        ("a.tsv", b"text\n%s\n", "a.tsv.gz, after line 1"),
    ],
)
def test_a_row_beyond_the_bound_is_refused_and_the_bound_can_be_set(
    packed, name, content, where, monkeypatch
):
    path = packed(f"{name}.gz", content % (b"ab " * (1 << 20)))
    (sample,) = read_texts(path)
    assert len(sample.text) == 3 << 20
    monkeypatch.setenv(MAX_ROW, str(1 << 20))
    with pytest.raises(InputError) as refused:
        read_texts(path)
    message = str(refused.value)
    assert where in message and MAX_ROW in message
    assert "one row of more than 1,048,576 characters" in message
    monkeypatch.setenv(MAX_ROW, "many")
    with pytest.raises(InputError, match="MTKD_MAX_ROW_CHARS is 'many'; give a number"):
        read_texts(path)


def test_plain_text_needs_no_bound(packed, monkeypatch):
    monkeypatch.setenv(MAX_ROW, "1000")
    path = packed("a.txt.gz", b"word " * (1 << 20))
    assert sum(len(sample.text) for sample in read_texts(path)) == 5 << 20


def test_streams_with_zeros_between_them_are_one_text(tmp_path):
    path = tmp_path / "a.jsonl.xz"
    lines = [json.dumps({"text": f"text {n}"}).encode() + b"\n" for n in range(3)]
    path.write_bytes(b"\0\0\0\0".join(map(lzma.compress, lines)) + b"\0" * 8)
    assert [s.text for s in read_texts(path)] == ["text 0", "text 1", "text 2"]


def test_an_xz_dictionary_of_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.txt.xz"
    path.write_bytes(with_dictionary(lzma.compress(b"text"), 38))
    with pytest.raises(InputError, match=r"cannot be unpacked \(Memory usage limit"):
        read_texts(path)


def with_dictionary(stream: bytes, size: int) -> bytes:
    """An xz stream whose one block asks for a dictionary of (2 | size & 1) <<
    (size // 2 + 11) bytes.

    Source: xz file format 1.2.0, 3.1 and 5.3.1.
    """
    header = bytearray(stream[12 : 12 + 4 * (stream[12] + 1)])
    place = header.index(b"\x21\x01") + 2
    header[place] = size
    header[-4:] = binascii.crc32(bytes(header[:-4])).to_bytes(4, "little")
    return stream[:12] + bytes(header) + stream[12 + len(header) :]


@pytest.mark.slow
def test_a_value_that_parquet_repeats_is_held_once(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from align.text.documents import iter_texts

    path = tmp_path / "a.parquet"
    values = pa.DictionaryArray.from_arrays(
        pa.array([0] * 1000, pa.int32()), pa.array(["ab " * (1 << 20)])
    )
    parquet.write_table(pa.table({"text": values}), path)
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chars = sum(len(sample.text) for sample in iter_texts(path))
    assert chars == 1000 * (3 << 20)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 << 10  # kB, of 3 GB
