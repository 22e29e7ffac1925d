"""Settings of one teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from align.errors import InputError
from align.support.field_types import NotNegative, check_fields
from teacher.names import at_revision, check_length

Quantisation = Literal["none", "int8", "int4"]
"""How a model's linear layers may be held: as loaded, in 8 bits, in 4."""


AttentionImplementation = Literal[
    "auto",
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
]
"""What computes attention, by transformers' names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """One frozen teacher."""

    model: str
    """Hub name, local folder, ``zoo:<name>``, ``pkg:<name>``, or another source's
    prefix with what is wanted of it; docs/teacher.md lists them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the source that ``model`` names."""
    weight: NotNegative = 1.0
    """Its share in fixed fusion where ``fuse.weights`` is null."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type its weights are loaded in; auto keeps the checkpoint's. A CPU that has no
    products of it calculates from them in float32, and the log says so."""
    quantise: Quantisation = "none"
    """How its linear layers are held: as loaded, in 8 bits, or in 4 (NF4; needs the
    extra ``quant``)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; joined to its name, ``org/name@revision``,
    which may also be written so."""
    trust_remote_code: bool = False
    """Run the Python files that come with the model, where transformers does not know
    its type. Read them first: they may do whatever you may. Their digest is told, and a
    run does not go on with other ones."""
    attn_implementation: AttentionImplementation = "auto"
    """Of transformers; auto: its own choice, mostly ``sdpa``. The same numbers up to
    rounding, so a run may go on with another."""
    shard: bool = False
    """Split its weights over all processes of a run, each block brought together when
    it runs: for a teacher that one device cannot hold. Slower, and without
    ``train.prefetch``."""
    compile: bool = False
    """Have PyTorch compile its blocks but for attention (``torch.compile``), and see
    beforehand that it computes the same up to rounding. Takes a minute or more at the
    start. Not with ``shard`` or ``quantise``."""
    long_texts: Literal["extend", "refuse", "window"] = "extend"
    """Texts longer than it was trained to read: ``extend`` its rotation by
    ``align.rope_scaling_method``, to ``data.max_length`` of its own tokens at most, and
    cut what is longer (all that is longer than a position table), ``refuse``, or
    ``window``: read them in windows of that length that overlap by half, each token's
    KV from the first window that holds it."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value that its type does not take, or a revision of what is
                not on the hub.
        """
        check_fields(self, "teachers.NAME")
        check_length(self.model, "teachers.NAME.model")
        if self.compile and (self.shard or self.quantise != "none"):
            other = "shard" if self.shard else f"quantise={self.quantise}"
            raise InputError(
                f"teachers.NAME.compile and {other}: only weights that are whole as "
                "they lie are compiled with; leave one of both out"
            )
        named = at_revision(self.model, self.revision, "teachers.NAME")
        object.__setattr__(self, "model", named)  # frozen
        object.__setattr__(self, "revision", None)
