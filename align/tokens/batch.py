"""One batch of texts as tokens that know which characters they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from align.errors import InputError
from align.text.chat import ChatRenderer, as_conversation, has_template, to_contents
from align.text.conversation import Conversation, Message
from align.text.fragment import Fragment, ends
from align.text.records import lone_surrogate
from align.tokens.answered import predicted_tokens
from align.tokens.byte_lengths import ByteLengths
from align.tokens.offsets import place_by_offsets
from align.tokens.placed import Placed, filled, pad_id, special_ids

_TENSORS = ("ids", "mask", "spans", "weight", "own")


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Token ids beside the characters each token holds."""

    ids: Tensor
    """(B, T) int64, padded on the right."""
    mask: Tensor
    """(B, T) bool, True on real tokens, special ones included; with padding between
    where a row holds a source and its target, see :mod:`align.tokens.pairs`."""
    spans: Tensor
    """(B, T, 2) int64 [start, end) in characters of the unmodified ``texts``;
    start == end for special tokens, padding and bare ``▁`` markers."""
    texts: tuple[str, ...]
    """The B texts, exactly as given."""
    _: KW_ONLY
    weight: Tensor | None = None
    """(B,) float32 >= 0, what each text counts in a loss; None: 1."""
    own: Tensor | None = None
    """(B,) bool, True on texts that the student wrote itself; None: on none."""

    def __post_init__(self) -> None:
        """Check that the fields describe one batch.

        Raises:
            ValueError: two fields differ in size, or a span is reversed.
        """
        batch, tokens = self.ids.shape if self.ids.dim() == 2 else (-1, -1)
        expected = {"mask": (batch, tokens), "spans": (batch, tokens, 2)}
        for name, shape in expected.items():
            actual = tuple(getattr(self, name).shape)
            if actual != shape:
                raise ValueError(
                    f"TokenBatch.{name} has shape {actual}, but ids has "
                    f"{tuple(self.ids.shape)}; give {name} of shape {shape}"
                )
        if len(self.texts) != batch:
            raise ValueError(
                f"TokenBatch.texts holds {len(self.texts)} texts for {batch} rows "
                "of ids; give one text a row"
            )

    @property
    def has_text(self) -> Tensor:
        """(B, T) bool, True on tokens that hold at least one character."""
        return self.mask & (self.spans[..., 1] > self.spans[..., 0])

    @property
    def predicted(self) -> Tensor:
        """(B, T) bool, True on tokens that a model learns to predict.

        Of a text all real tokens, the end-of-text token among them; of a prompt with
        a completion those from its first on; of a conversation those that hold content
        that is learned, and the one after each such content, by which a model ends its
        turn; of a source with its target (:mod:`align.tokens.pairs`) the target's.
        """
        return predicted_tokens(self.texts, self.spans, self.has_text, self.mask)

    @property
    def complete_until(self) -> Tensor:
        """(B, T) int64: after this token, characters [0, e) are read whole.

        Less than the end of the span where a later token holds the rest of the
        last character: the three byte tokens of ``饕`` at (0, 1) give 0, 0, 1.
        """
        spans, has_text = self.spans.cpu().numpy(), self.has_text.cpu().numpy()
        far = np.iinfo(np.int64).max
        start = np.where(has_text, spans[..., 0], far)
        later = np.full_like(start, far)  # least start among the tokens after
        later[:, :-1] = np.minimum.accumulate(start[:, :0:-1], axis=1)[:, ::-1]
        complete = np.minimum(spans[..., 1], later)
        return torch.from_numpy(complete).to(self.ids.device)

    @property
    def touched_until(self) -> Tensor:
        """(B, T) int64: up to this token, nothing at or after e has been read.

        A character counts as touched with its first byte.
        """
        end = torch.where(self.has_text, self.spans[..., 1], 0)
        return end.cummax(1).values if end.shape[1] else end

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move the tensors."""
        every = ((name, getattr(self, name)) for name in _TENSORS)
        moved: dict[str, Any] = {n: x if x is None else x.to(device) for n, x in every}
        return replace(self, **moved)


def encode_batch(
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int | None = None,
    add_special_tokens: bool = True,
    byte_lengths: ByteLengths | None = None,
    learn_end: bool | None = None,
) -> TokenBatch:
    """Tokenise texts and note the characters of every token.

    A :class:`Conversation` among the texts is read in the model's own chat template
    (:func:`encode_chats`).

    Padding and truncation are on the right whatever the tokenizer's own setting,
    and special tokens survive truncation. Spans index the unmodified text.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: B texts; empty ones are fine.
        max_length: longest row in tokens, special tokens included; None keeps all.
        add_special_tokens: put the tokenizer's own special tokens around a text.
        byte_lengths: :meth:`ByteLengths.of` this tokenizer, which replaces the
            slow copying of offsets where ids alone say how long tokens are; None
            always copies.
        learn_end: True writes the end-of-text token after every text that ends
            (:func:`align.text.fragment.ends`) and is not cut here, once, and after no
            other; False writes it nowhere; None leaves it to the tokenizer. It holds no
            text. Without a chat template conversations likewise; with one, see
            :func:`encode_chats`.

    Returns:
        The batch; T is the longest row.

    Raises:
        TypeError: ``texts`` is one string, or holds something else than strings.
        ValueError: the tokenizer is slow, max_length leaves no room, or a text holds
            half of a surrogate pair.
    """
    texts = _checked_texts(texts)
    talks = [text for text in texts if isinstance(text, Conversation)]
    if talks:
        spoken = encode_chats(tokenizer, talks, max_length, byte_lengths, learn_end)
        plain = [text for text in texts if not isinstance(text, Conversation)]
        if not plain:
            return spoken
        written = encode_batch(
            tokenizer,
            plain,
            max_length=max_length,
            add_special_tokens=add_special_tokens,
            byte_lengths=byte_lengths,
            learn_end=learn_end,
        )
        return _in_order(texts, written, spoken, pad_id(tokenizer))
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer and gives "
            "no character offsets; load its tokenizer.json with AutoTokenizer or "
            "PreTrainedTokenizerFast"
        )
    backend = _unset(tokenizer)
    prefix, suffix = special_ids(backend) if add_special_tokens else ([], [])
    placed = _placed(tokenizer, texts, byte_lengths)
    if learn_end is not None:
        suffix = [token for token in suffix if token != end_id(tokenizer)]
    room = None if max_length is None else max_length - len(prefix) - len(suffix)
    if room is not None and room < 0:
        raise InputError(
            f"max_length {max_length} leaves no room for the "
            f"{len(prefix) + len(suffix)} special tokens of the tokenizer; give at "
            f"least {len(prefix) + len(suffix)}"
        )
    ended = np.zeros(len(texts), dtype=np.bool_)
    if learn_end:
        ended = _to_be_ended(tokenizer, texts, placed, room)
    return _pad(
        tokenizer,
        placed,
        texts=texts,
        prefix=prefix,
        suffix=suffix,
        room=room,
        ended=ended,
    )


def encode_chats(
    tokenizer: Any,
    conversations: Sequence[Conversation | Sequence[Message]],
    max_length: int | None = None,
    byte_lengths: ByteLengths | None = None,
    learn_end: bool | None = None,
) -> TokenBatch:
    """Tokenise conversations, each in the model's own template.

    Args:
        tokenizer: a fast Hugging Face tokenizer, with a chat template or without.
        conversations: B conversations, or lists of messages.
        max_length: longest row in tokens; None keeps all.
        byte_lengths: as for :func:`encode_batch`.
        learn_end: as for :func:`encode_batch`, where there is no template. A template
            ends turns itself; where what it writes after the last content holds no
            token of its own, the end-of-text token takes that place. Where the end was
            cut off, nothing follows the last content.

    Returns:
        The batch. Its ``texts`` are the contents of each conversation, joined with
        nothing between, the same for every model; tokens of the template have
        zero width.

    Raises:
        ValueError: see :func:`align.text.chat.render_chat`.
    """
    talks = [as_conversation(messages) for messages in conversations]
    rendered_chats = list(map(ChatRenderer(tokenizer), talks))
    templated = has_template(tokenizer)  # and then writes its own special tokens
    closes = templated and learn_end is not None
    batch = encode_batch(
        tokenizer,
        [
            Fragment(chat.text) if talk.goes_on else chat.text
            for chat, talk in zip(rendered_chats, talks, strict=True)
        ],
        max_length=None if closes else max_length,
        add_special_tokens=not templated,
        byte_lengths=byte_lengths,
        learn_end=None if templated else learn_end,
    )
    spans = batch.spans.numpy()
    moved = [
        to_contents(spans[row], chat, talks[row].messages)
        for row, chat in enumerate(rendered_chats)
    ]
    placed = torch.from_numpy(np.stack(moved)) if moved else batch.spans
    batch = replace(batch, spans=placed, texts=tuple(talks))
    return _closed(tokenizer, batch, bool(learn_end), max_length) if closes else batch


def _closed(
    tokenizer: Any, batch: TokenBatch, learn_end: bool, max_length: int | None
) -> TokenBatch:
    """End templated conversations as :func:`encode_chats` says, then cut them."""
    if not batch.ids.shape[1]:
        return batch
    end = end_id(tokenizer) if learn_end else None
    marks = tokenizer.backend_tokenizer.get_added_tokens_decoder().keys()
    counts, place = batch.mask.sum(1), torch.arange(batch.ids.shape[1])
    ids = pad(batch.ids, (0, 1), value=pad_id(tokenizer))
    spans = torch.cat([batch.spans, batch.spans[:, -1:, 1:].expand(-1, 1, 2)], 1)
    last = torch.where(batch.has_text, place, -1).amax(1).tolist()
    for row, text in enumerate(batch.texts):
        after = last[row] + 1
        if not after:
            continue
        if not ends(text):
            counts[row] = after
        elif end is not None and marks.isdisjoint(
            ids[row, after : int(counts[row])].tolist()
        ):
            ids[row, after], counts[row] = end, after + 1
    width = int(counts.max())
    width = width if max_length is None else min(width, max_length)
    mask = torch.arange(width) < counts[:, None]
    ids = ids[:, :width].masked_fill(~mask, pad_id(tokenizer))
    return TokenBatch(ids, mask, spans[:, :width], batch.texts)


def _in_order(
    texts: Sequence[str], written: TokenBatch, spoken: TokenBatch, fill: int
) -> TokenBatch:
    """Plain texts and conversations, tokenised apart, in the order of ``texts``."""
    width = max(written.ids.shape[1], spoken.ids.shape[1])
    talks = torch.tensor([isinstance(text, Conversation) for text in texts])
    order = talks.long().argsort(stable=True).argsort()
    return TokenBatch(
        _stacked(written.ids, spoken.ids, width, fill)[order],
        _stacked(written.mask, spoken.mask, width, False)[order],
        _stacked(written.spans, spoken.spans, width, 0)[order],
        tuple(texts),
    )


def _stacked(above: Tensor, below: Tensor, width: int, fill: int) -> Tensor:
    """Two batches under each other, rows filled up to one width."""
    rows = len(above) + len(below)
    out = above.new_full((rows, width, *above.shape[2:]), fill)
    out[: len(above), : above.shape[1]] = above
    out[len(above) :, : below.shape[1]] = below
    return out


def _checked_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of strings")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}] is {type(text).__name__}; give a str")
        place = lone_surrogate(text)
        if place is not None:
            raise InputError(
                f"texts[{row}] holds {text[place]!r} at character {place}, half of a "
                "surrogate pair, which no tokenizer takes; leave it out"
            )
    return list(texts)


def _unset(tokenizer: Any) -> Any:
    """The Rust tokenizer, without what an earlier call left set on it."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    backend.encode_special_tokens = bool(
        getattr(tokenizer, "split_special_tokens", False)
    )
    return backend


