"""What a sweep tries: settings with several values, and those that all trials share."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import InputError
from experiments.config.parsing import ConfigError, load_mapping, load_yaml, merge
from experiments.config.tree import load_config
from experiments.record.which_run import CONFIG

SEED = "run.seed"
"""The setting whose values are averaged over, not compared."""
MOST = 10_000
"""Trials that a grid may have."""

Settings = tuple[tuple[str, Any], ...]
"""Keys with values, in the order in which they were typed."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two, drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool
    whole: bool
    """Whether only whole numbers are meant."""

    def draw(self, generator: random.Random) -> float:
        """One of them."""
        if self.whole and not self.log:
            return generator.randint(int(self.low), int(self.high))
        if self.log:
            at = generator.uniform(math.log(self.low), math.log(self.high))
            value = math.exp(at)
        else:
            value = generator.uniform(self.low, self.high)
        return round(value) if self.whole else float(f"{value:.4g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Settings that a sweep tries, beside those that it does not."""

    fixed: tuple[str, ...]
    """``key=value`` as typed, of every trial."""
    tried: Mapping[str, Sequence[Any] | Range]
    """By key what it may be."""

    def grid(self) -> list[Settings]:
        """Every combination, the last key's values changing first.

        Raises:
            InputError: a range, which has no end of values, or too many of them.
        """
        lists = {}
        for key, values in self.tried.items():
            if isinstance(values, Range):
                raise InputError(
                    f"{key} is a range, which a grid cannot go through; give values, "
                    f"such as {key}=[{values.low:g}, {values.high:g}], or --search "
                    "random --trials N"
                )
            lists[key] = values
        count = math.prod(len(values) for values in lists.values())
        if count > MOST:
            raise InputError(
                f"the grid has {count} trials, more than {MOST}; give fewer values, or "
                "--search random --trials N"
            )
        combined = itertools.product(*lists.values())
        return [tuple(zip(lists, values, strict=True)) for values in combined]

    def drawn(self, count: int, seed: int) -> list[Settings]:
        """Different combinations drawn at random, each with every seed that is tried.

        Where all are lists and there are no more than ``count`` combinations, all.

        Args:
            count: combinations.
            seed: of the draw; more combinations of one seed begin with the fewer.

        Raises:
            InputError: more than :data:`MOST`, or a range of seeds.
        """
        if count > MOST:
            raise InputError(f"--trials is {count}; a sweep has at most {MOST} of them")
        seeds = self.tried.get(SEED, [None])
        if isinstance(seeds, Range):
            raise InputError(f"{SEED} is a range; give a list of seeds")
        others = {key: v for key, v in self.tried.items() if key != SEED}
        lists = [v for v in others.values() if not isinstance(v, Range)]
        whole = len(lists) == len(others)
        most = math.prod(map(len, lists)) if whole else math.inf
        generator, chosen = random.Random(seed), dict[str, Settings]()
        misses = 0
        while len(chosen) < min(count, most) and misses < 1000:
            settings = tuple((k, _one_of(v, generator)) for k, v in others.items())
            misses = misses + 1 if repr(settings) in chosen else 0
            chosen.setdefault(repr(settings), settings)
        return [
            settings if value is None else (*settings, (SEED, value))
            for settings in chosen.values()
            for value in seeds
        ]


def _one_of(values: Sequence[Any] | Range, generator: random.Random) -> Any:
    if isinstance(values, Range):
        return values.draw(generator)
    return generator.choice(list(values))


def read_once(source: Path | None) -> dict[str, Any]:
    """A config's file as it stands now, for all trials.

    Args:
        source: None for defaults alone.

    Raises:
        ConfigError: see :func:`experiments.config.parsing.load_mapping`.
    """
    if source is None:
        return {}
    data = load_mapping(source)
    if source.name == CONFIG:
        return data
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", source.stem)
    return merge({"run": {"name": stem}}, data)


def read_space(source: Mapping[str, Any], overrides: Sequence[str]) -> Space:
    """Tell what is tried from what is set.

    A list is tried, value by value, unless the setting itself takes a list; then a list
    of lists is. ``{values: [...]}`` is tried in any case, ``{low: A, high: B}`` is a
    range, with ``log: true`` of logarithms.

    Args:
        source: of the config, see :func:`read_once`.
        overrides: ``key=value``.

    Raises:
        ConfigError: an override that cannot be used.
        InputError: a key comes twice, nothing is tried, or no list or range can be
            read.
    """
    overrides = [_in_full(item) for item in overrides]
    plain = [item for item in overrides if not _several(item)]
    fixed: list[str] = []
    tried: dict[str, Sequence[Any] | Range] = {}
    for item in overrides:
        key, _, text = item.partition("=")
        values = _values(source, key, item, text, beside=plain)
        if values is None:
            fixed.append(item)
            continue
        if key in ("run", "run.name", "run.dir"):
            raise InputError(
                f"{key} is given several values, but a sweep names its trials and "
                "their folders itself; set run.dir to one value, name the sweep by "
                "--name, and try settings of what is trained"
            )
        if key in tried:
            raise InputError(f"{key} is tried twice; give all its values in one list")
        tried[key] = values
    if not tried:
        raise InputError(
            "nothing is tried: give a setting several values, such as "
            "train.learning_rate=[0.001,0.003]; of one that takes a list, a list of "
            "lists, or {values: [...]}"
        )
    return Space(fixed=tuple(fixed), tried=tried)


def _in_full(item: str) -> str:
    key, equals, text = item.partition("=")
    key = {"seed": SEED}.get(key.strip(), key.strip())
    return f"{key}={text}" if equals else item


def _several(item: str) -> bool:
    return item.partition("=")[2].lstrip().startswith(("[", "{"))


def _values(
    source: Mapping[str, Any], key: str, item: str, text: str, *, beside: Sequence[str]
) -> Sequence[Any] | Range | None:
    """What is tried of one setting; None where it is set."""
    value = load_yaml(text, f"the value of override {key!r}") if "=" in item else None
    if isinstance(value, dict) and value.keys() == {"values"}:
        return _listed(key, value["values"])
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        return _range(key, value)
    if not isinstance(value, list):
        return None
    try:
        load_config(source, [*beside, item])
        if _takes_anything(source, key, beside):
            raise InputError(
                f"{item} may be one value or several: an option of a plugin takes "
                f"anything. Write '{key}={{values: {text.strip()}}}' to try each, or "
                f"'{key}={{values: [{text.strip()}]}}' to set the list"
            )
        return None  # the setting takes a list
    except ConfigError:
        if not value:
            raise
    # says what is wrong with one value
    load_config(source, [*beside, written(key, value[0])])
    return _listed(key, value)


def _takes_anything(source: Mapping[str, Any], key: str, beside: Sequence[str]) -> bool:
    """Whether a setting is no field with a type, but an option that a plugin reads."""
    try:
        load_config(source, [*beside, f"{key}=[[{{probe: [null]}}]]"])
    except ValueError:
        return False
    return True


def _listed(key: str, values: Any) -> Sequence[Any]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{key}: give a list of values to try, got {values!r}")
    twice = [v for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise InputError(f"{key} has {twice[0]!r} twice; give each value once")
    return values


def _range(key: str, given: Mapping[str, Any]) -> Range:
    unknown = given.keys() - {"low", "high", "log"}
    ends = [_number(given["low"]), _number(given["high"])]
    log = given.get("log", False)
    low, high = ends
    if unknown or low is None or high is None or not isinstance(log, bool):
        raise InputError(
            f"{key} is {dict(given)!r}; give a range as {{low: 0.0001, high: 0.01, "
            "log: true}, log being true or false"
        )
    if not low < high or (log and low <= 0):
        raise InputError(
            f"{key} has the range {low:g} to {high:g}; low must be less than high"
            f"{' and, with log, more than 0' if log else ''}"
        )
    return Range(low, high, log, all(isinstance(end, int) for end in ends))


def _number(value: Any) -> float | None:
    """YAML reads ``1e-4`` as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and math.isfinite(value) else None


def written(key: str, value: Any) -> str:
    """``key=value`` as a command line says it."""
    import json

    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{key}={text}"
