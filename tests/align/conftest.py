"""Real tokenizers and texts, loaded once, and small token batches by hand."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from align.tokens import TokenBatch

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
def load(shared_data: Path) -> Callable[[str], Any]:
    """Load a real tokenizer by its folder's name."""
    from transformers import AutoTokenizer

    @cache
    def load_one(name: str) -> Any:
        return AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name)

    return load_one


@pytest.fixture(scope="session")
def real_texts(shared_data: Path) -> list[str]:
    """Wikipedia, CRLF news in two languages, a Chinese novel, and odd cases."""
    corpora = shared_data / "corpora"

    def head(path: str, chars: int) -> str:
        return (corpora / path).read_bytes().decode()[:chars]

    return [
        *MIXED,
        head("wikitext-2/valid.txt", 700),
        head("ntrex/eng.txt", 400),
        head("ntrex/zho-CN.txt", 200),
        head("hongloumeng/chapters_001-040.txt", 200),
    ]


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