def _placed(tokenizer: Any, texts: list[str], table: ByteLengths | None) -> Placed:
    """Tokens by byte lengths, and by offsets where these do not decide."""
    if table is None:
        return place_by_offsets(tokenizer, texts)
    placed, fits = table.encode(tokenizer, texts)
    unfit = np.flatnonzero(~fits)
    if len(unfit):  # the ids are the same
        other = place_by_offsets(tokenizer, [texts[row] for row in unfit])
        placed.spans[unfit] = filled(other.spans, 0, placed.ids.shape[1])
    return placed


def end_id(tokenizer: Any) -> int | None:
    """A tokenizer's end-of-text token; None where it has none."""
    value = getattr(tokenizer, "eos_token_id", None)
    return None if value is None else int(value)


def _to_be_ended(
    tokenizer: Any, texts: list[str], placed: Placed, room: int | None
) -> NDArray[np.bool_]:
    """(B,) the texts that end, have room for saying so, and do not say so yet."""
    end = end_id(tokenizer)
    if end is None or not placed.ids.shape[1]:
        return np.zeros(len(texts), dtype=np.bool_)
    lacks_end = np.array([ends(text) for text in texts], dtype=np.bool_)
    if room is not None:
        lacks_end &= placed.counts < room
    last = placed.ids[np.arange(len(texts)), np.maximum(placed.counts, 1) - 1]
    return lacks_end & (placed.counts > 0) & (last != end)


def _pad(
    tokenizer: Any,
    placed: Placed,
    *,
    texts: list[str],
    prefix: list[int],
    suffix: list[int],
    room: int | None,
    ended: NDArray[np.bool_],
) -> TokenBatch:
    kept = placed.counts if room is None else np.minimum(placed.counts, room)
    start, body = len(prefix), int(kept.max(initial=0))
    width = start + int((kept + ended).max(initial=0)) + len(suffix)
    stop = start + kept[:, None]
    ids = placed.ids[:, :body]
    if width > body or ended.any():
        ids = np.full((len(texts), width), pad_id(tokenizer), dtype=np.int64)
        ids[:, :start] = prefix
        ids[:, start : start + body] = placed.ids[:, :body]
        ids[np.arange(len(texts))[:, None], stop + np.arange(len(suffix))] = suffix
        rows = np.flatnonzero(ended)
        ids[rows, stop[rows, 0] + len(suffix)] = end_id(tokenizer) or 0
    length = stop + len(suffix) + ended[:, None]
    return TokenBatch(
        torch.from_numpy(ids),
        torch.from_numpy(np.arange(width) < length),
        torch.from_numpy(filled(placed.spans[:, :body], start, width)),
        tuple(texts),
    )
