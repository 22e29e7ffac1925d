"""A frozen model as a teacher: it reads the texts while the student learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from align.errors import InputError
from align.kv import KV
from align.reading import Reading
from align.rope_scale import Rescale
from align.sizes import Sizes
from align.support.stopwatch import part
from align.text.prompted import read_by_teachers
from align.time_align import Alignment
from align.tokenizer_align import encode_batch
from align.tokens.batch import TokenBatch
from align.tokens.byte_lengths import ByteLengths
from align.tokens.pairs import encode_pairs
from align.views import (
    FORETOLD,
    OUTPUTS,
    Align,
    Asked,
    Captured,
    ForetoldTokens,
    LinearHead,
    NonFiniteTeacherError,
    Output,
    TeacherView,
)
from teacher.capture.kv_capture import KVCapture
from teacher.capture.pair_capture import (
    LACKED_BESIDE_PAIRS,
    LACKED_BY_ONE,
    LACKED_BY_PAIRS,
)
from teacher.loading.longer_texts import extend_context
from teacher.loading.models import LoadedModel
from teacher.making.base import Sample
from teacher.making.worth import layer_importance
from teacher.output_head import linear_head, vocabulary_digest
from teacher.own_loss import bits_per_char, next_token_nll

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLED, _TOGETHER = 128, 8
"""Tokens of a text, and texts of a batch, by which layers are judged."""


@dataclass(frozen=True, eq=False)  # without slots: some facts are found when asked for
class LiveTeacher:
    """A model that is asked; see :class:`align.views.Teacher`.

    It runs without gradient and stops after its last needed layer unless its own loss
    is asked for.
    """

    name: str
    loaded: LoadedModel
    """The model with its tokenizer."""
    capture: KVCapture
    """Of that model."""
    beside_pairs: bool = field(default=False, kw_only=True)
    """Whether the student is an encoder-decoder."""
    held: Mapping[str, int] | None = field(default=None, kw_only=True)
    """Its ``weight_types`` as it was loaded, where a processor may have it calculate in
    others: a run goes on with the same teacher there; None: as they are."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's."""
        return self.loaded.tokenizer

    @cached_property
    def vocabulary(self) -> str:
        """See :func:`teacher.output_head.vocabulary_digest`."""
        return vocabulary_digest(self.tokenizer)

    @property
    def kind(self) -> str:
        """decoder, encoder or encoder-decoder."""
        return self.loaded.kind

    @property
    def family(self) -> str:
        """The architecture, as transformers' ``model_type``."""
        return str(self.loaded.model.config.model_type)

    @property
    def sizes(self) -> Sizes:
        """Of the captured layers."""
        return self.capture.sizes

    @property
    def causal(self) -> bool:
        """Whether a token's keys and values have read no later token."""
        return self.capture.causal

    @property
    def predicts(self) -> bool:
        """Whether it says anything about the next token."""
        return self.capture.predicts

    @property
    def learned_positions(self) -> bool:
        """Whether it has a table of positions and does not read in windows; of sources
        and targets both begin at its first, so that a row's place says neither."""
        return self.capture.max_tokens is not None and self.capture.start is None

    @cached_property
    def lacks(self) -> Mapping[str, str]:
        """A reason where it predicts nothing, or is not as the student is made; it
        gives all else."""
        if self.capture.start is not None:
            return {**LACKED_BY_PAIRS, **({} if self.beside_pairs else LACKED_BY_ONE)}
        lacks = LACKED_BESIDE_PAIRS if self.beside_pairs else {}
        if self.predicts:
            return lacks
        if self.kind == "encoder-decoder":
            why = "its decoder would be given the whole text by its encoder"
        elif not self.causal:
            why = "it is bidirectional and has read what it would predict"
        else:
            why = "it was loaded without a language-model head"
        return {**lacks, OUTPUTS: why, FORETOLD: why}

    @cached_property
    def head(self) -> LinearHead:
        """See :func:`teacher.output_head.linear_head`."""
        return linear_head(self.capture)

    @cached_property
    def byte_lengths(self) -> ByteLengths | None:
        """Its tokenizer's table, read when first asked for; see
        :meth:`align.tokens.byte_lengths.ByteLengths.of`."""
        return ByteLengths.of(self.tokenizer)

    def layer_importance(self, texts: Sequence[str]) -> Tensor:
        """(L,) float64 >= 0, by how much its own next-token loss would move without
        each of the captured layers; see :func:`teacher.making.worth.layer_importance`.

        Args:
            texts: what it is measured on, the first tokens of each.

        Raises:
            InputError: it predicts nothing, or has no plain stack of layers.
        """
        if not self.predicts:
            raise InputError(
                f"teacher {self.name!r} has no next-token loss: {self.lacks[OUTPUTS]}; "
                f"write its layers into align.layer_map.{self.name}"
            )
        longest = min(_SAMPLED, self.capture.max_tokens or _SAMPLED)
        parts = [texts[at : at + _TOGETHER] for at in range(0, len(texts), _TOGETHER)]
        encoded = [encode_batch(self.tokenizer, part, longest) for part in parts]
        batches = [batch.to(self.capture.device) for batch in encoded]
        sample = Sample(tuple((batch.ids, batch.mask) for batch in batches))
        return self.judged(sample)[list(self.capture.layer_numbers)]

    def judged(self, sample: Sample) -> Tensor:
        """The importance of every layer of the model on a sample, captured or not."""
        importance = layer_importance(self.loaded.model, sample)
        self.loaded.model.zero_grad(set_to_none=True)
        return importance

    def read(self, student: TokenBatch, align: Align, asked: Asked) -> Reading:
        """Tokenise and align the student's texts, or the sources that stand beside
        them; the model does not run."""
        start, table = self.capture.start, self.byte_lengths
        tokens = (
            encode_batch(
                self.tokenizer, read_by_teachers(student.texts), byte_lengths=table
            )
            if start is None
            else encode_pairs(self.tokenizer, student.texts, start, byte_lengths=table)
        )
        return Reading.aligned(
            self.name,
            student,
            tokens,
            align,
            kv=asked.kv,
            attention=asked.attention or asked.heads,
            heads=asked.heads,
            states=asked.states,
            bits=asked.own_loss and self.predicts,
            foretold=asked.foretold and self.predicts,
            vocabulary=self.vocabulary if asked.output else None,
        )

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """Run the model on the texts, unless nothing of it is asked.

        Raises:
            NonFiniteTeacherError: what it gives is not finite.
            InputError: a text is longer than the model's positions.
        """
        capture, student = self.capture, reading.student
        assert reading.tokens is not None
        tokens = reading.tokens.to(capture.device)
        queries = own_rows = None
        if reading.attention and rows is not None:
            queries = reading.readable.gather(1, rows)
            own_rows = queries.clamp_min(0)
        wants_logits = reading.bits or reading.foretold
        if not (asked.layers or wants_logits or asked.output or asked.states):
            return TeacherView(
                name=self.name,
                kv=None,
                alignment=reading.alignment,
                causal=reading.causal,
            )
        device, on = capture.device.type, asked.autocast is not None
        try:
            with torch.autocast(device, dtype=asked.autocast, enabled=on):
                captured, nll = self.look(
                    tokens, asked, own_rows, heads=reading.heads, nll=wants_logits
                )
        except InputError as error:
            raise InputError(f"teacher {self.name!r}: {error}") from error
        if asked.kv:
            _check_finite(self.name, captured.kv, student.texts)
        elif captured.hidden is not None:
            _check_hidden(self.name, captured.hidden, tokens.mask, student.texts)
        for states in captured.states.values():
            _check_hidden(self.name, states.sum(0), tokens.mask, student.texts)
        home = student.ids.device
        attention = heads = bits = foretold = output = None
        if captured.attention is not None and rows is not None and queries is not None:
            with part("align"):
                attention = carry_attention(
                    captured.attention.to(home), reading.alignment, rows, queries >= 0
                )
                if captured.attention_heads is not None:
                    every = captured.attention_heads.to(home)
                    heads = carry_attention(
                        every.flatten(0, 1), reading.alignment, rows, queries >= 0
                    ).unflatten(0, every.shape[:2])
        if nll is not None and reading.bits:
            bits = bits_per_char(nll, tokens).to(home)
        if nll is not None and reading.foretold:
            foretold = ForetoldTokens(reading.tokens, -nll.to(home))
        if captured.hidden is not None:
            # In the dtype in which the head would be applied.
            wide = asked.autocast or captured.hidden.dtype
            hidden = captured.hidden.to(home, wide)
            output = Output(reading.tokens, hidden, self.head, self.vocabulary)
        return TeacherView(
            name=self.name,
            kv=captured.kv.to(home) if asked.kv else None,
            alignment=reading.alignment,
            causal=reading.causal,
            attention=attention,
            attention_heads=heads,
            bits_per_char=bits,
            foretold=foretold,
            output=output,
            states={kind: x.to(home) for kind, x in captured.states.items()},
        )

    def look(
        self,
        tokens: TokenBatch,
        asked: Asked,
        rows: Tensor | None,
        *,
        heads: bool,
        nll: bool,
    ) -> tuple[Captured, Tensor | None]:
        """Run the model on texts.

        Args:
            tokens: the teacher's own, (B, T_t), on its device.
            asked: what the phase asks.
            rows: (B, R) int64 of them, whose attention comes; None for none.
            heads: also that of every head.
            nll: whether its own next-token losses come.

        Returns:
            What was seen, and (B, T_t) float32, see
            :func:`teacher.own_loss.next_token_nll`.
        """
        captured = self.capture(
            tokens.ids,
            tokens.mask,
            layers=asked.layers,
            logits=nll,
            hidden=asked.output,
            attention_rows=rows,
            heads=heads,
            states=asked.states,
        )
        if captured.logits is None:
            return captured, None
        return captured, next_token_nll(captured.logits, tokens.ids, tokens.mask)

    def extend(self, tokens: int, scaler: Rescale, linear: bool) -> bool:
        """Let it read longer texts, see
        :func:`teacher.loading.longer_texts.extend_context`."""
        return extend_context(self.capture.model, tokens, scaler, linear)

    @property
    def weight_types(self) -> Mapping[str, int]:
        """How many of the model's weights are of each type, as torch calls them."""
        return counted_types(self.loaded.model) if self.held is None else self.held


