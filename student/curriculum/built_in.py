"""The built-in curricula: each says how fast every group of texts is read.

Where a formula takes a difficulty, that is where the text stands among all, in (0, 1):
raw difficulties have units and outliers. ``hard_first`` turns it round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from align.support.field_types import AtLeastOne, NotNegative, Positive, Share
from student.curriculum.base import Curriculum, Draw
from student.curriculum.groups import Floats, GroupDraws, ranked
from student.curriculum.scores import Scores, needs_of

Groups = list[NDArray[np.int64]]


@dataclass(kw_only=True)
class _Grouped:
    """Draws from groups; remembers those of the last scores."""

    _last: Any = field(default=None, init=False, repr=False)

    def __call__(self, scores: Scores, draw: Draw) -> list[int]:
        """See :class:`student.curriculum.base.Curriculum`."""
        phase = (draw.seed, draw.size, draw.texts, draw.since)
        if self._last is None or self._last[0] is not scores or self._last[1] != phase:
            groups = self.groups_of(scores)
            sizes = np.array([len(group) for group in groups], dtype=np.float64)
            draws = GroupDraws(
                groups,
                lambda progress: self.shares(scores, groups, sizes, progress),
                seed=draw.seed,
                size=draw.size,
                texts=draw.texts,
                since=draw.since,
            )
            self._last = (scores, phase, draws)
        drawn: list[int] = self._last[2].at(draw.first)
        return drawn

    def groups_of(self, scores: Scores) -> Groups:
        """Numbers of texts that are read at one rate."""
        raise NotImplementedError

    def shares(
        self, scores: Scores, groups: Groups, sizes: Floats, progress: float
    ) -> Floats:
        """What each group gets, (K,) >= 0."""
        raise NotImplementedError


@dataclass(kw_only=True)
class _ByDifficulty(_Grouped):
    """Groups of like difficulty, easy ones first."""

    difficulty: str = "entropy"
    """``length``, ``teacher_bits``, ``entropy`` (of teachers), ``divergence``, ``gap``,
    ``disagreement``, ``student_bits`` or ``student_entropy``."""
    within_domains: bool = False
    """Whether a text stands among those of its domain, so that no domain waits as a
    whole."""
    hard_first: bool = False
    """The hardest texts are called easy, and the other way round."""
    least: Share = 0.0
    """What every text keeps, in shares of an even reading."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: no such difficulty.
        """
        needs_of(self.difficulty)

    @property
    def needs(self) -> frozenset[str]:
        """Columns that the difficulty is computed from."""
        return needs_of(self.difficulty)

    @property
    def count(self) -> int:
        """K."""
        raise NotImplementedError

    def rates(self, difficulty: Floats, progress: float) -> Floats:
        """How fast texts of a difficulty (K,) in (0, 1) are read, >= 0."""
        raise NotImplementedError

    def groups_of(self, scores: Scores) -> Groups:
        """K of equal size, from easy to hard."""
        domains = scores.domains if self.within_domains else None
        rank = ranked(scores.difficulty(self.difficulty), domains)
        rank = 1 - rank if self.hard_first else rank
        group = np.minimum((rank * self.count).astype(np.int64), self.count - 1)
        return [np.nonzero(group == k)[0] for k in range(self.count)]

    def shares(
        self, scores: Scores, groups: Groups, sizes: Floats, progress: float
    ) -> Floats:
        """Rates times sizes, and what every text keeps.

        Where none of the groups that are to be read holds a text, the one nearest to
        them that does is read in their place.
        """
        middle = (np.arange(self.count) + 0.5) / self.count
        rates = self.rates(middle, progress)
        if not (rates * sizes).any() and sizes.any():
            reached = max(np.flatnonzero(rates > 0), default=0)
            held = np.flatnonzero(sizes)
            rates = np.zeros(self.count)
            rates[held[np.abs(held - reached).argmin()]] = 1.0  # of two the easier
        return kept(rates * sizes, sizes, self.least)


@dataclass(kw_only=True)
class _InGroups(_ByDifficulty):
    """As many groups as an option says."""

    groups: AtLeastOne = 32
    """Groups of difficulty; texts of one are read alike."""

    @property
    def count(self) -> int:
        """K."""
        return self.groups


@dataclass(kw_only=True)
class Bands(_ByDifficulty):
    """Bands of difficulty one after another, each for as long.

    Source:
        Static curriculum of three bands; ``together`` as the baby steps of Spitkovsky
        et al. (2010), where what was read stays.
    """

    bands: AtLeastOne = 3
    """How many."""
    together: bool = False
    """Whether bands that had their turn are read on, beside the new one."""

    @property
    def count(self) -> int:
        """K."""
        return self.bands

    def rates(self, difficulty: Floats, progress: float) -> Floats:
        """1 for the band whose turn it is."""
        turn = min(int(progress * self.bands), self.bands - 1)
        band = (difficulty * self.bands).astype(np.int64)
        return np.asarray(band <= turn if self.together else band == turn, np.float64)


@dataclass(kw_only=True)
class Sigmoid(_InGroups):
    """A soft edge that moves from easy to hard.

    Source:
        The dynamic weight sigmoid((d - mu_t) / tau_t) of the survey, which rises with
        the difficulty d; ours is its mirror image sigmoid((mu_t - d) / tau_t), so that
        mu_t is what has been reached; ``hard_first`` gives the other sign.
    """

    reached_from: float = 0.2
    """mu at the start: texts as hard as this are read half as often as easy ones."""
    reached_to: float = 1.2
    """mu at the end; above 1 hard texts are read nearly as often as easy ones."""
    width_from: Positive = 0.1
    """tau at the start: how soft the edge is."""
    width_to: Positive = 0.1
    """tau at the end."""

    def rates(self, difficulty: Floats, progress: float) -> Floats:
        """The sigmoid, both numbers on their straight way."""
        reached = self.reached_from + (self.reached_to - self.reached_from) * progress
        width = self.width_from + (self.width_to - self.width_from) * progress
        return 1 / (1 + np.exp(np.clip((difficulty - reached) / width, -700, 700)))


@dataclass(kw_only=True)
class Competence(_InGroups):
    """All texts alike that are no harder than what the student is up to.

    Source:
        Platanios et al. (2019), competence c(t) = min(1, (t (1 - c0^p) + c0^p)^(1/p)),
        p = 2: texts whose share of easier ones is below c are drawn evenly. Departure:
        by groups, of which the last is read at part of the rate, and in turn.
    """

    start: Share = 0.1
    """c0, the share of texts that is open at the start; the easiest always are."""
    until: Positive = 0.7
    """Progress at which all are open."""
    power: Positive = 2.0
    """p: 1 opens at one speed, more opens faster at first."""

    def competence(self, progress: float) -> float:
        """c in [0, 1]."""
        come, floor = min(1.0, progress / self.until), self.start**self.power
        return min(1.0, float((come * (1 - floor) + floor) ** (1 / self.power)))

    def rates(self, difficulty: Floats, progress: float) -> Floats:
        """1 for the groups that are open, the rest of c for the next one."""
        whole = self.competence(progress) * self.groups
        return np.clip(whole - np.floor(difficulty * self.groups), 0, 1)


@dataclass(kw_only=True)
class Adaptive(_InGroups):
    """Texts weigh by how much is to be had of them, as it was measured last.

    Rescoring makes it follow the student.

    Source:
        Exponentiated weights of Sagawa et al. (2020) and Xie et al. (2023, DoReMi) over
        groups. Departure: of the last measured numbers, not multiplied up over steps,
        so that the order stays a function of the scores.
    """

    difficulty: str = "gap"
    """What is to be had, as in the other curricula."""
    strength: NotNegative = 0.5
    """A group a standard deviation above the mean is read e^strength as often."""
    least: Share = 0.1
    """What every text keeps, in shares of an even reading."""
    groups: AtLeastOne = 8

    def shares(
        self, scores: Scores, groups: Groups, sizes: Floats, progress: float
    ) -> Floats:
        """e^(strength z) times sizes, z of the groups' means within 3."""
        values = scores.difficulty(self.difficulty).numpy()
        means = np.array([_mean(values[group]) for group in groups])
        known = means[~np.isnan(means)]
        spread = float(known.std()) if len(known) else 0.0
        z = (means - _mean(means)) / max(spread, 1e-12)
        z = np.clip(np.nan_to_num(z), -3, 3) * (-1 if self.hard_first else 1)
        return kept(np.exp(self.strength * z) * sizes, sizes, self.least)


