"""From a phase's settings to who is asked about which text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from align.errors import InputError
from align.schedules import signals_of
from align.text.documents import TextSample
from align.views import ModelFacts
from experiments.choosing.weigher import fixed_weights, router_options, shares_of
from experiments.config.parsing import ConfigError
from experiments.config.schedules import schedules_of
from experiments.config.tree import Config, PhaseConfig
from fuse.beforehand.choose import TextChoice, ranks_among
from fuse.beforehand.texts import decides_before_reading, difficulty_needed
from fuse.config import HARD, SOFT, FuseConfig
from fuse.routers.router import learns
from plugins.registry import Registry
from student.curriculum.scores import DIFFICULTIES

LENGTH = "length"
"""The difficulty that every text has: its characters."""
BY_WEIGHT = {"student", "losses"}
"""Spaces in which a teacher of weight 0 teaches nothing."""


def why_all_run(fuse: FuseConfig, router: Any) -> str | None:
    """Why every teacher reads every text, though a choice is made; None where those
    that are not chosen rest, or nothing is chosen.

    Args:
        fuse: the phase's.
        router: the one that weighs, or what makes it.
    """
    if fuse.chosen == SOFT:
        return None
    if not decides_before_reading(router):
        return (
            f"fuse.choice: {fuse.chosen} with the router {fuse.router!r} is made after "
            "every teacher has read, as that router goes by what it reads: teachers "
            "that are not chosen run all the same. Those that decide before are label, "
            "difficulty and fixed, with fuse.routing_level: sample"
        )
    if fuse.routing_level != "sample":
        return (
            f"fuse.choice: {fuse.chosen} is made for every token, as "
            f"fuse.routing_level is {fuse.routing_level}: teachers that are not chosen "
            "run all the same. With fuse.routing_level: sample each text's are chosen "
            "before any reads, and the others rest"
        )
    return None


def rests_at_no_weight(phase: PhaseConfig, registry: Registry, router: Any) -> bool:
    """Whether a teacher may rest on the texts for which it has no weight, though all
    count as they are weighed (``fuse.choice: soft``).

    Its weight has to be known before it reads and to stay as it is, and nothing of the
    phase may look at a teacher without weight: latents of the space ``z`` are learned
    from all that was read, of a plugin's space nobody knows it, selectors compare
    teachers before they are weighed, and schedules may go by what all predict.

    Args:
        phase: resolved settings.
        registry: where rules of schedules are looked up.
        router: what makes the one that weighs.
    """
    fuse = phase.fuse
    rules = {schedule.rule for schedule in schedules_of(phase).values()}
    return (
        decides_before_reading(router)
        and not learns(router)
        and fuse.moving_temperature is None
        and fuse.space_name in BY_WEIGHT
        and not phase.loss.selectors
        and not any(signals_of(registry.entry("schedule", x).value) for x in rules)
    )


def check_choice(phase: PhaseConfig, registry: Registry, config: Config) -> None:
    """See that a phase's choice can be made, before any model is loaded.

    Args:
        phase: resolved settings.
        registry: where the router is looked up.
        config: whose teachers and stores are taken.

    Raises:
        ConfigError: nobody could choose, ``difficulty`` is not told to, or it is told
            of a teacher that is not there, or every teacher's own weight is 0.
    """
    fuse, place, teachers = phase.fuse, f"phase {phase.name!r}: ", config.teachers
    if fuse.router == "fixed" and not fuse.router_options["weights"]:
        try:
            fixed_weights(fuse, shares_of(phase.teachers, teachers))
        except InputError as error:
            raise ConfigError(f"{place}{error}") from None
    router = registry.entry("router", fuse.router).value
    if difficulty_needed(router) is not None and why_not_before(fuse) is not None:
        raise ConfigError(
            f"{place}the router {fuse.router!r} gives each text to one teacher before "
            f"any reads: {why_not_before(fuse)}; set fuse.choice=hard and "
            "fuse.routing_level=sample"
        )
    by = score_named(fuse, router)
    if by is not None and by not in DIFFICULTIES:
        raise ConfigError(
            f"{place}fuse.fusion_method.difficulty is {by!r}; give one of "
            f"{', '.join(DIFFICULTIES)}"
        )
    if by not in (None, LENGTH) and config.data.written.on:
        raise ConfigError(
            f"{place}fuse.fusion_method.difficulty is {by!r}, by which texts are "
            "scored as the phase begins, and data.written has new ones come later; "
            f"give {LENGTH}, or set data.written.share=0"
        )
    order = fuse.router_options.get("order") or []
    for name in order if difficulty_needed(router) is not None else []:
        if name not in teachers:
            raise ConfigError(
                f"{place}fuse.fusion_method.order names {name!r}, which is no teacher; "
                f"give one of {', '.join(teachers) or 'none'}"
            )
    if fuse.chosen == SOFT:
        return
    if config.store.read and config.store.form == "fused":
        raise ConfigError(
            f"{place}fuse.choice: {fuse.chosen} takes some teachers of each text, and "
            "store.form=fused holds the mean of all; set fuse.choice=soft, or read "
            "stores of another form"
        )


def score_named(fuse: FuseConfig, router: Any) -> str | None:
    """The score by which the router of a config has texts ranked, as it says it; None:
    it goes by none.

    Args:
        fuse: the phase's.
        router: the one that weighs, or what makes it.
    """
    usual = difficulty_needed(router)
    return None if usual is None else fuse.router_options.get("difficulty", usual)


def check_chosen(phase: PhaseConfig, shares: Mapping[str, float]) -> None:
    """See that a phase's choice says whom it takes, of the teachers that take part.

    Args:
        phase: resolved settings.
        shares: fixed weights from the config, by teacher.

    Raises:
        InputError: constant weights are greatest for two, or more teachers are to be
            taken than there are.
    """
    fuse, names = phase.fuse, ", ".join(shares)
    if fuse.choice_k > max(len(shares), 1):
        raise InputError(
            f"fuse.choice takes {fuse.choice_k} of the {len(shares)} teachers {names}; "
            f"give k from 1 to {len(shares)}"
        )
    if fuse.chosen != HARD or fuse.router != "fixed" or len(shares) < 2:
        return
    weights = fixed_weights(fuse, shares)
    if weights.count(max(weights)) > 1:
        raise InputError(
            f"fuse.choice: hard has the weights {', '.join(f'{w:g}' for w in weights)} "
            f"of the teachers {names} to go by, which are the same for every text and "
            "greatest for two: give one more weight (fuse.weights), draw one a text "
            "(fuse.choice=sampled), or go by the text "
            f"(phase.{phase.name}.fuse.fusion_method: label, or difficulty)"
        )


def why_not_before(fuse: FuseConfig) -> str | None:
    """What of the settings leaves nothing to choose before teachers read."""
    if fuse.chosen == SOFT:
        return "fuse.choice is soft"
    if fuse.routing_level != "sample":
        return f"fuse.routing_level is {fuse.routing_level}"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choosing:
    """What the teachers of a run's texts are chosen by."""

    registry: Registry
    samples: Sequence[TextSample]
    """All that is learned from, among which texts are hard or easy."""
    seed: int
    """Of the run."""
    tied: Collection[str] = ()
    """Teachers that all processes have to run together."""
    score: Callable[[str], Mapping[str, float]] | None = None
    """Gives a score of the phase's texts by its name, by the texts' ids; NaN where
    nobody knows it."""
    tell: Callable[[str], None] = lambda sentence: None
    """Takes what a user should know, a sentence at a time."""

    def __call__(
        self,
        phase: PhaseConfig,
        hidden_size: int,
        teachers: Mapping[str, ModelFacts],
        shares: Mapping[str, float],
    ) -> TextChoice | None:
        """Who chooses a phase's teachers text by text; None where every one reads all.

        Args:
            phase: resolved settings.
            hidden_size: C, of the student for whom they are weighed.
            teachers: of the phase, in order.
            shares: fixed weights from the config, by teacher.

        Raises:
            InputError: teachers of ``tied`` could rest on one process and not on
                another, or the settings choose one for all texts without saying whom.
        """
        fuse, soft = phase.fuse, phase.fuse.chosen == SOFT
        build = self.registry.guarded("router", fuse.router)
        why = why_all_run(fuse, build)
        if why is not None:
            self.tell(why)
            return None
        tied = [name for name in teachers if name in self.tied]
        if soft and (tied or not rests_at_no_weight(phase, self.registry, build)):
            return None
        if tied:
            raise InputError(
                f"phase {phase.name!r}: fuse.choice: {fuse.chosen} lets teachers rest, "
                f"and {', '.join(tied)} is split over processes, which all have to run "
                "it equally often; set its shard to false, or fuse.choice=soft"
            )
        named = {name: shares[name] for name in teachers}
        router = build(hidden_size, len(named), **router_options(fuse, named))
        wanted = difficulty_needed(router)
        costs = [cost_of(teacher) for teacher in teachers.values()]
        choice = TextChoice(
            router,
            fuse.chosen,
            list(named),
            seed=self.seed,
            k=min(fuse.choice_k, len(named)),
            rank=None if wanted is None else self._rank(phase, wanted),
            costs=torch.tensor(costs, dtype=torch.float64),
            texts=self._one_a_domain if soft else self.samples,
        )
        if soft and not choice.spares:
            return None
        for name in choice.never:
            self.tell(
                f"no text is for teacher {name!r} (fuse.choice: {fuse.chosen}): it is "
                "never asked in training"
            )
        return choice

    @property
    def _one_a_domain(self) -> list[TextSample]:
        """Texts enough for a router that knows nothing of one but its domain."""
        return list({sample.domain: sample for sample in self.samples}.values())

    def _rank(self, phase: PhaseConfig, wanted: str) -> Callable[[TextSample], float]:
        if wanted == LENGTH:
            by_length = ranks_among([len(sample.text) for sample in self.samples])
            return lambda sample: by_length(len(sample.text))
        if self.score is None:
            raise InputError(
                f"phase {phase.name!r}: the router {phase.fuse.router!r} ranks texts "
                f"by difficulty={wanted!r}, which nobody has scored; give length"
            )
        scores = self.score(wanted)
        known = [scores[sample.id] for sample in self.samples]
        among = ranks_among([score for score in known if score == score])

        def rank(sample: TextSample) -> float:
            if sample.id not in scores:
                raise InputError(
                    f"the text {sample.id!r} has no score {wanted!r}, as the student "
                    "wrote it itself; set difficulty to length"
                )
            score = scores[sample.id]
            return among(score) if score == score else 0.5  # NaN: nobody knows

        return rank


def cost_of(teacher: ModelFacts) -> float:
    """Parameters of a teacher, of weights in 4 bits as many as they stand for; NaN
    where nobody knows, as of one in a store."""
    return float(teacher.sizes.parameters) or float("nan")
