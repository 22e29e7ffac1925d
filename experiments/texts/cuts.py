"""What was cut of a run's texts, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from align.errors import InputError
from align.text.conversation import Conversation
from align.text.documents import TextSample
from align.tokens.batch import end_id
from align.tokens.cut import Cutter
from experiments.texts.config import DataConfig


class Encoded(Protocol):
    """How the student reads."""

    tokenizer: Any
    max_length: int | None
    learn_end: bool | None


def refuse_lost(cutter: Cutter, encode: Encoded) -> None:
    """Say why nothing is left, where what comes first leaves no room for the rest.

    Raises:
        InputError: some do.
    """
    for lost, sentence in (
        (cutter.tally.lost, _lost_pairs),
        (cutter.tally.unlearned, _unlearned),
    ):
        if lost:
            raise InputError(
                f"{sentence(cutter, encode)}, which leaves too few to learn from or "
                "to be measured on; raise data.max_length"
            )


def _lost_pairs(cutter: Cutter, encode: Encoded) -> str:
    tally = cutter.tally
    return (
        f"{tally.lost} of {tally.lost + tally.prompted} pairs lose their whole "
        f"translation, because the prompt alone fills the {encode.max_length} tokens "
        "of data.max_length"
    )


def _unlearned(cutter: Cutter, encode: Encoded) -> str:
    tally = cutter.tally
    spoken = tally.unlearned + tally.conversations - tally.prompted
    return (
        f"{tally.unlearned} of {spoken} conversations are cut before the first turn "
        f"that is learned of them (data.learn), at the {encode.max_length} tokens of "
        "data.max_length"
    )


def idle_among(config: DataConfig, samples: Sequence[TextSample]) -> list[str]:
    """Settings of conversations and of weights to which the texts to learn from give
    nothing to act on, a sentence each."""
    sentences = []
    learned_apart = config.learn != "all" and not config.pairs
    # Texts may be many and lie on a disk: they are gone through where it is asked.
    if (learned_apart or config.date is not None) and not any(
        isinstance(sample.text, Conversation) for sample in samples
    ):
        why = "no text to learn from is a conversation"
        if learned_apart:
            sentences.append(
                f"data.learn={config.learn} changes nothing: {why}, and plain text is "
                "learned whole; give rows with messages, or with prompt and completion"
            )
        if config.date is not None:
            sentences.append(f"data.date={config.date} changes nothing: {why}")
    named = config.weight_field not in ("weight", None)
    if named and all(sample.weight == 1 for sample in samples):
        sentences.append(
            f"data.weight_field={config.weight_field} changes nothing: every text "
            "weighs 1; see that the rows have that field"
        )
    return sentences


def told_of(cutter: Cutter, encode: Encoded) -> tuple[list[str], list[str]]:
    """What was cut: sentences on what is lost, and on what is not."""
    tally, lost, notes = cutter.tally, [], []
    kinds = {"conversations": tally.conversations - tally.prompted}
    kinds |= {"pairs": tally.prompted}
    spoken = " and ".join(name for name, count in kinds.items() if count)
    if tally.long:
        notes.append(
            f"{tally.long} of {tally.documents} documents are longer than "
            f"{encode.max_length} of the student's tokens and were cut into "
            f"{tally.pieces} samples, held-out ones among them; no character is lost"
        )
    if tally.lost:
        lost.append(
            f"{_lost_pairs(cutter, encode)}: they are neither learned nor measured; "
            "raise data.max_length"
        )
    if tally.unlearned:
        lost.append(
            f"{_unlearned(cutter, encode)}: they are neither learned nor measured; "
            "raise data.max_length"
        )
    if tally.shortened:
        lost.append(
            f"{tally.shortened} of {tally.conversations} {spoken} are longer than "
            f"{encode.max_length} of the student's tokens and lost their ends, "
            f"{1 - tally.kept / tally.contents:.0%} of all contents; data.max_length "
            "decides"
        )
    for reader in cutter.readers[1:]:
        if count := tally.by.get(reader.name):
            notes.append(
                f"{count} samples are shorter than {encode.max_length} of the "
                f"student's tokens because {reader.name} reads {reader.limit} of its "
                f"own at most; {reader.name}.long_texts=window reads longer ones"
            )
    for name, sample in tally.indivisible.items():
        lost.append(
            f"a character of {sample} alone makes more tokens of {name} than it may "
            "read, and is not read whole; leave it out, or raise data.max_length"
        )
    if encode.learn_end and end_id(encode.tokenizer) is None:
        lost.append(
            "the student's tokenizer has no end-of-text token, so no text's end is "
            "learned; set its eos_token, or data.learn_end=false"
        )
    return lost, notes
