"""300 texts that nobody should have written, read and cut into tokens.

pytest -s shows the table.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from align.text.documents import iter_texts
from align.tokens.batch import encode_batch
from tests.experiments.hostile.outcomes import Table, outcome_of
from tests.small_tokenizers import small

ODD = (
    "\u202eright to left\u202c",
    "e" + "\u0301" * 40,
    "\u200d\u200d\ufeff",
    "\ufffd",
    "深度学习",
    "\U0001f469\u200d\U0001f4bb",
    "\x1b[31mred\x1b[0m",
    "a\rb\r\nc\x0bd\x85e",
    "\u2028line\u2029",
    "<script>alert(1)</script>",
    "$a_$ {x} %s \\n",
    "\U0010ffff",
    "\x7f\x80",
    "<|endoftext|></s>[CLS]",
    " " * 50,
    "\t\n\t\n",
)
"""Texts that are legal and odd."""
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def table(texts: list[str], kind: str) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    out = io.BytesIO()
    rows = pa.table({"text": texts})
    if kind == "parquet":
        parquet.write_table(rows, out)
    elif kind == "feather":
        feather.write_feather(rows, out)
    else:
        with pa.ipc.new_stream(out, rows.schema) as stream:
            stream.write_table(rows)
    return out.getvalue()


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    "jsonl": lambda texts: b"".join(
        json.dumps({"text": t}).encode() + b"\n" for t in texts
    ),
    "json": lambda texts: json.dumps([{"text": t} for t in texts]).encode(),
    "csv": lambda texts: "\n".join(["text", *map(quoted, texts)]).encode(),
    "tsv": lambda texts: "\n".join(["text", *map(quoted, texts)]).encode(),
    "parquet": lambda texts: table(texts, "parquet"),
    "feather": lambda texts: table(texts, "feather"),
    "arrow": lambda texts: table(texts, "arrow"),
}
UNPACKERS = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
Case = tuple[str, str, bytes, list[str] | None]
"""Class, name of the file, its bytes, and the texts it holds where that is known."""


def cases(draw: random.Random) -> Iterator[Case]:
    for number in range(40):
        size = draw.choice([0, 1, 2, 7, 100, 5000])
        suffix = draw.choice(
            [".txt", ".jsonl", ".json", ".csv", ".parquet", ".arrow", ""]
        )
        yield "random bytes", f"r{number}{suffix}", draw.randbytes(size), None
    for number in range(40):
        raw = draw.choice(ODD[4:6]).encode() * 9
        cut = raw[: draw.randrange(1, len(raw))]
        suffix = draw.choice([".txt", ".md", ".jsonl", ".csv"])
        whole = cut.decode(errors="ignore")
        fits = suffix in (".txt", ".md") and whole.encode() == cut
        yield "truncated UTF-8", f"u{number}{suffix}", cut, [whole] if fits else None
    for number in range(25):
        half = draw.choice(["\\ud83d", "\\udc00", "\\ud83d\\ud83d", "\\udfff x"])
        row = f'{{"text": "a {half} b"}}\n'.encode()
        yield "lone surrogates", f"s{number}.jsonl", row * 2, None
    for number in range(20):
        mark = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb"])
        texts = [" ".join(draw.sample(["a", "b", "c"], 3))]
        holds = texts if mark == b"\xef\xbb\xbf" else None
        yield "byte order marks", f"b{number}.txt", mark + texts[0].encode(), holds
    for number in range(15):
        place = draw.choice([0, 10, 7999, 8000, 20000])
        text = b"words " * 4000
        content = text[:place] + b"\0" + text[place:]
        holds = [content.decode()] if place >= 8000 else None
        yield "zeros", f"z{number}.txt", content, holds
    for number in range(10):
        text = draw.choice(["word ", "x", "深", "a\u0301"]) * (1 << 18)
        name = draw.choice(["txt", "jsonl", "json", "csv"])
        content = text.encode() if name == "txt" else WRITERS[name]([text])
        yield "lines of a megabyte", f"l{number}.{name}", content, [text]
    for number in range(70):
        texts = [draw.choice(ODD) + f" {n}" for n in range(draw.randrange(1, 6))]
        name, packer = draw.choice(list(WRITERS)), draw.choice(list(PACKERS))
        packer = "" if name in ("parquet", "feather", "arrow") else packer
        content = PACKERS[packer](WRITERS[name](texts))
        yield "odd and legal", f"o{number}.{name}{packer}", content, texts
    for number in range(80):
        texts = [f"a plain text, number {n}, of some length" for n in range(5)]
        name, packer = draw.choice(list(WRITERS)), draw.choice(list(PACKERS))
        packer = "" if name in ("parquet", "feather", "arrow") else packer
        content = bytearray(PACKERS[packer](WRITERS[name](texts)))
        for _ in range(draw.choice([1, 1, 3, 20])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        yield "mutated files", f"m{number}.{name}{packer}", bytes(content), None


def joined(texts: list[str]) -> str:
    """What documents of one file come to, without the blanks between them."""
    return "".join("".join(texts).split())


def as_others_read(path: Path) -> list[str]:
    """The texts of a file by the readers of Python and pyarrow, all at once."""
    content = path.read_bytes()
    for magic, unpack in UNPACKERS.items():
        if content.startswith(magic):
            content = unpack(content)
    name = path.name.partition(".")[2].partition(".")[0]
    if name in ("parquet", "feather", "arrow"):
        return [row["text"] for row in read_table(name, content).to_pylist()]
    text = content.decode("utf-8-sig")
    if name == "jsonl":
        rows = [json.loads(row) for row in text.split("\n") if row.strip()]
    elif name == "json":
        rows = json.loads(text)
    elif name in ("csv", "tsv"):
        mark = "," if name == "csv" else "\t"
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
        rows = list(table)
    else:
        return [text]
    return [row["text"] for row in rows]


def read_table(name: str, content: bytes):
    from pyarrow import feather, ipc, parquet

    readers = {
        "parquet": parquet.read_table,
        "feather": feather.read_table,
        "arrow": lambda file: ipc.open_stream(file).read_all(),
    }
    return readers[name](io.BytesIO(content))


@pytest.mark.slow
def test_every_text_is_read_as_it_is_or_refused_with_its_place(tmp_path):
    tokenizer = small("bytes-chatml")
    shown = Table()
    for kind, name, content, holds in cases(random.Random(0)):
        path = tmp_path / name
        path.write_bytes(content)

        def read(path: Path = path, holds: list[str] | None = holds) -> bool:
            samples = list(iter_texts(path))
            for sample in samples[:20]:
                text = sample.text[:4000]
                batch = encode_batch(tokenizer, [text], max_length=4096)
                spans = batch.spans[0][batch.mask[0]]
                if int(spans.max()) > len(text) or int(spans.min()) < 0:
                    return False
                sample.text.encode()  # no half of a pair
            texts = [str(sample.text) for sample in samples]
            if holds is None:  # what was spoilt is read as it now stands
                holds = as_others_read(path)
            rows = path.suffix not in (".txt", ".md", "")
            expected = [text for text in holds if text.strip()]
            return texts == expected if rows else joined(texts) == joined(holds)

        shown.note(kind, *outcome_of(read, (name,)))
    print(f"\n{shown}")
    assert sum(sum(row.values()) for row in shown.rows.values()) == 300
    assert not shown.wrong, "\n".join(shown.wrong)
