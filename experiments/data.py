"""The texts of a run: to learn from, to calibrate on, to be measured on."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace

from align.byte_lengths import ByteLengths
from align.chat import check_chats
from align.conversation import Conversation
from align.errors import InputError
from align.text import TextSample, chunk_samples
from align.tokens import TokenBatch, encode_batch
from experiments.place import named
from experiments.sections import DataConfig
from experiments.text_sources import ZOO, Reading, zoo_texts
from teacher.store.reader import text_bytes

SHARED_GATE = (
    "the gate decides on the held-out text that the report shows, because some domain "
    "has no more of it; give more in data.eval or lower data.eval_samples to keep the "
    "two apart"
)
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class RunData:
    """Samples that fit the student's ``max_length``."""

    train: list[TextSample]
    eval: list[TextSample]
    calibration: list[TextSample]
    """Drawn from text that is not measured on; may overlap with ``train``."""
    warnings: tuple[str, ...] = ()
    """What a user should know of how the texts were cut."""
    gate: Sequence[TextSample] = ()
    """Held-out text of its own for the gate; empty: it decides on ``eval``."""

    @property
    def domains(self) -> list[str]:
        """Domains that are measured, in order of appearance."""
        return list(dict.fromkeys(sample.domain for sample in self.eval))


class Encoder:
    """A tokenizer that cuts at a length; texts to one padded batch."""

    def __init__(self, tokenizer: object, max_length: int | None) -> None:
        """Hold a fast tokenizer and the most tokens of a text."""
        self.tokenizer, self.max_length = tokenizer, max_length
        self.byte_lengths = ByteLengths.of(tokenizer)

    def uncut(self) -> Encoder:
        """The same without a limit."""
        other = copy(self)
        other.max_length = None
        return other

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Encode texts as :func:`align.tokens.encode_batch` does."""
        return encode_batch(
            self.tokenizer,
            texts,
            max_length=self.max_length,
            byte_lengths=self.byte_lengths,
        )


def load_data(
    config: DataConfig, encode: Encoder, seed: int, gated: bool = False
) -> RunData:
    """Read, cut and split a run's text.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer, which decides how long a piece may be.
        seed: decides which samples are held out where no eval text is given.
        gated: look for text that a gate may decide on.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file cannot be read as text, holds none, or too little to hold
            anything out.
    """
    reading = Reading(config)
    train = list(reading.samples("train", "student"))
    chars = fitting_chars(train, encode)
    train, cut = cut_conversations(train, encode)
    pieces = _shuffled(chunk_samples(train, chars), seed)
    kept, measured = pieces, held_out_text(reading, encode, chars, seed)
    if config.eval or measured:
        if not config.eval:  # own files beside the zoo hold out a share of theirs
            files = {s.domain for s in pieces} - {s.domain for s in measured}
            out, kept = _hold_out(pieces, config.eval_share, files)
            measured += out
    else:
        domains = {sample.domain for sample in pieces}
        measured, kept = _hold_out(pieces, config.eval_share, domains)
    kept = at_most(kept, config.train_samples)
    held_out, measured = measured, at_most(measured, config.eval_samples)
    if not kept or not measured:
        raise InputError(
            f"data gives {len(kept)} training and {len(measured)} held-out samples of "
            f"up to {chars} characters; give more text in data.train, or held-out "
            "text in data.eval"
        )
    gate = gate_text(held_out, measured) if gated else []
    shared = "" if gate or not gated else SHARED_GATE
    return RunData(
        _shuffled(kept, seed),
        measured,
        _calibration(config, kept, chars),
        tuple(s for s in (*reading.bad_rows.sentences(), cut, shared) if s),
        gate,
    )


def held_out_text(
    reading: Reading, encode: Encoder, chars: int, seed: int
) -> list[TextSample]:
    """Cut the held-out text that stands apart from the text to learn from.

    Args:
        reading: of the run's text.
        encode: the student's tokenizer.
        chars: the longest piece.
        seed: the run's.

    Returns:
        Pieces of ``data.eval``, or of the embedded texts; empty where neither is read.
    """
    config = reading.config
    held = list(reading.samples("eval", "eval"))
    if not config.eval and any(path == ZOO for _, path in config.sources("train")):
        held = list(zoo_texts("eval"))
    held, _ = cut_conversations(held, encode)
    return _shuffled(chunk_samples(held, chars), seed)


def longest_texts(samples: Iterable[TextSample]) -> list[TextSample]:
    """The texts that show whether a model's positions suffice, the longest first.

    They depend on neither the order of the samples nor how often one is there.
    """
    found: dict[tuple[int, bytes], TextSample] = {}
    least: list[tuple[int, bytes]] = []
    for sample in samples:
        key = len(sample.text), text_bytes(sample.text)
        if key in found or (len(found) == _AT_ONCE and key < least[0]):
            continue
        found[key] = sample
        heapq.heappush(least, key)
        if len(least) > _AT_ONCE:
            del found[heapq.heappop(least)]
    return [found[key] for key in sorted(found, reverse=True)]


def gate_text(
    held_out: Sequence[TextSample], measured: Sequence[TextSample]
) -> list[TextSample]:
    """Held-out samples that are not measured on, as many for each domain.

    Returns:
        Nothing where some domain has less than half as many.
    """
    taken = {id(sample) for sample in measured}
    spare = [sample for sample in held_out if id(sample) not in taken]
    wanted = Counter(sample.domain for sample in measured)
    gate = [s for d, n in wanted.items() for s in _of(spare, d)[:n]]
    found = Counter(sample.domain for sample in gate)
    return gate if all(2 * found[d] >= n for d, n in wanted.items()) else []


def _of(samples: Sequence[TextSample], domain: str) -> list[TextSample]:
    return [sample for sample in samples if sample.domain == domain]


def fitting_chars(samples: Sequence[TextSample], encode: Encoder) -> int:
    """How many characters fill ``max_length`` student tokens, from a sample.

    The tenth of the texts with the most tokens per character decides, so that few
    pieces are cut short.
    """
    assert encode.max_length is not None
    written = [s for s in samples if not isinstance(s.text, Conversation)]
    some = written[:: max(1, len(written) // 64)][:64]
    if not some:
        return 4 * encode.max_length  # conversations are cut by their tokens
    uncut = encode.uncut()
    shares = []
    for sample in some:
        text = sample.text[: 4 * encode.max_length]
        batch = uncut([text])
        shares.append(len(text) / max(1, int(batch.mask.sum())))
    shares.sort()
    return max(8, int(shares[len(shares) // 10] * (encode.max_length - 2)))


def cut_conversations(
    samples: Sequence[TextSample], encode: Encoder
) -> tuple[list[TextSample], str]:
    """Cut the ends off conversations of more than ``max_length`` student tokens.

    What follows is left out: the rest would begin in the middle of a turn.

    Args:
        samples: plain texts among them stay as they are.
        encode: the student's tokenizer.

    Returns:
        The samples, and what was left out in one sentence, empty if nothing.

    Raises:
        ValueError: the student's template does not take a conversation.
    """
    assert encode.max_length is not None
    out = list(samples)
    spoken = [i for i, s in enumerate(out) if isinstance(s.text, Conversation)]
    with named("student"):
        check_chats(encode.tokenizer, (out[i] for i in spoken))
    whole, kept, cut = 0, 0, 0
    for start in range(0, len(spoken), _AT_ONCE):
        places = spoken[start : start + _AT_ONCE]
        batch = encode.uncut()([out[i].text for i in places])
        for row, place in enumerate(places):
            text = out[place].text
            assert isinstance(text, Conversation)
            whole += len(text)
            if int(batch.mask[row].sum()) > encode.max_length:
                text = text.cut(int(batch.touched_until[row, encode.max_length - 1]))
                out[place] = replace(out[place], text=text)
                cut += 1
            kept += len(text)
    left = [sample for sample in out if sample.text.strip()]
    if not cut:
        return left, ""
    return left, (
        f"{cut} of {len(spoken)} conversations are longer than {encode.max_length} of "
        f"the student's tokens and lost their ends, {1 - kept / whole:.0%} of all "
        "contents; data.max_length decides"
    )


def _calibration(
    config: DataConfig, train: list[TextSample], chars: int
) -> list[TextSample]:
    if all(path == ZOO for _, path in config.sources("train")):
        return _shuffled(chunk_samples(zoo_texts("calibration"), chars), 0)
    return train


def _shuffled(samples: list[TextSample], seed: int) -> list[TextSample]:
    out = list(samples)
    random.Random(seed).shuffle(out)
    return out


def _hold_out(
    samples: list[TextSample], share: float, domains: set[str]
) -> tuple[list[TextSample], list[TextSample]]:
    """Split off a share of each of these domains: (held out, kept)."""
    held: list[TextSample] = []
    for domain in sorted(domains):
        own = _of(samples, domain)
        count = max(1, round(share * len(own))) if len(own) > 1 else 0
        held += own[:count]
    taken = {id(sample) for sample in held}
    return held, [sample for sample in samples if id(sample) not in taken]


def at_most(samples: list[TextSample], count: int | None) -> list[TextSample]:
    """The first of each domain, in order; None keeps all."""
    if count is None:
        return samples
    seen: dict[str, int] = {}
    out = []
    for sample in samples:
        seen[sample.domain] = seen.get(sample.domain, 0) + 1
        if seen[sample.domain] <= count:
            out.append(sample)
    return out
