"""A model seen from inside, its conclusions, and a teacher ready to meet the student.

These types travel between whoever runs a model and whoever learns from it, so they
lie beneath both. A next-token output is kept as what the last layer hands to its head:
logits over a vocabulary of 150,000 are the largest tensors of a training step; the
hidden states and the head they come from are a hundred times smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from align.errors import InputError, MtkdError
from align.kv import KV
from align.reading import Reading
from align.sizes import Sizes
from align.time_align import Alignment
from align.tokens.batch import TokenBatch
from align.tokens.named_head import NamedHead

KEYS_VALUES = "keys and values"
"""Keys and values, as something that terms need and teachers give."""
ATTENTION = "attention"
"""Attention at sampled rows, as such."""
HEADS = "heads"
"""Attention at sampled rows head by head, as such."""
HIDDEN = "hidden"
"""Hidden states after every layer as the model gives them, as such."""
RESIDUAL = "residual"
"""Those before the norm that reads them, or that made them, as such."""
NORMED = "normed"
"""Those after that norm, as such."""
EMBEDDINGS = "embeddings"
"""What the table of input embeddings gives for every token, as such."""
STATES = frozenset({HIDDEN, RESIDUAL, NORMED, EMBEDDINGS})
"""What a model holds between its layers."""
OUTPUTS = "outputs"
"""Next-token outputs, as such."""
OWN_LOSS = "own_loss"
"""A teacher's own next-token loss, from which routers learn, as such."""


FORETOLD = "foretold"
"""How likely a teacher found each token of its own, as such."""