def counted_types(model: nn.Module) -> dict[str, int]:
    """How many of a model's weights are of each type, as torch calls them."""
    sizes: dict[str, int] = {}
    for parameter in model.parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        sizes[dtype] = sizes.get(dtype, 0) + parameter.numel()
    return sizes


def carry_attention(
    attention: Tensor, alignment: Alignment, rows: Tensor, known: Tensor
) -> Tensor:
    """Turn attention over a teacher's tokens into attention over the student's.

    Every teacher token's mass is shared out among the student tokens it holds
    characters of. Mass on special tokens, and on student tokens after the query,
    falls away; what is left is scaled to 1.

    Args:
        attention: (L, B, R, T_t) float32 probabilities.
        alignment: teacher -> student.
        rows: (B, R) int64, the query's student position.
        known: (B, R) bool, False where no teacher token stands for the query.

    Returns:
        (L, B, R, T_s) float32, rows summing to 1, or to 0 where nothing was left.
    """
    tokens = torch.arange(alignment.shape[1], device=attention.device)
    past = tokens[:, None] <= rows[:, None]  # (B, T_s, R)
    mass = alignment.spread_mass().apply(attention.transpose(2, 3))
    mass *= past & known[:, None]
    total = mass.sum(2, keepdim=True)
    mass *= torch.where(total > 1e-3, 1 / total, 0.0)
    return mass.transpose(2, 3).contiguous()


