"""How a model chooses what it writes: the likeliest tokens, drawn ones, or a search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from align.errors import InputError


class Way(Protocol):
    """One way to go on with a prompt; a plugin of the kind ``writer``."""

    @property
    def by_likelihood(self) -> bool:
        """Whether these texts weigh by what the model gives them, else alike."""

    def fields(self) -> Mapping[str, Any]:
        """What it sets of transformers' ``GenerationConfig``.

        ``num_return_sequences`` are the candidates of a prompt, 1 where it is not set.
        """

    def chosen(self, candidates: Sequence[str]) -> list[int]:
        """Which of a prompt's candidates are kept, the first one first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Greedy:
    """The likeliest token every time."""

    by_likelihood = False

    def fields(self) -> Mapping[str, Any]:
        """Nothing is drawn."""
        return {"do_sample": False}

    def chosen(self, candidates: Sequence[str]) -> list[int]:
        """The one there is."""
        return _different(candidates, 1)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Tokens drawn as the model finds them likely."""

    temperature: float = 1.0
    """What logits are divided by, > 0."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this share, in (0, 1]."""
    texts: int = 1
    """Texts of a prompt, drawn one by one; equal ones are one."""

    by_likelihood = False

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value out of its range.
        """
        check_drawing(self.temperature, self.top_p)
        _at_least("texts", self.texts, 1)

    @property
    def drawn(self) -> int:
        """How many texts of a prompt are drawn."""
        return self.texts

    def fields(self) -> Mapping[str, Any]:
        """All tokens may be drawn that ``top_p`` leaves."""
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
            "num_return_sequences": self.drawn,
        }

    def chosen(self, candidates: Sequence[str]) -> list[int]:
        """All that differ."""
        return _different(candidates, self.texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Beam:
    """The likeliest texts that a beam search finds, all of them, with weights.

    Sequence-level distillation (Kim & Rush 2016, arXiv:1606.07947): one text takes the
    place of the mode of the teacher's distribution over texts, several that of the
    distribution itself, each by its share of their likelihood together.
    """

    beams: int = 4
    """Texts that are followed at once, >= 2."""
    texts: int | None = None
    """Of which so many are kept, 1 to ``beams``; null keeps all."""
    length_penalty: float = 1.0
    """Beams are ranked by log-likelihood / length ** this."""

    by_likelihood = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value out of its range.
        """
        _at_least("beams", self.beams, 2)
        if not 1 <= self.kept <= self.beams:
            raise InputError(
                f"texts is {self.texts}; give 1 to {self.beams}, the number of beams"
            )

    @property
    def kept(self) -> int:
        """How many texts there are of a prompt at most."""
        return self.beams if self.texts is None else self.texts

    def fields(self) -> Mapping[str, Any]:
        """The search of transformers."""
        return {
            "do_sample": False,
            "num_beams": self.beams,
            "num_return_sequences": self.kept,
            "length_penalty": self.length_penalty,
        }

    def chosen(self, candidates: Sequence[str]) -> list[int]:
        """All that differ."""
        return _different(candidates, self.kept)


@dataclass(frozen=True, kw_only=True)
class Diverse(Sample):
    """Of several drawn texts those that share least with each other.

    The first drawn is kept, then each time the one whose nearest kept text is farthest
    by the Jaccard distance of pairs of neighbouring words.
    """

    texts: int = 4
    """Texts kept of a prompt."""
    candidates: int = 16
    """Texts drawn, from which they are chosen; at least as many."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InputError: a value out of its range.
        """
        super().__post_init__()
        _at_least("candidates", self.candidates, self.texts)

    @property
    def drawn(self) -> int:
        """How many texts of a prompt are drawn."""
        return self.candidates

    def chosen(self, candidates: Sequence[str]) -> list[int]:
        """The first, then the farthest from those kept; none equal to another."""
        different = _different(candidates, len(candidates))
        pairs = {index: _word_pairs(candidates[index]) for index in different}
        kept = different[:1]
        while len(kept) < min(self.texts, len(different)):
            left = [index for index in different if index not in kept]
            distances = [
                min(_jaccard_distance(pairs[index], pairs[other]) for other in kept)
                for index in left
            ]
            kept.append(left[distances.index(max(distances))])
        return kept


WAYS: Mapping[str, type[Any]] = {
    "greedy": Greedy,
    "sample": Sample,
    "beam": Beam,
    "diverse": Diverse,
}
"""Ways of writing, by name."""


def check_drawing(temperature: float, top_p: float) -> None:
    """See that tokens can be drawn so.

    Raises:
        InputError: a value out of its range.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(
            f"temperature is {temperature}; give a number above 0, such as 0.8, or use "
            "greedy for the likeliest token"
        )
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; give a share in (0, 1]")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}; give {least} or more")


def _different(candidates: Sequence[str], most: int) -> list[int]:
    """The first of all equal ones, in order."""
    first: dict[str, int] = {}
    for index, text in enumerate(candidates):
        first.setdefault(text, index)
    return list(first.values())[:most]


def _word_pairs(text: str) -> set[tuple[str, str]]:
    words = ["", *text.split(), ""]
    return set(itertools.pairwise(words))


def _jaccard_distance(left: set[Any], right: set[Any]) -> float:
    return 1 - len(left & right) / len(left | right)
