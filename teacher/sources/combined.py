"""Several models of one vocabulary as one teacher: their logits, weighed and added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.reading import Reading
from align.sizes import Sizes
from align.tokens.batch import TokenBatch
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
    LinearHead,
    Output,
    TeacherView,
)
from teacher.live_teacher import LiveTeacher
from teacher.own_loss import next_token_nll

GIVES = frozenset({OUTPUTS, FORETOLD})
"""What models of different bases can give together."""


@dataclass(frozen=True, kw_only=True, eq=False)  # without slots: caches its head
class CombinedTeacher:
    """A weighted sum of its members' logits; see :class:`align.views.Teacher`.

    What the members' heads are given lies side by side, and their matrices, each times
    its weight, below one another: so the sum is again a matrix times what it is given,
    and every term on outputs takes it. With weights that add up to 1 it is the
    geometric mean of the members' distributions, renormalised.
    """

    name: str
    members: Sequence[LiveTeacher]
    """One or more, of one vocabulary; the first one's tokenizer reads."""
    weights: Sequence[float]
    """Of each one's logits."""

    def __post_init__(self) -> None:
        """See that token i is the same string to all.

        Raises:
            InputError: it is not.
        """
        first, *others = self.members
        for member in others:
            if member.vocabulary != first.vocabulary:
                raise InputError(
                    f"teacher {self.name!r} adds up logits of {first.family} and "
                    f"{member.family}, whose vocabularies differ; take a model of the "
                    "student's vocabulary, such as `mtkd adapt` makes"
                )

    @property
    def _first(self) -> LiveTeacher:
        return self.members[0]

    @property
    def tokenizer(self) -> Any:
        """That of all."""
        return self._first.tokenizer

    @property
    def vocabulary(self) -> str:
        """See :func:`teacher.output_head.vocabulary_digest`."""
        return self._first.vocabulary

    @property
    def kind(self) -> str:
        """As its members'."""
        return self._first.kind

    @property
    def family(self) -> str:
        """As the first one's."""
        return self._first.family

    @property
    def causal(self) -> bool:
        """As its members are."""
        return all(member.causal for member in self.members)

    @property
    def predicts(self) -> bool:
        """Whether all say something about the next token."""
        return all(member.predicts for member in self.members)

    @property
    def learned_positions(self) -> bool:
        """Of no matter: it brings no keys."""
        return False

    @property
    def sizes(self) -> Sizes:
        """No layer is anybody's alone."""
        parameters = sum(member.sizes.parameters for member in self.members)
        return Sizes(
            layers=0, heads=1, k_dim=1, v_dim=1, hidden_size=0, parameters=parameters
        )

    @cached_property
    def lacks(self) -> Mapping[str, str]:
        """All but next-token outputs."""
        inside = (
            "it is several models, whose layers have bases of their own; learn from "
            "its outputs, or name each of them as a teacher"
        )
        return dict.fromkeys(
            (KEYS_VALUES, ATTENTION, HEADS, OWN_LOSS, *sorted(STATES)), inside
        )

    @cached_property
    def head(self) -> LinearHead:
        """Of all members' hidden states side by side."""
        every = [member.head for member in self.members]
        size = min(head.size for head in every)
        heads = [head.first(size) for head in every]
        scaled = list(zip(heads, self.weights, strict=True))
        weight = torch.cat([head.weight * share for head, share in scaled], 1)
        biases = [h.bias * share for h, share in scaled if h.bias is not None]
        return LinearHead(weight, torch.stack(biases).sum(0) if biases else None)

    def read(self, student: TokenBatch, align: Align, asked: Asked) -> Reading:
        """Tokenise and align the student's texts; no model runs."""
        return self._first.read(student, align, _outputs_alone(asked))

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """Run every member.

        Raises:
            NonFiniteTeacherError: what one gives is not finite.
            InputError: a text is longer than a member's positions.
        """
        wanted = replace(_outputs_alone(asked), output=True, foretold=False)
        plain = replace(reading, foretold=False)
        views = [member.ask(plain, None, wanted) for member in self.members]
        outputs = [view.output for view in views if view.output is not None]
        hidden = torch.cat([output.hidden for output in outputs], -1)
        output = Output(outputs[0].tokens, hidden, self.head, self.vocabulary)
        foretold = None
        if reading.foretold:
            tokens = output.tokens
            head = self.head
            bias = 0 if head.bias is None else head.bias.float()
            logits = hidden.float() @ head.weight.float().T + bias
            nll = next_token_nll(logits, tokens.ids, tokens.mask)
            foretold = ForetoldTokens(tokens, -nll)
        return TeacherView(
            name=self.name,
            kv=None,
            alignment=reading.alignment,
            causal=reading.causal,
            foretold=foretold,
            output=output if asked.output else None,
        )


def _outputs_alone(asked: Asked) -> Asked:
    return replace(
        asked,
        layers=(),
        kv=False,
        attention=False,
        heads=False,
        states=frozenset(),
        own_loss=False,
    )