@dataclass(kw_only=True)
class Domains(_Grouped):
    """Domains by their sizes to a power, or by what they still have to give.

    Source:
        Temperature mixing n_d^(1/T), as Devlin et al. (2019) for languages; learning
        progress as Graves et al. (2017).
    """

    temperature: Positive = 1.0
    """T: 1 reads domains by how many texts they have, more evens them out."""
    by: Literal["size", "progress", "gap"] = "size"
    """``progress``: times the share of its bits that the student saved in a domain
    since the scoring before (needs ``rescore``; until then by size); ``gap``: times
    what it needs there more than its teachers."""
    least: Share = 0.1
    """What every domain keeps of a reading by size, but for ``by: size``."""

    _COLUMNS: ClassVar[Mapping[str, frozenset[str]]] = {
        "size": frozenset(),
        "progress": frozenset({"student_bits"}),
        "gap": needs_of("gap"),
    }

    @property
    def needs(self) -> frozenset[str]:
        """Columns that it reads."""
        return self._COLUMNS[self.by]

    @property
    def needs_rescore(self) -> bool:
        """Whether it goes by what changed between two scorings."""
        return self.by == "progress"

    def groups_of(self, scores: Scores) -> Groups:
        """One a domain, in order of their names."""
        names = np.array(scores.domains)
        return [np.nonzero(names == name)[0] for name in np.unique(names)]

    def shares(
        self, scores: Scores, groups: Groups, sizes: Floats, progress: float
    ) -> Floats:
        """Sizes to a power times what a domain has to give."""
        mixed = sizes ** (1 / self.temperature)
        if self.by == "size":
            return mixed
        worth = self._worth(scores, groups)
        return kept(mixed * worth, mixed, self.least)

    def _worth(self, scores: Scores, groups: Groups) -> Floats:
        """(K,) >= 0."""
        if self.by == "gap":
            now = scores.difficulty("gap").numpy()
            return np.clip([_mean(now[group]) for group in groups], 0, None)
        if scores.before is None:
            return np.ones(len(groups))
        now, before = (
            np.array([_mean(x.difficulty("student_bits").numpy()[g]) for g in groups])
            for x in (scores, scores.before)
        )
        saved = (before - now) / np.where(before > 0, before, 1)
        return np.clip(np.nan_to_num(saved), 0, None)


def kept(shares: Floats, sizes: Floats, least: float) -> Floats:
    """Mix shares (K,) with those by size, which have ``least`` of the sum, or all of it
    where nothing is to be shared."""
    even, total = sizes / max(sizes.sum(), 1e-12), shares.sum()
    return even if not total > 0 else (1 - least) * shares / total + least * even


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


CURRICULA: dict[str, Callable[..., Curriculum]] = {
    "bands": Bands,
    "sigmoid": Sigmoid,
    "competence": Competence,
    "domains": Domains,
    "adaptive": Adaptive,
}
"""By the name that ``data.curriculum`` calls them."""
