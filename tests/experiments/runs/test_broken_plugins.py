"""A stranger's fault ends a run with one line that names the plugin, at the start or as
soon as it shows, and never with a report."""

import pytest

from experiments.config.presets import BuiltinPhases
from experiments.config.tree import load_config
from experiments.record.run_dir import read_run
from experiments.report.page import write_report
from experiments.run.driver import run_training
from plugins import PluginError, Registry, hookimpl
from plugins.errors import PluginCrashError
from plugins.registry import KINDS
from tests.everyday import some_daily
from tests.experiments.small_runs import small_config
from tests.plugins.broken import (
    aligners,
    functions,
    matches,
    objectives,
    routers,
    spaces,
)


class Acme:
    """A plugin that offers one thing."""

    def __init__(self, kind, offered):
        self.__name__ = "acme"

        @hookimpl
        def offer():
            return {"it": offered}

        setattr(self, KINDS[kind], offer)


WORDS = {
    "aligner": {"align": {"aligner": "it"}},
    "layer_map": {"align": {"layer_mapping_strategy": "it"}},
    "adapter": {"align": {"adapter": "it"}, "fuse": {"space": "student"}},
    "rope_scaler": {},
    "router": {"fuse": {"router_type": "it", "fusion_method": "learnable"}},
    "space": {"fuse": {"space": "it"}, "loss": {"outcome_every": 1}},
    "objective": {"loss": {"extra": {"it": 0.5}}},
    "distance": {"loss": {"terms": {"m": {"use": "match", "distance": "it"}}}},
    "projector": {
        "loss": {"terms": {"m": {"use": "match", "distance": "mse", "projector": "it"}}}
    },
    "schedule": {
        "output": {
            "kd": 1.0,
            "temperature_rule": "it",
            "teachers": {"kd": ["own", "copy"]},
        }
    },
}


@pytest.fixture
def train(tiny_zoo, tmp_path):
    """Train with a plugin in use; its report, or the error otherwise."""

    def run(kind, offered):
        rule = {"min": 2, "max": 4, "families": "any"}
        own = {"model": str(tiny_zoo["student"])}
        changes: dict = {
            "phase": {"dual": {"teachers": rule, **WORDS[kind]}},
            # every step then reads a sample with the word that is waited for
            "data": {"max_length": 128},
        }
        if kind == "schedule":
            changes["teachers"] = {"own": own, "copy": own}
        if kind == "rope_scaler":
            changes["align"] = {"rope_scaling_method": "it"}
        config = load_config(small_config(tmp_path, tiny_zoo, changes))
        plugins = [BuiltinPhases(), Acme(kind, offered)]
        registry = Registry.load(plugins, entry_points=False)
        try:
            return write_report(read_run(run_training(config, registry=registry)))
        except Exception as error:
            assert not (tmp_path / "run" / "report.md").exists()
            return error

    return run


GOOD = {
    "aligner": "last_token",
    "layer_map": "uniform",
    "adapter": "ridge",
    "rope_scaler": "ntk",
    "router": "gate",
    "space": "student",
    "objective": "kv_k",
    "distance": "cka",
    "projector": "linear",
    "schedule": "linear",
}
OURS = Registry.load(entry_points=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORDS)
def test_a_good_plugin_trains_and_is_named_in_the_report(train, kind):
    report = train(kind, OURS.get(kind, GOOD[kind])).read_text()
    assert f"The {kind.replace('_', ' ')} `it` is of the plugin `acme`" in report


AT_THE_START = {
    "aligner": aligners.BROKEN["leaks"],
    "layer_map": functions.LAYER_MAPS["a_list"],
    "adapter": functions.ADAPTERS["nan"],
    "rope_scaler": functions.ROPE_SCALERS["falls"],
    "router": routers.BROKEN["depends_on_the_batch"],
    "space": spaces.BROKEN["the_future"],
    "objective": objectives.BROKEN["attention_unsaid"],
    "distance": matches.DISTANCES["detached"],
    "projector": matches.PROJECTORS["shrinks_the_target"],
    "schedule": functions.TEMPERATURES["hot"],
}


@pytest.mark.parametrize("kind", some_daily(AT_THE_START, lambda kind: kind != "space"))
def test_a_run_tries_what_it_uses_before_any_work(train, kind, tmp_path):
    error = train(kind, AT_THE_START[kind])
    assert type(error) is PluginError
    told = str(error)
    assert told.startswith(
        f"{kind.replace('_', ' ')} 'it' of plugin 'acme': breaks the"
    )
    assert "\n" not in told
    assert (error.kind, error.name, error.exit_code) == (kind, "it", 2)
    assert not (tmp_path / "run").exists()


LATE = [
    (kind, name, offered)
    for kind, named in {
        "aligner": aligners.LATE,
        "router": routers.LATE,
        "space": spaces.LATE,
        "objective": objectives.LATE,
        **functions.LATE,
        **matches.LATE,
    }.items()
    for name, offered in named.items()
]


@pytest.mark.parametrize(
    ("kind", "offered"),
    # each takes a run
    [
        pytest.param(
            kind,
            offered,
            id=f"{kind}-{name}",
            marks=[] if name == "leaks_late" else [pytest.mark.slow],
        )
        for kind, name, offered in LATE
    ],
)
def test_what_only_shows_while_training_ends_it_and_names_the_plugin(
    train, kind, offered
):
    """That it passes its contract the run has tried at the start."""
    error = train(kind, offered)
    assert isinstance(error, PluginError), error
    told = str(error)
    assert f"{kind.replace('_', ' ')} 'it' of plugin 'acme': " in told
    assert "breaks the promise" not in told and "\n" not in told
    raised = ("IndexError" in told) or ("ZeroDivisionError" in told)
    assert isinstance(error, PluginCrashError) == raised
    assert error.exit_code == (1 if raised else 2)
    assert (error.__cause__ is not None) == (raised or "causal = True" in told)
