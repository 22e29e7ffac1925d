"""From names, as a config or a command says them, to evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.bounds.yaml_document import read_yaml
from align.errors import InputError, meant, prefix_errors
from experiments.config.parsing import ConfigError, check
from experiments.evaluators.pairs import read_pairs
from fuse.config import choice_of
from plugins.options import options_of
from student.evaluators.base import Evaluator, Metric

if TYPE_CHECKING:
    from experiments.config.tree import Config, PhaseConfig
    from plugins.registry import Registry

KIND = "evaluator"
"""The kind of plugin that measures models."""
USUAL = "bits_per_char"
"""What is measured where nothing else is asked for."""

Use = str | Mapping[str, Any]
"""A name, or ``{use: NAME, OPTION: VALUE}``."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Evaluators by their names, in order."""

    by_name: Mapping[str, Evaluator]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that they may return."""
        return {
            metric: meaning
            for evaluator in self.by_name.values()
            for metric, meaning in evaluator.metrics.items()
        }

    def metric(self, name: str, setting: str) -> Metric:
        """What a metric means.

        Args:
            name: of the metric.
            setting: that names it, for errors.

        Raises:
            InputError: none of the evaluators returns it, or nothing is better by it.
        """
        known = self.metrics
        if name not in known:
            raise InputError(
                f"{setting} is {name!r}, which nothing in eval.use measures"
                f"{meant(name, known)} It measures {', '.join(known)}; `mtkd plugins "
                "list --kind evaluator` shows who measures more"
            )
        if known[name].better == "neither":
            raise InputError(
                f"{setting} is {name!r}, by which no model is better than another; "
                "give a metric by which lower or higher is better"
            )
        return known[name]


def chosen(uses: Sequence[Use], registry: Registry, setting: str) -> Chosen:
    """Make the evaluators that are asked for.

    Args:
        uses: names, with options or without.
        registry: knows the names.
        setting: where they stand, for errors.

    Raises:
        ConfigError: an option that an evaluator does not take.
        InputError: a value that cannot be meant, or a name or metric that comes twice.
        PluginError: nobody offers an evaluator of that name.
    """
    by_name: dict[str, Evaluator] = {}
    owners: dict[str, str] = {}
    for place, name, options in named(uses, setting):
        if name in by_name:
            raise InputError(f"{place} is {name!r} again; name an evaluator once")
        schema = options_of(registry.get(KIND, name))
        with prefix_errors(place):
            made = registry.guarded(KIND, name)(**check(schema, options, place))
        for metric in made.metrics:
            if metric in owners:
                raise InputError(
                    f"{setting}: {owners[metric]} and {name} both measure {metric!r}; "
                    "leave one out"
                )
            owners[metric] = name
        by_name[name] = made
    return Chosen(by_name)


def evaluators_of(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> Chosen:
    """The evaluators of a run, seen to measure what its gate and phases decide by.

    Raises:
        ConfigError: within a phase nothing is measured that decides or is shown there,
            or weights are split.
        InputError: a metric that nothing measures, or options that cannot be meant.
        PluginError: nobody offers an evaluator of that name.
    """
    uses = list(config.eval.use)
    if USUAL not in [name for _, name, _ in named(uses, "eval.use")]:
        uses.insert(0, USUAL)
    evaluators = chosen(uses, registry, "eval.use")
    evaluators.metric(config.gate.metric, "gate.metric")
    read_pairs(config.eval.pairs)
    for phase in phases:
        for setting, metric in phase.train.watched.items():
            evaluators.metric(metric, f"phase {phase.name}: train.{setting}")
            if not config.eval.every:
                raise ConfigError(
                    f"phase {phase.name}: train.{setting} decides by {metric} while it "
                    "trains, but eval.every is 0; set how many steps lie between two "
                    "measurements"
                )
        if config.eval.every and phase.train.zero_stage == 3:
            raise ConfigError(
                f"eval.every is {config.eval.every}, but train.zero_stage=3 splits the "
                f"weights of phase {phase.name}; set a lower stage, or eval.every=0"
            )
    if config.samples.during and not config.eval.every:
        raise ConfigError(
            "samples.during is true, but eval.every is 0; set how many steps lie "
            "between two samples of the student's writing"
        )
    return evaluators


def evaluators_used(uses: Sequence[Use]) -> dict[tuple[str, str], list[Any]]:
    """Kind and name of a run's evaluators, with the options of each."""
    return {(KIND, name): [options] for _, name, options in named(uses, "eval.use")}


def named(
    uses: Sequence[Use], setting: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, name and options of what is asked for.

    Raises:
        InputError: no name can be read.
    """
    for index, use in enumerate(uses):
        place = f"{setting}[{index}]"
        try:
            name, options = choice_of(place, use)
        except ValueError as error:
            raise InputError(str(error)) from error
        yield place, name, options


def typed(words: Sequence[str]) -> list[Use]:
    """Uses as a command line says them: names, with blanks or commas between them, and
    ``{use: NAME, OPTION: VALUE}``."""
    uses: list[Use] = []
    for word in words:
        if word.lstrip().startswith("{"):
            uses.append(read_yaml(word, "--use"))
        else:
            uses += [name for name in word.split(",") if name]
    return uses
