"""Tokens that know which characters they hold."""

from align.tokens.batch import (
    TokenBatch,
    encode_batch,
    encode_chats,
    end_id,
)

__all__ = [
    "TokenBatch",
    "encode_batch",
    "encode_chats",
    "end_id",
]
