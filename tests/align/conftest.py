"""Real tokenizers and texts, loaded once, and small token batches by hand."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from align.tokens.batch import TokenBatch
from align.tokens.byte_lengths import ByteLengths
from tests.small_tokenizers import KINDS, SHARED, real, sections, small

MIXED = [
    "An unbelievable misunderstanding, isn't it?",
    "深度KV：饕餮😀很好👩‍👩‍👧！",
    "Hello  wörld <unk> a\r\n b\tc\n\n",
    "cafe\u0301 \u212b ﬁne ①",
    " leading and trailing ",
    "",
    " ",
]


@pytest.fixture(scope="session")
def load() -> Callable[[str], Any]:
    """Load a small tokenizer by its kind, or a real one by its folder's name."""
    return _loaded


@pytest.fixture(scope="session")
def table() -> Callable[[str], ByteLengths | None]:
    """The byte lengths of such a tokenizer by its name, read once."""
    return cache(lambda name: ByteLengths.of(_loaded(name)))


@cache
def _loaded(name: str) -> Any:
    return small(name) if name in KINDS else real(name)


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """Verse, CRLF news in two languages, a Chinese novel, and odd cases; where it lies
    beside the checkout also an encyclopedia and other news."""
    own = sections()
    found = [
        *MIXED,
        own["plays"][:700],
        own["news"],
        own["Chinese"],
        own["novel"][:200],
        own["code"][:400],
    ]
    heads = {
        "wikitext-2/valid.txt": 700,
        "ntrex/eng.txt": 400,
        "ntrex/zho-CN.txt": 200,
        "hongloumeng/chapters_001-040.txt": 200,
    }
    for path, chars in heads.items():
        file = SHARED / "corpora" / path
        if file.is_file():
            found.append(file.read_bytes().decode()[:chars])
    return found


@pytest.fixture(scope="session")
def tokens() -> Callable[..., TokenBatch]:
    """Build a TokenBatch from lists of spans, one list a text, padded."""

    def build(*rows: list[tuple[int, int]], texts: tuple[str, ...]) -> TokenBatch:
        width = max(len(row) for row in rows)
        spans = torch.zeros(len(rows), width, 2, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            if row:
                spans[index, : len(row)] = torch.tensor(row)
                mask[index, : len(row)] = True
        return TokenBatch(mask.long(), mask, spans, texts)

    return build
