"""Contract of ways of writing: a tiny model writes by them, twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from plugins.answers import chosen_problem
from plugins.contracts.models.answers import writer_problem
from plugins.contracts.models.student_maker import small_model
from plugins.promise import Promise, problem

OPENINGS = ((5, 9, 2, 11), (7, 3, 3, 8))
TOKENS = 6
"""That are written after each."""


def writer(factory: Callable[..., Any]) -> Iterator[Promise]:
    """A way of writing is used by a Llama of four layers with random weights."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


@dataclass(frozen=True)
class _Subject:
    """What is tried."""

    factory: Callable[..., Any]

    @cached_property
    def way(self) -> Any:
        """The first."""
        return self.factory()

    @cached_property
    def model(self) -> Any:
        """Who writes."""
        return small_model()

    @property
    def candidates(self) -> int:
        """Texts of an opening."""
        return int(self.way.fields().get("num_return_sequences", 1))

    def written(self, seed: int) -> Any:
        """(openings * candidates, T) ids, by a way of its own."""
        from transformers import GenerationConfig

        settings = GenerationConfig(
            max_new_tokens=TOKENS,
            pad_token_id=0,
            eos_token_id=0,
            **self.factory().fields(),
        )
        ids = torch.tensor(OPENINGS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )


def _says_how_texts_weigh(subject: _Subject) -> str:
    by = getattr(subject.way, "by_likelihood", None)
    return problem(
        not isinstance(by, bool), f"has by_likelihood = {by!r}; say True or False"
    )


def _sets_what_is_its_own(subject: _Subject) -> str:
    return writer_problem(subject.way.fields())


def _writes(subject: _Subject) -> str:
    rows, wanted = len(subject.written(1)), len(OPENINGS) * subject.candidates
    return problem(rows != wanted, f"gives {rows} texts where {wanted} are asked for")


def _writes_the_same_again(subject: _Subject) -> str:
    same = torch.equal(subject.written(2), subject.written(2))
    return problem(not same, "writes other text from the same seed")


def _keeps_some(subject: _Subject) -> str:
    count = subject.candidates
    differ = [f"text {n} of several words" for n in range(count)]
    for texts in (differ, ["the same"] * count, [""] * count):
        wrong = chosen_problem(subject.way.chosen(tuple(texts)), count)
        if wrong:
            return wrong
    return ""


def _chooses_the_same_again(subject: _Subject) -> str:
    texts = tuple(f"{n} and {n * n % 7} words" for n in range(subject.candidates))
    first, second = (list(w.chosen(texts)) for w in (subject.way, subject.factory()))
    return problem(
        first != second or first != list(subject.way.chosen(texts)),
        "keeps others of the same candidates",
    )


_PROMISES = (
    ("says whether texts weigh by their likelihood", _says_how_texts_weigh),
    ("sets nothing of generation that is the caller's", _sets_what_is_its_own),
    ("has a model write as many texts as it asks for", _writes),
    ("has the same written from the same seed", _writes_the_same_again),
    ("keeps some of the candidates, none twice", _keeps_some),
    ("keeps the same of the same candidates", _chooses_the_same_again),
)
