"""A model behind an inference server as a teacher: next-token outputs, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from align.errors import InputError
from align.reading import Reading
from align.sizes import Sizes
from align.tokens.batch import TokenBatch, encode_batch
from align.tokens.byte_lengths import ByteLengths
from align.tokens.named_head import NamedHead, NamedTokens
from align.views import (
    ATTENTION,
    HEADS,
    KEYS_VALUES,
    OWN_LOSS,
    STATES,
    Align,
    Asked,
    ForetoldTokens,
    Output,
    TeacherView,
)
from teacher.output_head import vocabulary_digest
from teacher.served.client import Client
from teacher.served.kept import KeptAnswers

PROBE = "The year 1984, said Anna, was (almost) over: 12 of 13 were gone."
"""A text on which a server's tokenizer is compared with the one that is expected."""


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: caches its table
class ServedTeacher:
    """A server's model; see :class:`align.views.Teacher`."""

    name: str
    client: Client | None
    """None offline: then kept answers are all there is."""
    kept: KeptAnswers
    tokenizer: Any
    """The one that the server's model is expected to have."""
    size: int
    """V, rows of the model's head."""
    top_k: int
    family: str
    kind: str = "decoder"
    causal: bool = True
    predicts: bool = True
    learned_positions: bool = False

    @property
    def sizes(self) -> Sizes:
        """Nothing is seen of its inside."""
        return Sizes(layers=0, heads=1, k_dim=1, v_dim=1, hidden_size=0)

    @cached_property
    def vocabulary(self) -> str:
        """See :func:`teacher.output_head.vocabulary_digest`."""
        return vocabulary_digest(self.tokenizer)

    @property
    def lacks(self) -> Mapping[str, str]:
        """All but next-token outputs."""
        inside = (
            "it is asked over HTTP, which shows outputs alone; learn from it by "
            "output.likelihood or output.projected_kl, or by output.kd where its "
            "vocabulary is the student's, and by keys and values from teachers beside "
            "it"
        )
        lacking = KEYS_VALUES, ATTENTION, HEADS, OWN_LOSS, *sorted(STATES)
        return dict.fromkeys(lacking, inside)

    @property
    def head(self) -> NamedHead:
        """What reads the tokens that the server names."""
        return NamedHead(self.size, self.top_k)

    def check(self) -> None:
        """Compare server and expectation.

        Raises:
            InputError: another model, or another tokenizer.
            ServerGoneError: no answer.
        """
        if self.client is None:
            return
        served, url = self.client.models(), self.client.url
        if self.client.model not in served:
            raise InputError(
                f"{url} serves {', '.join(served) or 'no model'}, not "
                f"{self.client.model!r}; name one of these in options.served_as"
            )
        ids = self._encode([PROBE]).ids[0].tolist()
        for token, spelled in zip(ids[1:], self.client.decoded(ids), strict=True):
            expected = self.tokenizer.decode([token])
            if spelled is not None and spelled.strip() != expected.strip():
                raise InputError(
                    f"{url} spells token {token} {spelled!r}, the tokenizer of "
                    f"{self.tokenizer.name_or_path} {expected!r}; give the served "
                    "model's own tokenizer in options.tokenizer"
                )

    def read(self, student: TokenBatch, align: Align, asked: Asked) -> Reading:
        """Tokenise and align the student's texts; nothing is asked yet."""
        return Reading.aligned(
            self.name,
            student,
            self._encode(student.texts),
            align,
            kv=False,
            foretold=asked.foretold,
            vocabulary=self.vocabulary if asked.output else None,
        )

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """Ask the server about texts of which nothing is kept; ``rows`` are of no use.

        Raises:
            ServerGoneError: no answer within the budget of time.
            InputError: offline, and a text was never asked; or the server refuses.
        """
        tokens = reading.tokens
        assert tokens is not None
        output = foretold = None
        if asked.output or reading.foretold:
            every = self._answers(tokens)
            home = tokens.ids.device
            if asked.output:
                head = self.head
                laid = torch.zeros(*tokens.ids.shape, head.width)
                for row, (named, ids) in enumerate(zip(every, tokens.ids, strict=True)):
                    length = len(named.came)
                    laid[row, :length] = named.rows(ids[:length].cpu())
                output = Output(tokens, laid.to(home), head, self.vocabulary)
            if reading.foretold:
                width = tokens.ids.shape[1]
                came = [pad(n.came[:-1], (1, width - len(n.came))) for n in every]
                foretold = ForetoldTokens(tokens, torch.stack(came).to(home))
        return TeacherView(
            name=self.name,
            kv=None,
            alignment=reading.alignment,
            causal=reading.causal,
            foretold=foretold,
            output=output,
        )

    def _answers(self, tokens: TokenBatch) -> list[NamedTokens]:
        lengths = tokens.mask.sum(1).tolist()
        texts = [
            ids[:length].tolist()
            for ids, length in zip(tokens.ids, lengths, strict=True)
        ]
        if self.client is not None:
            return self.client.each(self._answer, texts)
        return [self._answer(text) for text in texts]

    def _answer(self, ids: Sequence[int]) -> NamedTokens:
        """Of one text; kept as soon as it is known."""
        named = self.kept.get(ids)
        if named is None:
            if self.client is None:
                raise InputError(
                    f"teacher {self.name!r} is asked offline, and "
                    f"{self.kept.folder} has no answer to the text "
                    f"{self.tokenizer.decode(ids)[:60]!r}; run once with "
                    "options.offline=false"
                )
            named = self.client.ask(ids)
            self.kept.put(ids, named)
        return named

    @cached_property
    def byte_lengths(self) -> ByteLengths | None:
        """Its tokenizer's table, read when first asked for; see
        :meth:`align.tokens.byte_lengths.ByteLengths.of`."""
        return ByteLengths.of(self.tokenizer)

    def _encode(self, texts: Sequence[str]) -> TokenBatch:
        return encode_batch(self.tokenizer, texts, byte_lengths=self.byte_lengths)
