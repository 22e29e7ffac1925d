"""Texts: documents, conversations and rows, from whatever file they lie in."""

from align.text.documents import (
    TextSample,
    best_cut,
    chunk_samples,
    iter_file,
    iter_texts,
    read_texts,
)

__all__ = [
    "TextSample",
    "best_cut",
    "chunk_samples",
    "iter_file",
    "iter_texts",
    "read_texts",
]
