"""What a tokenizer that does not give its text back leaves out or changes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.tokens.batch import TokenBatch

Ints = NDArray[np.int64]

_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class LostText:
    """Characters of a batch that its tokens do not tell, by what became of them."""

    characters: int
    """All characters of the texts."""
    blanks: int
    """Blanks that no token holds."""
    dropped: int
    """Other characters that no token holds."""
    unknown: int
    """Characters that only an unknown token stands for."""
    rewritten: int
    """Characters that are read as others, such as ``，`` as ``,``."""
    examples: tuple[str, ...]
    """The commonest unknown, dropped and rewritten ones, ``， as ,``."""

    @property
    def share(self) -> float:
        """Share of the characters that are lost, blanks that were left out aside."""
        return (self.dropped + self.unknown + self.rewritten) / max(1, self.characters)

    @property
    def untold(self) -> float:
        """Share of the characters of which nothing is told, not even changed."""
        return (self.dropped + self.unknown) / max(1, self.characters)

    def __str__(self) -> str:
        """One line for a log."""
        if not (self.blanks or self.dropped or self.unknown or self.rewritten):
            return f"nothing lost of {self.characters:,} characters"
        parts = [
            f"{count:,} {kind}"
            for kind, count in (
                ("unknown", self.unknown),
                ("rewritten", self.rewritten),
                ("dropped", self.dropped),
                ("blanks left out", self.blanks),
            )
            if count
        ]
        line = f"of {self.characters:,} characters {', '.join(parts)}"
        return f"{line} ({'; '.join(self.examples)})" if self.examples else line


def lost_text(tokenizer: Any, batch: TokenBatch) -> LostText:
    """Account for the characters that a tokenization does not tell.

    Text beyond a cut is not counted.

    Args:
        tokenizer: the fast tokenizer which made the batch.
        batch: from :func:`align.tokens.batch.encode_batch`.

    Returns:
        Counts over all texts of the batch, each character under one heading.
    """
    unknown_id = _unknown_id(tokenizer)
    unknown_piece = (
        tokenizer.convert_ids_to_tokens(unknown_id) if unknown_id >= 0 else ""
    )
    spans, holds_text = batch.spans.cpu().numpy(), batch.has_text.cpu().numpy()
    is_unknown = batch.ids.cpu().numpy() == unknown_id
    kinds: Counter[str] = Counter()
    examples: Counter[str] = Counter()
    clusters: Counter[str] = Counter()
    for row, text in enumerate(batch.texts):
        end = int(spans[row].max(initial=0))
        kinds["characters"] += end
        is_certain = _covered(spans[row][holds_text[row] & ~is_unknown[row]], end)
        unsure = spans[row][holds_text[row] & is_unknown[row]]
        for start, stop in unsure.tolist():
            if text[start:stop] == unknown_piece:
                is_certain[start:stop] = True  # the text itself says so
        claimed = is_certain | _covered(unsure, end)
        for place in np.flatnonzero(~is_certain).tolist():
            blank = text[place].isspace()
            kind = "unknown" if claimed[place] else "dropped"
            kinds["blanks" if blank else kind] += 1
            if not blank:
                examples[f"{_shown(text[place])} {kind}"] += 1
        clusters.update(_clusters(text[:end], is_certain))
    for cluster, reread_text in _reread(tokenizer, list(clusters)).items():
        kind = "rewritten" if reread_text else "dropped"
        kinds[kind] += clusters[cluster] * len(cluster)
        outcome = f"as {_shown(reread_text)}" if reread_text else "dropped"
        examples[f"{_shown(cluster)} {outcome}"] += clusters[cluster]
    common = tuple(example for example, _ in examples.most_common(_EXAMPLES))
    return LostText(
        characters=kinds["characters"],
        blanks=kinds["blanks"],
        dropped=kinds["dropped"],
        unknown=kinds["unknown"],
        rewritten=kinds["rewritten"],
        examples=common,
    )


def _shown(piece: str) -> str:
    """A piece as it can stand in a log."""
    return piece if piece.isprintable() else ascii(piece)


def _covered(spans: Ints, size: int) -> NDArray[np.bool_]:
    """(size,) bool, the characters that some span holds."""
    change = np.zeros(size + 1, dtype=np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    covered: NDArray[np.bool_] = np.cumsum(change)[:-1] > 0
    return covered


def _clusters(text: str, is_certain: NDArray[np.bool_]) -> Iterator[str]:
    """Known letters with the accents on them, blanks left out."""
    certain, place = is_certain.tolist(), 0
    while place < len(text):
        stop = place + 1
        # no accent that combines is below U+0300; asking of each letter takes longer
        while stop < len(text) and text[stop] >= "\u0300":
            if not unicodedata.combining(text[stop]):
                break
            stop += 1
        if all(certain[place:stop]) and not text[place].isspace():
            yield text[place:stop]
        place = stop


def _unknown_id(tokenizer: Any) -> int:
    """The unknown token's id, also where only the model knows it; -1 for none."""
    tokenizer_id = getattr(tokenizer, "unk_token_id", None)
    if tokenizer_id is not None:
        return int(tokenizer_id)
    backend = tokenizer.backend_tokenizer
    piece = getattr(backend.model, "unk_token", None)
    piece_id = backend.token_to_id(piece) if piece else None
    return -1 if piece_id is None else int(piece_id)


def _reread(tokenizer: Any, clusters: list[str]) -> dict[str, str]:
    """What comes back of those that do not come back as they are.

    One that is unknown by itself was read as a part of a word, and tells nothing.
    """
    backend, unknown = tokenizer.backend_tokenizer, _unknown_id(tokenizer)
    encodings = backend.encode_batch(clusters, add_special_tokens=False)
    certain = [
        (cluster, encoding.ids)
        for cluster, encoding in zip(clusters, encodings, strict=True)
        if unknown not in encoding.ids
    ]
    decoded = backend.decode_batch([ids for _, ids in certain])
    pairs = zip([cluster for cluster, _ in certain], decoded, strict=True)
    return {
        cluster: decoded_text.strip()
        for cluster, decoded_text in pairs
        if decoded_text.strip() != cluster
    }
