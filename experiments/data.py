"""The texts of a run: to learn from, to calibrate on, to be measured on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.byte_lengths import ByteLengths
from align.text import TextSample, chunk_samples, read_texts
from align.tokens import TokenBatch, encode_batch
from experiments.place import named
from experiments.sections import DataConfig

ZOO = "zoo"
"""The embedded texts, in place of a path."""


@dataclass(frozen=True, slots=True)
class RunData:
    """Samples that fit the student's ``max_length``."""

    train: list[TextSample]
    eval: list[TextSample]
    calibration: list[TextSample]
    """Drawn from text that is not measured on; may overlap with ``train``."""

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

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Encode texts as :func:`align.tokens.encode_batch` does."""
        return encode_batch(
            self.tokenizer,
            texts,
            max_length=self.max_length,
            byte_lengths=self.byte_lengths,
        )


def load_data(config: DataConfig, encode: Encoder, seed: int) -> RunData:
    """Read, cut and split a run's text.

    Args:
        config: the ``data`` section.
        encode: the student's tokenizer, which decides how long a piece may be.
        seed: decides which samples are held out where no eval text is given.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file cannot be read as text, holds none, or too little to hold
            anything out.
    """
    train = read_sources(config, "train", "student")
    held = read_sources(config, "eval", "eval") if config.eval else []
    if not config.eval and any(path == ZOO for _, path in config.sources("train")):
        held += _zoo("eval")
    chars = fitting_chars(train, encode)
    pieces = _shuffled(chunk_samples(train, chars), seed)
    if held:
        kept, measured = pieces, _shuffled(chunk_samples(held, chars), seed)
        if not config.eval:  # own files beside the zoo hold out a share of theirs
            files = {s.domain for s in pieces} - {s.domain for s in measured}
            out, kept = _hold_out(pieces, config.eval_share, files)
            measured += out
    else:
        domains = {sample.domain for sample in pieces}
        measured, kept = _hold_out(pieces, config.eval_share, domains)
    kept = _at_most(kept, config.train_samples)
    measured = _at_most(measured, config.eval_samples)
    if not kept or not measured:
        raise ValueError(
            f"data gives {len(kept)} training and {len(measured)} held-out samples of "
            f"up to {chars} characters; give more text in data.train, or held-out "
            "text in data.eval"
        )
    return RunData(_shuffled(kept, seed), measured, _calibration(config, kept, chars))


def fitting_chars(samples: Sequence[TextSample], encode: Encoder) -> int:
    """How many characters fill ``max_length`` student tokens, from a sample.

    The tenth of the texts with the most tokens per character decides, so that few
    pieces are cut short.
    """
    assert encode.max_length is not None
    some = samples[:: max(1, len(samples) // 64)][:64]
    uncut = Encoder(encode.tokenizer, None)
    shares = []
    for sample in some:
        text = sample.text[: 4 * encode.max_length]
        batch = uncut([text])
        shares.append(len(text) / max(1, int(batch.mask.sum())))
    shares.sort()
    return max(8, int(shares[len(shares) // 10] * (encode.max_length - 2)))


def read_sources(
    config: DataConfig, which: Literal["train", "eval"], split: str
) -> list[TextSample]:
    """Read every source of a list, uncut.

    Args:
        config: the ``data`` section.
        which: the list, ``train`` or ``eval``.
        split: the part of the embedded texts that ``zoo`` stands for.
    """
    out: list[TextSample] = []
    for domain, path in config.sources(which):
        if path == ZOO:
            out += _zoo(split)
            continue
        with named(f"data.{which}"):
            out += read_texts(path, domain, config.text_field)
    return out


def _zoo(split: str) -> list[TextSample]:
    from teacher.zoo import DOMAINS, zoo_samples

    return [s for domain in DOMAINS for s in zoo_samples(domain, split, 4096)]


def _calibration(
    config: DataConfig, train: list[TextSample], chars: int
) -> list[TextSample]:
    if all(path == ZOO for _, path in config.sources("train")):
        return _shuffled(chunk_samples(_zoo("calibration"), chars), 0)
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
        own = [sample for sample in samples if sample.domain == domain]
        count = max(1, round(share * len(own))) if len(own) > 1 else 0
        held += own[:count]
    taken = {id(sample) for sample in held}
    return held, [sample for sample in samples if id(sample) not in taken]


def _at_most(samples: list[TextSample], count: int | None) -> list[TextSample]:
    if count is None:
        return samples
    seen: dict[str, int] = {}
    out = []
    for sample in samples:
        seen[sample.domain] = seen.get(sample.domain, 0) + 1
        if seen[sample.domain] <= count:
            out.append(sample)
    return out