@dataclass(frozen=True, slots=True, eq=False)
class Injection:
    """Keys and values that some layers read in place of their own."""

    kv: KV
    """Content keys and values in the reader's own heads and sizes, one layer for
    each of ``layers``."""
    layers: Sequence[int]
    """The reader's layers, in the order of ``kv``."""
    mask: Tensor
    """(B, T) bool: tokens at which the injected KV are read."""
    gate: Tensor
    """(len(layers),) float in [0, 1]: 0 keeps the reader's own KV, 1 replaces them."""


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One forward pass, seen from inside."""

    kv: KV
    """Content keys and values of the layers asked for."""
    logits: Tensor | None = None
    """(B, T, V) float, next-token logits; None unless asked for."""
    hidden: Tensor | None = None
    """(B, T, C) float, last hidden state; None unless asked for."""
    attention: Tensor | None = None
    """(L, B, R, T) float32, attention probabilities of the sampled query rows,
    averaged over heads; None unless asked for."""
    _: KW_ONLY
    attention_heads: Tensor | None = None
    """(L, H_q, B, R, T) float32, the same of every query head; None unless asked
    for."""
    states: Mapping[str, Tensor] = field(default_factory=dict)
    """Those of ``STATES`` that were asked for. ``hidden``: (L, B, T, C) float, the
    residual stream after each of the layers asked for, as the model itself gives it:
    after the last layer with the final norm, where there is one. ``residual`` and
    ``normed``: the same before and after the norm that stands there. ``embeddings``:
    (1, B, T, C')."""


class Capture(Protocol):
    """A model that can be run and seen from inside."""

    @property
    def num_layers(self) -> int:
        """Layers of keys and values."""

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads, not repeated for grouped queries."""

    @property
    def query_heads(self) -> int:
        """Heads that attend."""

    @property
    def k_dim(self) -> int:
        """Head size of keys."""

    @property
    def v_dim(self) -> int:
        """Head size of values."""

    @property
    def hidden_size(self) -> int:
        """Width of the hidden state."""

    @property
    def embedding_size(self) -> int:
        """Width of the input embeddings."""

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        layers: Sequence[int] | None = None,
        logits: bool = False,
        hidden: bool = False,
        inject: Injection | None = None,
        attention_rows: Tensor | None = None,
        heads: bool = False,
        states: Collection[str] = (),
    ) -> Captured:
        """Run the model on (B, T) ids under a (B, T) bool mask.

        ``layers`` are those whose KV are kept (None: all); ``attention_rows`` is
        (B, R) int64, the query positions whose attention is kept, with ``heads`` that
        of every head, too; ``states`` are of ``STATES``, after each of ``layers``.
        """

    def joined_maps(self) -> Mapping[int, tuple[Tensor, ...]]:
        """Which trainable layers make queries, keys and values in one.

        By ``id`` of the layer's weight, the outputs of each map, (rows,) int64.
        """


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """The last matrix of a language model: logits = hidden @ weight.T + bias."""

    weight: Tensor
    """(V, C) float, the model's own parameter."""
    bias: Tensor | None = None
    """(V,) float, or None."""

    @property
    def size(self) -> int:
        """V, rows that were added to round it up included."""
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """C, of the hidden states that it is given."""
        return self.weight.shape[1]

    def first(self, size: int) -> LinearHead:
        """The first rows, where another head of the vocabulary is rounded up less."""
        bias = None if self.bias is None else self.bias[:size]
        return LinearHead(self.weight[:size], bias)


Head = LinearHead | NamedHead
"""What makes a model's logits of what is kept of its last layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """What one model says about the next token, after every token of a batch."""

    tokens: TokenBatch
    """The model's own tokens, (B, T)."""
    hidden: Tensor
    """(B, T, C) float, what the head is given: position t predicts token t + 1."""
    head: Head
    """The head; a teacher's stands still."""
    vocabulary: str
    """A digest of the tokens and their ids: equal digests mean that token i is the
    same string, whatever the head's size."""

    @property
    def matrix(self) -> LinearHead:
        """The head as a matrix.

        Raises:
            InputError: likeliest tokens alone were kept.
        """
        if isinstance(self.head, LinearHead):
            return self.head
        raise InputError(
            f"likeliest tokens alone were kept of this model's output, "
            f"{self.head.top_k} a place, and this reads its hidden states and its "
            "head; ask the teacher live"
        )


@dataclass(frozen=True, slots=True, eq=False)
class ForetoldTokens:
    """How likely one model found the tokens that came."""

    tokens: TokenBatch
    """The model's own tokens, (B, T)."""
    log_probs: Tensor
    """(B, T) float32, nats, of each token after those before it; 0 for the first and
    on padding."""


class NonFiniteTeacherError(MtkdError, RuntimeError):
    """A teacher's keys or values are NaN or infinite."""

    def __init__(self, teacher: str, message: str) -> None:
        """Say whose, and what to do."""
        super().__init__(message)
        self.teacher = teacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TeacherView:
    """What one teacher says of a batch, with the map onto the student's tokens.

    Live and stored teachers look the same from here on. What nobody asked for, or what
    a teacher does not have, is None.
    """

    name: str
    """The teacher's name in the config."""
    kv: KV | None
    """The layers the layer map needs, over the teacher's own tokens; None where no
    loss meets it in keys and values."""
    alignment: Alignment
    """Onto the student's tokens, for losses."""
    causal: Alignment | None
    """Onto the student's tokens without any future, for injection; None for a
    bidirectional teacher, which is never injected."""
    attention: Tensor | None = None
    """(L, B, R, T_s) float32: attention at the sampled student positions, already
    carried onto the student's tokens, rows summing to 1 or 0."""
    attention_heads: Tensor | None = None
    """(L, H_q, B, R, T_s) float32: the same of every query head."""
    bits_per_char: Tensor | None = None
    """(B,) float32: the teacher's own next-token loss; None where it has none."""
    origin: Tensor | None = None
    """(B, T_s) int64: the first of the teacher's tokens that feeds each student token,
    -1 for none; where ``kv`` is on the student's tokens already and the alignment
    cannot tell. None reads it off the alignment."""
    foretold: ForetoldTokens | None = None
    """How likely it found its own tokens; None where no router needs it."""
    output: Output | None = None
    """The teacher's own tokens and what its head is given for them; None where no
    objective compares its next-token distributions."""
    states: Mapping[str, Tensor] = field(default_factory=dict)
    """(L, B, T_t, C) float, of ``STATES`` those that an objective compares: after the
    layers that the layer map needs, over the teacher's own tokens."""

    @property
    def met(self) -> KV:
        """``kv``, for whoever is given only views that have them."""
        assert self.kv is not None, f"teacher {self.name!r} was not asked for them"
        return self.kv


def with_kv(views: Sequence[TeacherView]) -> list[TeacherView]:
    """The teachers that a bridge meets, in order."""
    return [view for view in views if view.kv is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What one phase asks of one teacher about every batch."""

    layers: tuple[int, ...]
    """Those whose keys and values, or attention, come, as a layer map's ``needed``."""
    kv: bool = True
    """Keys and values; without them nothing of them is captured or read."""
    attention: bool = False
    """Also attention at the sampled rows."""
    heads: bool = False
    """Also that of every head."""
    states: frozenset[str] = frozenset()
    """Also these of ``STATES``, after these layers."""
    own_loss: bool = False
    """Also bits per character, of teachers that have a next-token loss."""
    foretold: bool = False
    """Also how likely each token was, of teachers that predict."""
    output: bool = False
    """Also the next-token output; of teachers that predict alone."""
    autocast: torch.dtype | None = None
    """Of the matrix products, where there are any; None for the teacher's own."""


class ModelFacts(Protocol):
    """What is known of a teacher before it is asked, or is at hand at all."""

    @property
    def kind(self) -> str:
        """decoder, encoder or encoder-decoder."""

    @property
    def family(self) -> str:
        """The architecture, as transformers' ``model_type``: gpt2, llama, bert."""

    @property
    def sizes(self) -> Sizes:
        """Of its keys and values, as they come."""

    @property
    def causal(self) -> bool:
        """Whether a token's keys and values have read no later token."""

    @property
    def predicts(self) -> bool:
        """Whether it gives next-token outputs."""

    @property
    def learned_positions(self) -> bool:
        """Whether a table of positions is in its keys and values."""


Align = Callable[[TokenBatch], tuple[Alignment, Alignment | None]]
"""From a teacher's own tokens to its alignments, for losses and for injection; None
for a bidirectional teacher, which is never injected."""


class Teacher(ModelFacts, Protocol):
    """One teacher of a run: a model that runs, or what a store holds of one.

    Nobody who asks needs to know which it is.
    """

    @property
    def name(self) -> str:
        """Its name in the config."""

    @property
    def tokenizer(self) -> Any:
        """A fast tokenizer; None of what reads the student's tokens alone."""

    @property
    def vocabulary(self) -> str:
        """A digest of its tokens and their ids."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """What it cannot give, of ``KEYS_VALUES``, ``ATTENTION``, ``HEADS``,
        ``STATES``, ``OUTPUTS``, ``OWN_LOSS`` and ``FORETOLD``, each with the reason."""

    @property
    def head(self) -> Head:
        """Its language-model head, or what reads the tokens that were kept.

        Raises:
            InputError: it has none, or none that is a matrix.
        """

    def read(self, student: TokenBatch, align: Align, asked: Asked) -> Reading:
        """What is known of the student's texts before the teacher is asked.

        Args:
            student: the student's tokens, (B, T_s).
            align: aligns the teacher's own tokens.
            asked: what the phase asks.

        Raises:
            MtkdError: a text cannot be read.
        """

    def ask(self, reading: Reading, rows: Tensor | None, asked: Asked) -> TeacherView:
        """What it says about the texts that it has read.

        Args:
            reading: from :meth:`read`.
            rows: (B, R) int64 student positions whose attention is compared.
            asked: what the phase asks.

        Raises:
            NonFiniteTeacherError: its keys and values are not finite.
            MtkdError: a text cannot be read.
        """
