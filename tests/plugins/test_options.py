"""What stands beside a plugin's name in a config: typed, checked, handed on."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import pytest
from torch import nn

from experiments.assemble.checks import check_settings
from experiments.config.parsing import ConfigError, check
from experiments.config.presets import BuiltinPhases, presets_of
from experiments.config.tree import load_config, resolve_phases
from fuse.routers.router import LearnableRouter
from plugins import PluginError, Registry, hookimpl
from plugins.options import options_of, with_options
from plugins.trial import try_used


class Sharp(LearnableRouter):
    def __init__(
        self,
        hidden_dim: int,
        num_teachers: int,
        *,
        power: float = 1.0,
        shape: Literal["one", "two"] = "one",
    ) -> None:
        super().__init__(hidden_dim, num_teachers, temperature=1 / power)
        self.shape = shape


@dataclass(kw_only=True)
class Fields:
    scale: float = 2.0


def test_keyword_only_parameters_are_the_options():
    assert [field.name for field in fields(options_of(Sharp))] == ["power", "shape"]
    assert [field.name for field in fields(options_of(Fields))] == ["scale"]
    assert options_of(Fields)().scale == 2.0
    assert options_of(Fields) is options_of(Fields)  # made once
    for without in (LearnableRouter, nn.Identity, dict, lambda a, b: a):
        assert not fields(options_of(without))
    half = partial(Sharp, power=2.0)
    assert [field.name for field in fields(options_of(half))] == ["shape"]


def test_an_option_without_a_default_is_refused():
    def needs(hidden_dim, num_teachers, *, size):
        raise AssertionError

    with pytest.raises(PluginError, match="takes 'size' without a default"):
        options_of(needs)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pwer": 2}, "fuse.router_type.pwer.*did you mean"),
        ({"power": "much"}, "fuse.router_type.power is 'much'; give a number"),
        ({"shape": "three"}, "fuse.router_type.shape is 'three'; give one of"),
    ],
)
def test_options_are_checked_as_settings_are(given, told):
    with pytest.raises(ConfigError, match=told):
        check(options_of(Sharp), given, "fuse.router_type")
    assert check(options_of(Sharp), {"power": 2}, "fuse")["power"] == 2


class Offer:
    @hookimpl
    def routers(self):
        return {"sharp": Sharp}


def config_with(choice):
    return load_config(
        {"teachers": {"a": {"model": "a"}}, "phases": ["single"]},
        [f"phase.single.fuse.fusion_method={choice}"],
    )


def settings_of(choice):
    registry = Registry.load([BuiltinPhases(), Offer()], entry_points=False)
    config = config_with(choice)
    phases = resolve_phases(config, presets_of(registry))
    check_settings(config, phases, registry)
    return registry, phases


def test_a_config_is_refused_by_the_option_before_any_work():
    settings_of("{use: sharp, power: 3}")
    with pytest.raises(ConfigError, match=r"fusion_method.power is 'x'; give a number"):
        settings_of("{use: sharp, power: x}")
    with pytest.raises(ConfigError, match=r"fusion_method.warmth"):
        settings_of("{use: similarity, warmth: 3}")


def test_a_run_tries_a_plugin_with_the_options_it_is_used_with():
    from experiments.config.used_plugins import names_used, options_used

    class Fails:
        @hookimpl
        def routers(self):
            return {"sharp": lambda hidden_dim, num_teachers, *, power=1.0: 1 / power}

    registry = Registry.load([BuiltinPhases(), Fails()], entry_points=False)
    phases = resolve_phases(config_with("{use: sharp, power: 0}"), presets_of(registry))
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        try_used(registry, names_used(phases), options=options_used(phases))


def test_what_is_bound_says_the_same_of_what_it_makes():
    from fuse.routers.router import learns, needs_sample
    from fuse.routers.similarity import SimilarityRouter

    bound = with_options(SimilarityRouter, {"temperature": 2.0})
    assert (learns(bound), needs_sample(bound)) == (False, True)
    assert bound(4, 2).temperature == 2.0
