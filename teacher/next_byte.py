"""What a causal model says of the next byte, wherever its tokens would end.

Models with other tokens foretell other events; the next byte is the same one for all.
A token that goes on must not be taken for granted: how a text is cut near some byte
follows from what comes behind it, so a model that is read along its tokens of the whole
text knows a little of what is asked. Here it knows the bytes before, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.tokens.byte_prefixes import BytePrefixes
from align.tokens.spelling import Pieces, token_bytes

Score = Callable[[Sequence[Sequence[int]]], list[Tensor]]
"""From token sequences, each T ids, to (T, V) log-probabilities of what follows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ByteReading:
    """A text as a model foretells it byte by byte, and token by token."""

    log_probs: Tensor
    """(N, 256) float64, nats: of each byte of the text given those before it."""
    byte_bits: float
    """Of the N bytes that came, by ``log_probs``."""
    end_bits: float
    """Of the last token's ending with the text, which no byte says and a token does."""
    token_bits: float
    """Of the text's own tokens."""
    characters: int

    @property
    def apart(self) -> float:
        """How many more bits bytes take than tokens, as a share of the tokens'."""
        return (self.byte_bits + self.end_bits) / self.token_bits - 1


def read_bytes(
    text: str,
    *,
    spelled: Pieces,
    encode: Callable[[str], Sequence[int]],
    score: Score,
    begin: int,
) -> ByteReading:
    """Foretell every byte of a text from those before it.

    Of each beginning of the text that ends where a token of it does, the model tells
    the next token; all tokens that spell the bytes since then and a byte b say b. The
    beginning that a token is asked after is as likely as its own tokens are.

    Args:
        text: at least one character.
        spelled: by id the bytes of each token, see
            :func:`align.tokens.spelling.token_bytes`.
        encode: a text to its ids, without special tokens.
        score: the model.
        begin: id that stands before the text, such as the one that ends a document.

    Raises:
        InputError: the text is empty, or its tokens do not spell it.

    Source:
        Phan et al. 2024, Exact Byte-Level Probabilities from Tokenized Language Models
        (arXiv 2410.09303), cover encodings. Departure: a cover's tokens but the last
        are what the tokenizer makes of their text; what the model gives to other ways
        of cutting it is left out, and the 256 numbers are divided by their sum.
    """
    if not text:
        raise InputError("there is no byte to foretell in an empty text")
    prefixes = BytePrefixes(spelled)
    raw, starts = text.encode(), _starts(text, encode, spelled)
    asked = [[begin, *ids] for ids in starts.values()]
    scored = dict(zip(starts, score(asked), strict=True))
    log_p = {at: _log_likelihood(starts[at], rows) for at, rows in scored.items()}
    rows: list[Tensor] = []
    for n in range(len(raw)):
        known = range(max(0, n + 1 - prefixes.longest), n + 1)
        weighed = [
            prefixes.after(scored[k][-1].exp(), raw[k:n]).log() + log_p[k]
            for k in known
            if k in starts
        ]
        rows.append(torch.stack(weighed).logsumexp(0))
    mass = torch.stack(rows)  # (N, 256), each beginning and byte
    log_probs = mass.log_softmax(-1)
    taken = torch.arange(len(raw)), torch.tensor(list(raw))
    whole = len(raw)
    return ByteReading(
        log_probs=log_probs,
        byte_bits=-float(log_probs[taken].sum()) / math.log(2),
        end_bits=float(mass[taken][-1] - log_p[whole]) / math.log(2),
        token_bits=-log_p[whole] / math.log(2),
        characters=len(text),
    )


def model_score(model: Any, batch: int = 32) -> Score:
    """A causal Hugging Face model, asked about several sequences at once."""

    @torch.no_grad()
    def score(sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        out: list[Tensor] = []
        for first in range(0, len(sequences), batch):
            some = [torch.tensor(ids) for ids in sequences[first : first + batch]]
            ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
            lengths = torch.tensor([len(row) for row in some])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            there = next(model.parameters()).device
            logits = model(
                input_ids=ids.to(there), attention_mask=mask.long().to(there)
            ).logits
            every = logits.double().log_softmax(-1).cpu()
            out += [row[:length] for row, length in zip(every, lengths, strict=True)]
        return out

    return score


def read_bytes_of(model: Any, tokenizer: Any, text: str) -> ByteReading:
    """:func:`read_bytes` by a causal Hugging Face model and its fast tokenizer.

    Raises:
        InputError: see there; or the tokenizer has neither a token that begins a text
            nor one that ends it.
    """
    begin = tokenizer.bos_token_id
    begin = tokenizer.eos_token_id if begin is None else begin
    if begin is None:
        raise InputError(
            "the tokenizer has neither a bos nor an eos token, and a model foretells "
            "no first token without one before it; give one to the tokenizer"
        )
    backend = tokenizer.backend_tokenizer
    return read_bytes(
        text,
        spelled=token_bytes(tokenizer),
        encode=lambda some: backend.encode(some, add_special_tokens=False).ids,
        score=model_score(model),
        begin=begin,
    )


def _log_likelihood(ids: Sequence[int], rows: Tensor) -> float:
    """Of a beginning's own tokens, nats; its rows start at the id that stands before
    it."""
    return float(rows[range(len(ids)), list(ids)].sum())


def _starts(
    text: str, encode: Callable[[str], Sequence[int]], spelled: Pieces
) -> dict[int, list[int]]:
    """Tokens of the beginnings of a text, by the bytes that they hold.

    Those up to every character, and up to every token's end within one.
    """
    starts: dict[int, list[int]] = {0: []}
    for end in range(1, len(text) + 1):
        some = text[:end]
        ids, raw = list(encode(some)), some.encode()
        pieces = [spelled[id_] or b"" for id_ in ids]
        if b"".join(pieces) != raw:
            raise InputError(
                f"the tokens of {some[-20:]!r} spell {b''.join(pieces)[-20:]!r}: a "
                "tokenizer that changes its text has no bytes to foretell it by; give "
                "one that spells texts as they are"
            )
        held, within = 0, len(text[: end - 1].encode())
        for count, piece in enumerate(pieces, 1):
            held += len(piece)
            if held > within:
                starts[held] = ids[:count]
    return starts
