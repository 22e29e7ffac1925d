"""Contract of what routers promise beside others that decide before teachers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fuse.beforehand.texts import Texts, difficulty_needed
from plugins.answers import beforehand_problem
from plugins.promise import Promise, problem
from plugins.untouched import Untouched
from student.curriculum.scores import DIFFICULTIES

_WIDTH, _TEACHERS = 16, 3
_DOMAINS = ("prose", "code", "prose", "深度", "code", "")


def beforehand(factory: Callable[..., nn.Module]) -> Iterator[Promise]:
    """It is asked about texts of several domains, of all difficulties."""
    subject = _Subject(factory)
    for sentence, tried in _PROMISES:
        yield Promise(sentence, partial(tried, subject))


def texts(router: Any, count: int = len(_DOMAINS), first: int = 0) -> Texts:
    """What is known of some texts before anybody reads them.

    Args:
        router: is told of their difficulty where it goes by that.
        count: of texts.
        first: of them; with another one they are others.
    """
    ranks = (torch.arange(first, first + count, dtype=torch.float64) * 0.37) % 1
    return Texts(
        teachers=[f"teacher-{m}" for m in range(_TEACHERS)],
        domains=[_DOMAINS[n % len(_DOMAINS)] for n in range(first, first + count)],
        ranks=ranks if difficulty_needed(router) is not None else None,
        costs=torch.tensor([3e6, 1e6, 2e6], dtype=torch.float64),
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a plugin offers, tried one promise at a time."""

    factory: Callable[..., nn.Module]

    def made(self) -> Any:
        return self.factory(_WIDTH, _TEACHERS).eval()

    def kind(self) -> str:
        made = self.made()
        if not callable(getattr(made, "beforehand", None)):
            return "says before_reading = True and has no method beforehand"
        by = difficulty_needed(made)
        return problem(
            by is not None and by not in DIFFICULTIES,
            f"goes by difficulty {by!r}; texts have {', '.join(DIFFICULTIES)}",
        )

    def weighs(self) -> str:
        made = self.made()
        for count in (len(_DOMAINS), 1, 40):
            given = texts(made, count)
            before = Untouched({"the ranks": given.ranks, "the costs": given.costs})
            wrong = beforehand_problem(made.beforehand(given), count, _TEACHERS)
            wrong = wrong or before.problem()
            if wrong:
                return wrong
        return ""

    def alone(self) -> str:
        made = self.made()
        whole = texts(made)
        together = made.beforehand(whole)
        apart = torch.cat(
            [made.beforehand(_only(whole, n)) for n in range(len(together))]
        )
        return problem(
            not torch.allclose(together, apart),
            "a text's weights depend on the texts it is asked with; processes and "
            "passes would choose otherwise",
        )

    def history(self) -> str:
        made, other = self.made(), self.made()
        other.load_state_dict(made.state_dict())
        given = texts(made)
        before = made.beforehand(given)
        made.beforehand(texts(made, first=3))
        same = torch.equal(before, made.beforehand(given))
        same = same and torch.equal(before, other.beforehand(given))
        return problem(
            not same,
            "answers otherwise when asked again, or by a copy; a resumed run would "
            "choose other teachers",
        )


def _only(whole: Texts, text: int) -> Texts:
    rows = slice(text, text + 1)
    ranks: Tensor | None = None if whole.ranks is None else whole.ranks[rows]
    domains: Sequence[str] = whole.domains[rows]
    return replace(whole, domains=domains, ranks=ranks)


_PROMISES: tuple[tuple[str, Callable[[_Subject], str]], ...] = (
    ("has a method beforehand, by a difficulty that texts have", _Subject.kind),
    ("weighs texts before they are read, >= 0 and summing to 1", _Subject.weighs),
    ("weighs each text by itself before it is read", _Subject.alone),
    ("weighs texts before they are read alike whenever it is asked", _Subject.history),
)
