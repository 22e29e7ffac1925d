"""What a store holds of a model as a teacher: read from disk, never loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from align.errors import InputError
from align.kv import KV
from align.reading import Reading
from align.sizes import Sizes
from align.time_align import Alignment
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.byte_lengths import ByteLengths
from align.tokens.named_head import NONE, NamedHead, NamedTokens
from align.views import (
    ATTENTION,
    FORETOLD,
    HEADS,
    KEYS_VALUES,
    OUTPUTS,
    OWN_LOSS,
    STATES,
    Align,
    Asked,
    ForetoldTokens,
    Output,
    TeacherView,
)
from teacher.output_head import vocabulary_digest
from teacher.store import KVStore, StoreError
from teacher.store.packing import StoredSample


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: caches its table
class StoredTeacher:
    """A store with what is needed to use it; see :class:`align.views.Teacher`."""

    name: str
    store: KVStore | None
    """None of one that is part of a fused one, or that was not extracted."""
    tokenizer: Any
    """The teacher's, for the form ``raw``; None of a fused one."""
    kind: str
    family: str
    sizes: Sizes
    """As stored; ``layers`` counts all of the model's where they are the model's."""
    causal: bool
    learned_positions: bool = False
    reads_at_most: int | None = None
    """Tokens of its own beyond which a text was cut before it was stored."""

    @property
    def predicts(self) -> bool:
        """Whether its store also holds next-token outputs."""
        return self.store is not None and self.store.plan.outputs is not None

    @cached_property
    def vocabulary(self) -> str:
        """See :func:`teacher.output_head.vocabulary_digest`."""
        return "" if self.tokenizer is None else vocabulary_digest(self.tokenizer)

    @property
    def lacks(self) -> Mapping[str, str]:
        """All but keys and values, and outputs and own losses where it has them."""
        lacking = {
            ATTENTION: "stores hold keys and values, no queries, hence no attention",
            HEADS: "stores hold keys and values, no queries, hence no attention",
            **dict.fromkeys(STATES, "stores hold keys and values, no hidden states"),
        }
        if not self.predicts:
            none = "its store holds keys and values alone, extract with store.top_k=64"
            lacking |= {OUTPUTS: none, FORETOLD: none}
        if self.store is not None and not self.store.plan.shape.layers:
            lacking[KEYS_VALUES] = "its store holds outputs alone"
        if self.store is not None and not self.store.plan.fingerprint.get("own_loss"):
            lacking[OWN_LOSS] = "its store holds no losses of its own"
        return lacking

    @property
    def head(self) -> NamedHead:
        """What reads the tokens that its store names.

        Raises:
            InputError: it names none.
        """
        outputs = None if self.store is None else self.store.plan.outputs
        if outputs is None:
            reason = self.lacks[OUTPUTS]
            raise InputError(f"teacher {self.name!r} has no output: {reason}")
        return NamedHead(outputs.vocabulary, outputs.top_k)

    @property
    def held(self) -> KVStore:
        """The store.

        Raises:
            StoreError: the teacher has none of its own.
        """
        if self.store is None:
            raise StoreError(
                f"teacher {self.name!r} was not extracted, because no phase took it "
                "then; run `mtkd extract` with this config"
            )
        return self.store

    def places(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Where layers stand among the stored ones.

        Raises:
            StoreError: one is not stored.
        """
        plan = self.held.plan
        stored = plan.fingerprint.get("layers", list(range(plan.shape.layers)))
        assert isinstance(stored, list)
        missing = [layer for layer in layers if layer not in stored]
        if missing:
            raise StoreError(
                f"{self.held.path} holds the teacher's layers {stored}, but the layer "
                f"map reads {missing}; set align as it was extracted, or extract again"
            )
        return tuple(stored.index(layer) for layer in layers)

    def read(self, student: TokenBatch, align: Align, asked: Asked) -> Reading:
        """What the store knows of the texts; no keys and values are read.

        Raises:
            StoreError: a text is not in the store, or its shard is damaged; the
                tokenizer has changed; a layer is not stored.
        """
        if asked.kv:
            self.places(asked.layers)
        heads = [self._sample(self._index(text), None) for text in student.texts]
        if self.held.plan.form == "raw":
            reading = self._read_raw(student, heads, align)
        else:
            reading = self._read_on_student_tokens(student, heads)
        return replace(
            reading,
            kv=asked.kv,
            foretold=asked.foretold and self.predicts,
            vocabulary=self.vocabulary if asked.output else None,
        )

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """Read what is asked of the texts; ``rows`` are of no use.

        Raises:
            StoreError: a text is not in the store, or its shard is damaged.
        """
        places = self.places(asked.layers) if asked.kv else None
        stored = [self._index(text) for text in reading.student.texts]
        samples = []
        if asked.kv or reading.bits:
            samples = [self._sample(index, places) for index in stored]
        foretold = output = None
        if asked.output or reading.foretold:
            named = self.held.read_named(stored)
            foretold = _foretold(named, reading) if reading.foretold else None
            output = self._output(named, reading) if asked.output else None
        return TeacherView(
            name=self.name,
            kv=(
                padded(samples, reading.mask, self.held.plan.shape.heads)
                if asked.kv
                else None
            ),
            alignment=reading.alignment,
            causal=reading.causal,
            bits_per_char=_bits(samples, reading.mask) if reading.bits else None,
            origin=reading.origin,
            foretold=foretold,
            output=output,
        )

    def _output(self, named: NamedTokens, reading: Reading) -> Output:
        tokens, head = reading.tokens, self.head
        assert tokens is not None  # outputs are stored on a teacher's own tokens
        real = tokens.mask.cpu()
        ids = tokens.ids.cpu().masked_fill(~real, NONE)
        rows = torch.zeros(*ids.shape, head.width)
        rows[real] = named.rows_before(pad(ids[:, 1:], (0, 1), value=NONE)[real])
        return Output(tokens, rows.to(tokens.ids.device), head, self.vocabulary)

    @cached_property
    def byte_lengths(self) -> ByteLengths | None:
        """Its tokenizer's table, read when first asked for; see
        :meth:`align.tokens.byte_lengths.ByteLengths.of`."""
        return ByteLengths.of(self.tokenizer)

    def _read_raw(
        self, student: TokenBatch, heads: Sequence[StoredSample], align: Align
    ) -> Reading:
        tokens = encode_batch(
            self.tokenizer, student.texts, byte_lengths=self.byte_lengths
        )
        tokens = _without_skipped(tokens, heads)
        lengths = tokens.mask.sum(1).tolist()
        for text, sample, length in zip(student.texts, heads, lengths, strict=True):
            if len(sample.origin) != length:
                raise StoreError(
                    f"teacher {self.name!r}: its tokenizer makes {length} tokens of "
                    f"the text {text[:60]!r}, the store {self.held.path} holds "
                    f"{len(sample.origin)}; the tokenizer has changed: extract again"
                )
        return Reading.aligned(
            self.name,
            student,
            tokens,
            align,
            bits=_bits(heads, tokens.mask) is not None,
        )

    def _read_on_student_tokens(
        self, student: TokenBatch, heads: Sequence[StoredSample]
    ) -> Reading:
        origin = torch.zeros(student.ids.shape, dtype=torch.int64)
        for row, sample in enumerate(heads):
            tokens = min(len(sample.origin), origin.shape[1])  # its end may be missing
            origin[row, :tokens] = sample.origin[:tokens]
        origin = origin.to(student.ids.device)
        alignment = same_tokens(origin > 0)
        return Reading(
            name=self.name,
            student=student,
            tokens=None,
            alignment=alignment,
            causal=alignment if self.causal else None,
            mask=student.mask,
            origin=origin - 1,
            bits=_bits(heads, student.mask) is not None,
        )

    def _sample(self, index: int, places: Sequence[int] | None) -> StoredSample:
        """One text as stored; with None keys and values stay where they are."""
        if places is None:
            return self.held.read_sample(index, (), ())
        return self.held.read_sample(index, places)

    def _index(self, text: str) -> int:
        index = self.held.find(text)
        if index is None:
            raise StoreError(
                f"{self.held.path} does not hold the text {text[:60]!r}: the run reads "
                "other text than was extracted (data, run.seed and the student's "
                "tokenizer decide); run `mtkd extract` with this config"
            )
        return index


def _foretold(named: NamedTokens, reading: Reading) -> ForetoldTokens:
    tokens = reading.tokens
    assert tokens is not None
    came = torch.zeros(tokens.ids.shape)
    came[tokens.mask.cpu()] = named.came  # each beside the token before it
    log_probs = came.roll(1, 1)
    log_probs[:, :1] = 0  # nobody foretold the first
    return ForetoldTokens(tokens, log_probs.to(tokens.ids.device))


def padded(samples: Sequence[StoredSample], mask: Tensor, heads: int) -> KV:
    """One batch of samples.

    Args:
        samples: B samples of up to T tokens.
        mask: (B, T) bool on the device the KV shall be on.
        heads: H.
    """
    first = samples[0]
    layers = first.k.shape[0]
    k = first.k.new_zeros(layers, *mask.shape, first.k.shape[-1])
    v = first.v.new_zeros(layers, *mask.shape, first.v.shape[-1])
    for row, sample in enumerate(samples):
        tokens = min(sample.k.shape[1], mask.shape[1])
        k[:, row, :tokens] = sample.k[:, :tokens]
        v[:, row, :tokens] = sample.v[:, :tokens]
    return KV.from_flat(k.to(mask.device), v.to(mask.device), mask, heads)


def same_tokens(covered: Tensor) -> Alignment:
    """The alignment of KV that are on the student's tokens already.

    Args:
        covered: (B, T) bool, tokens that have KV.
    """
    batch, tokens = covered.shape
    rows = covered.flatten().nonzero()[:, 0]
    weights = torch.ones(len(rows), device=rows.device)
    return Alignment(rows, rows, weights, (batch, tokens, tokens))


def _without_skipped(tokens: TokenBatch, heads: Sequence[StoredSample]) -> TokenBatch:
    """Give texts that were skipped no tokens, so that nothing is aligned to them."""
    kept = torch.tensor([len(sample.origin) > 0 for sample in heads])
    mask = tokens.mask & kept[:, None]
    return replace(tokens, mask=mask, spans=tokens.spans * mask[..., None])


def _bits(samples: Sequence[StoredSample], mask: Tensor) -> Tensor | None:
    """(B,) bits per character on the mask's device; None where none is stored."""
    bits = torch.tensor([sample.bits_per_char for sample in samples])
    return None if bool(bits.isnan().all()) else bits.to(mask.device)
