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

FOLLOWING = ("a", " ", "\n", "1", ".")
"""A character of each kind by which tokenizers split text before they merge it."""


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
    beginning that a token is asked after is as likely as its own tokens are. Where its
    last tokens depend on what kind of character follows, each way counts.

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
        are what the tokenizer makes of their text, at its end or before some character
        of ``FOLLOWING``; what the model gives to other ways of cutting it is left out,
        and the 256 numbers are divided by their sum.
    """
    if not text:
        raise InputError("there is no byte to foretell in an empty text")
    prefixes = BytePrefixes(spelled)
    raw, starts = text.encode(), _starts(text, encode, spelled)
    sequences = [ids for every in starts.values() for ids in every]
    scored = iter(score([[begin, *ids] for ids in sequences]))
    # (k) -> log-likelihoods (S, 1) of so many beginnings, and (S, V) what follows each
    said: dict[int, tuple[Tensor, Tensor]] = {}
    for at, every in starts.items():
        rows = [next(scored) for _ in every]
        likely = [_log_likelihood(*pair) for pair in zip(every, rows, strict=True)]
        said[at] = torch.stack(likely)[:, None], torch.stack([row[-1] for row in rows])
    foretold: list[Tensor] = []
    for n in range(len(raw)):
        known = range(max(0, n + 1 - prefixes.longest), n + 1)
        weighed = [
            prefixes.after(following.exp(), raw[k:n]).log() + likely
            for k in known
            if k in said
            for likely, following in [said[k]]
        ]
        foretold.append(torch.cat(weighed).logsumexp(0))
    mass = torch.stack(foretold)  # (N, 256), each beginning and byte
    log_probs = mass.log_softmax(-1)
    taken = torch.arange(len(raw)), torch.tensor(list(raw))
    whole = float(said[len(raw)][0][0])  # the text's own tokens come first
    return ByteReading(
        log_probs=log_probs,
        byte_bits=-float(log_probs[taken].sum()) / math.log(2),
        end_bits=(float(mass[taken][-1]) - whole) / math.log(2),
        token_bits=-whole / math.log(2),
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


def _log_likelihood(ids: Sequence[int], rows: Tensor) -> Tensor:
    """Of a beginning's own tokens, () nats; its rows start at the id that stands before
    it."""
    return rows[range(len(ids)), list(ids)].sum()


def _starts(
    text: str, encode: Callable[[str], Sequence[int]], spelled: Pieces
) -> dict[int, list[list[int]]]:
    """Tokens of the beginnings of a text, by the bytes that they hold.

    Those up to every character, and up to every token's end within one; of each every
    way to cut it that what follows can ask for, that of its own end first. Nothing of
    the text behind a beginning plays a part in it.
    """
    starts: dict[int, list[list[int]]] = {0: [[]]}
    for end in range(1, len(text) + 1):
        some, within = text[:end], len(text[: end - 1].encode())
        whole = len(some.encode())
        for following in ("", *FOLLOWING):
            ids = list(encode(some + following))
            held, raw = 0, (some + following).encode()
            for count, id_ in enumerate(ids, 1):
                piece = spelled[id_] or b""
                _check(piece, raw[held : held + len(piece)], some)
                held += len(piece)
                if within < held <= whole and ids[:count] not in starts.get(held, ()):
                    starts.setdefault(held, []).append(ids[:count])
            _check(raw[held:], b"", some)
    return starts


def _check(spelled: bytes, held: bytes, text: str) -> None:
    if spelled != held:
        raise InputError(
            f"the tokens of {text[-20:]!r} spell {spelled!r} where the text has "
            f"{held!r}: a tokenizer that changes its text has no bytes to foretell it "
            "by; give one that spells texts as they are"
        )
