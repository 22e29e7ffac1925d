"""What a file of text holds, by its name, and its characters, unpacked and decoded."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from align.bounds.regular_file import opened
from align.bounds.row_size import refuse_long_row
from align.errors import InputError, MissingPackageError

Kind = Literal["plain", "lines", "json", "csv", "tsv", "parquet", "arrow"]
"""How the texts stand in a file."""

_KINDS: dict[str, Kind] = {
    ".txt": "plain",
    ".jsonl": "lines",
    ".jsonlines": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of packed files, beside those of what is packed."""

READ = f"{', '.join(_KINDS)}; all but the last three also {', '.join(PACKED)}"
"""What can be read, for errors and docs."""

_UNPACK = "unpack it and give what was inside"
_AS_TEXT = "save its text as .txt"
_AS_ROWS = "save its rows as .parquet, .jsonl or .csv"
_NO_TEXT = "text is learned, nothing else: leave it out"
_REFUSED: dict[str, tuple[str, str]] = {
    suffix: (what, advice)
    for suffixes, what, advice in (
        (".zip .tar .tgz .tbz .tbz2 .txz .7z .rar .jar .whl", "an archive", _UNPACK),
        (".lz4 .lz .lzma .lzo .br .z .sz .snappy", "packed in another way", _UNPACK),
        (".pdf .ps .djvu .epub .mobi .rtf", "a printed page", _AS_TEXT),
        (".doc .docx .odt .ppt .pptx .odp .pages", "an office document", _AS_TEXT),
        (".ipynb", "a notebook", "save it as .py or .md"),
        (".warc .wet .wat", "a web archive", "save the text of its pages as .jsonl"),
        (".xls .xlsx .xlsm .ods .numbers", "a spreadsheet", "save it as .csv"),
        (".orc .avro .tfrecord .tfrecords .lance .mds", "a table", _AS_ROWS),
        (".h5 .hdf5 .mdb .db .sqlite .sqlite3 .duckdb", "a database", _AS_ROWS),
        (".pkl .pickle .joblib .msgpack", "pickled or packed objects", _AS_ROWS),
        (".npy .npz .mat .idx .bin", "numbers", "give the text they were made of"),
        (
            ".safetensors .pt .pth .ckpt .gguf .ggml .onnx .pb .tflite",
            "weights",
            _NO_TEXT,
        ),
        (
            ".png .jpg .jpeg .gif .webp .bmp .tif .tiff .ico .heic",
            "a picture",
            _NO_TEXT,
        ),
        (".wav .mp3 .flac .ogg .opus .m4a .aac", "sound", _NO_TEXT),
        (".mp4 .mkv .avi .webm .mov .mpg .mpeg", "a film", _NO_TEXT),
        (".exe .dll .so .dylib .o .a .pyc .class .wasm", "a program", _NO_TEXT),
    )
    for suffix in suffixes.split()
}
_POINTER = (
    b"version https://git-lfs.github.com/spec/",
    "a Git LFS pointer and not the data",
    "`git lfs pull` in its checkout fetches that",
)
_NOT_TEXT: tuple[tuple[bytes, str, str], ...] = (
    _POINTER,
    (b"PK\x03\x04", "a zip archive, or an office document", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "packed by lz4", _UNPACK),
    (b"%PDF-", "a PDF", _AS_TEXT),
    (b"{\\rtf", "an RTF document", _AS_TEXT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document", _AS_TEXT),
    (b"PAR1", "a parquet file", "let its name end in .parquet"),
    (b"ARROW1", "an Arrow file", "let its name end in .arrow"),
    (b"FEA1", "a Feather file of version 1", _AS_ROWS),
    (b"SQLite format 3\x00", "an SQLite database", _AS_ROWS),
    (b"\x89HDF\r\n", "an HDF5 file", _AS_ROWS),
    (b"\x89PNG\r\n", "a picture", _NO_TEXT),
    (b"\xff\xd8\xff", "a picture", _NO_TEXT),
    (b"GGUF", "weights", _NO_TEXT),
    (b"\xff\xfe", "UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8"),
)
_HEAD = 8000
"""Bytes at the beginning that show what a file is; text has no zeros there."""

_BLOCK = 1 << 20
_ZSTD_BLOCK = 1 << 9
"""Packed bytes at once: four of them can stand for 128 KiB, and come out together."""
_XZ_MEMORY = 1 << 30
"""Of the dictionary that a stream may ask for; ``xz -9`` asks for 64 MiB."""


def is_named_text(path: Path) -> bool:
    """Whether a name says that the file holds text or records, packed or not."""
    inner, packed = _inner(path)
    kind = _KINDS.get(inner)
    return kind is not None and not (packed and kind in ("parquet", "arrow"))


def kind_of(path: Path) -> Kind:
    """How the texts stand in a file, by its name; unknown names are plain text.

    Raises:
        InputError: the name is that of a format which is not read; says what to do.
    """
    inner, packed = _inner(path)
    if inner in _REFUSED:
        description, advice = _REFUSED[inner]
        raise InputError(f"{path} is {description}; {advice}. Read are {READ}")
    kind = _KINDS.get(inner, "plain")
    if packed and kind in ("parquet", "arrow"):
        raise InputError(
            f"{path} is {inner} packed once more, which cannot be read by its columns; "
            "unpack it: such files are packed inside"
        )
    return kind


def stem_of(path: Path) -> str:
    """The name without its endings: ``code`` of ``code.jsonl.gz``."""
    packed = path.suffix.lower() in PACKED
    return Path(path.stem).stem if packed else path.stem


def text_blocks(path: Path) -> Iterator[str]:
    """The text of a file in pieces, unpacked; line ends stay as they are.

    A byte order mark is dropped. What is held does not grow with the file, nor with
    what it unpacks to.

    Raises:
        InputError: no text, damaged, or not UTF-8; names the place.
        MissingPackageError: packed by zstd, without zstandard installed.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    bytes_read, lines, first = 0, 1, True
    for raw in _unpacked(path):
        if first:
            _refuse_other_formats(raw[:_HEAD], path)
            first = False
        try:
            text = decoder.decode(raw)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error, bytes_read + len(raw), lines) from None
        bytes_read += len(raw)
        lines += text.count("\n")
        if text:
            yield text
    try:
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, bytes_read, lines) from None


def refuse_pointer(path: Path) -> None:
    """See that a file of any format is the data and not what Git LFS left in place.

    Raises:
        InputError: it is a pointer.
    """
    magic, description, advice = _POINTER
    with opened(path) as file:
        if file.read(len(magic)) == magic:
            raise InputError(f"{path} is {description}; {advice}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, counted from 1, without the line feed that ends them.

    Raises:
        InputError: a line is longer than :func:`most_row_chars`, or as of
            :func:`text_blocks`.
    """
    number, parts, held = 1, list[str](), 0
    for block in text_blocks(path):
        first, *further = block.split("\n")
        parts.append(first)
        held += len(first)
        refuse_long_row(held, f"{path}, line {number}")
        for piece in further:
            yield number, "".join(parts)
            number, parts, held = number + 1, [piece], len(piece)
    if any(parts):
        yield number, "".join(parts)


def _inner(path: Path) -> tuple[str, bool]:
    """The ending that tells the format, in lower case, and whether it is packed."""
    suffix = path.suffix.lower()
    if suffix not in PACKED:
        return suffix, False
    return Path(path.stem).suffix.lower(), True


def _unpacked(path: Path) -> Iterator[bytes]:
    """The bytes of a file; whether it is packed is read off its first ones."""
    with opened(path) as file:
        unpack = _unpacker(file.peek(16)[:16])
        if unpack is None:
            yield from _in_blocks(file)
            return
        try:
            yield from unpack(file)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise InputError(
                f"{path} cannot be unpacked ({error}); copy it again"
            ) from error


def _unpacker(head: bytes) -> Callable[[IO[bytes]], Iterator[bytes]] | None:
    if head.startswith(b"\x1f\x8b"):
        return lambda file: _in_blocks(gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return lambda file: _in_blocks(bz2.BZ2File(file))
    if head.startswith(b"\xfd7zXZ\x00"):
        return _xz_blocks
    skipped = head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    if head.startswith(b"\x28\xb5\x2f\xfd") or skipped:
        return _zstd_blocks
    return None


def _in_blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _zstd_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The frames of a file, one after the other.

    The package's own readers end without a word where a frame is cut off.
    """
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackageError(
            f"reading {file.name} needs zstandard; install the extra: pip install "
            "'mtkd[zstd]'"
        ) from error
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = unpacker.decompressobj()
    ended = True
    try:
        while raw := file.read(_ZSTD_BLOCK):
            while raw:
                block = frame.decompress(raw)
                ended = frame.eof
                raw = frame.unused_data if ended else b""
                if ended:
                    frame = unpacker.decompressobj()
                if block:
                    yield block
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from error
    if not ended:
        raise EOFError("the file ends within a frame")


def _xz_blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The streams of a file, one after the other, with the zeros between them."""
    raw = file.read(_BLOCK)
    while raw:
        stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        while not stream.eof:
            block = stream.decompress(raw, max_length=_BLOCK)
            raw = b""
            if block:
                yield block
            if stream.needs_input and not stream.eof:
                raw = file.read(_BLOCK)
                if not raw:
                    raise EOFError("the file ends within a stream")
        raw = stream.unused_data.lstrip(b"\0")
        while not raw and (more := file.read(_BLOCK)):
            raw = more.lstrip(b"\0")


def _refuse_other_formats(head: bytes, path: Path) -> None:
    for magic, description, advice in _NOT_TEXT:
        if head.startswith(magic):
            raise InputError(f"{path} is {description}; {advice}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive; {_UNPACK}")
    if b"\x00" in head:
        raise InputError(
            f"{path}: byte {head.index(0)} is 0, so that it is no text, or not in "
            "UTF-8; convert it to UTF-8, or leave it out"
        )


def _not_utf8(
    path: Path, error: UnicodeDecodeError, bytes_read: int, lines: int
) -> InputError:
    """Say where a file stops being UTF-8.

    Args:
        path: of the file.
        error: of a decoder that also holds what it was given before and could not use.
        bytes_read: bytes given to the decoder so far.
        lines: the line in which the bytes it holds begin.
    """
    place = bytes_read - len(error.object) + error.start
    line = lines + error.object.count(b"\n", 0, error.start)
    return InputError(
        f"{path}: byte {place} (line {line}) is 0x{error.object[error.start]:02x}, "
        "which is not UTF-8; convert the file to UTF-8 first"
    )
