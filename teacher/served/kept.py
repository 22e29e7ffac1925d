"""Answers of a server on disk: what was answered once is never asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors
from safetensors.torch import load, save

from align.tokens.named_head import NamedTokens
from teacher.store.files import write_whole


class KeptAnswers:
    """One file a text, by its tokens and by who was asked."""

    def __init__(self, folder: Path, asked: str) -> None:
        """Look nothing up yet.

        Args:
            folder: made when it is needed.
            asked: all that an answer depends on beside the tokens.
        """
        self.folder, self._asked = folder, asked

    def get(self, ids: Sequence[int]) -> NamedTokens | None:
        """What was answered; None where nothing was, or a file is damaged."""
        try:
            parts = load(self._file(ids).read_bytes())
            named = NamedTokens(**parts)
        except (OSError, safetensors.SafetensorError, TypeError):
            return None
        return named if len(named.came) == len(ids) else None

    def put(self, ids: Sequence[int], named: NamedTokens) -> None:
        """Keep an answer, whole or not at all."""
        file = self._file(ids)
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = {
            "ids": named.ids,
            "log_probs": named.log_probs,
            "came": named.came,
            "rest": named.rest,
        }
        write_whole(file, save(parts), replace=True)

    def _file(self, ids: Sequence[int]) -> Path:
        text = f"{self._asked} {list(ids)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"