def _check_finite(name: str, kv: KV, texts: Sequence[str]) -> None:
    good = torch.isfinite(kv.k.sum()) & torch.isfinite(kv.v.sum())
    if bool(good):
        return
    finite = torch.isfinite(kv.k).all(-1) & torch.isfinite(kv.v).all(-1)
    bad_texts = (~finite & kv.mask[None, :, None]).any((0, 2, 3))  # (B,)
    if not bool(bad_texts.any()):
        return  # a sum that overflowed, or padding
    layer = int((~finite).any(1).any(1).any(1).nonzero()[0])
    first = int(bad_texts.nonzero()[0])
    what = f"keys or values that are not finite, first in kept layer {layer}"
    raise _not_finite(name, what, texts[first])


def _check_hidden(
    name: str, hidden: Tensor, mask: Tensor, texts: Sequence[str]
) -> None:
    bad_texts = (~torch.isfinite(hidden).all(-1) & mask).any(1)  # (B,)
    if bool(bad_texts.any()):
        first = int(bad_texts.nonzero()[0])
        what = "last hidden states that are not finite, first"
        raise _not_finite(name, what, texts[first])


def _not_finite(name: str, what: str, text: str) -> NonFiniteTeacherError:
    return NonFiniteTeacherError(
        name,
        f"teacher {name!r} gives {what} on the text {text[:60]!r}; load it in a wider "
        f"dtype (teachers.{name}.dtype=float32), check its weights, or leave it out. "
        "What the earlier phases wrote is intact",
    )
