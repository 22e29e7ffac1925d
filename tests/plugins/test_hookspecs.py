"""Every hook is documented, filled by the built-ins, and tried from outside."""

import inspect

import pytest

from plugins import KINDS, Registry, builtin, hookspecs
from plugins.contracts.check import CONTRACTS
from plugins.templates import EXAMPLES

HOOKS = list(KINDS.values())


def test_there_is_one_hook_per_kind_of_the_design():
    assert list(KINDS.items()) == [
        ("aligner", "aligners"),
        ("layer_map", "layer_maps"),
        ("adapter", "adapters"),
        ("rope_scaler", "rope_scalers"),
        ("router", "routers"),
        ("space", "spaces"),
        ("objective", "objectives"),
        ("distance", "distances"),
        ("projector", "projectors"),
        ("balancer", "balancers"),
        ("selector", "selectors"),
        ("schedule", "schedules"),
        ("teacher_source", "teacher_sources"),
        ("student_maker", "student_makers"),
        ("transform", "transforms"),
        ("writer", "writers"),
        ("evaluator", "evaluators"),
        ("curriculum", "curricula"),
        ("phase", "phases"),
    ]
    assert set(CONTRACTS) == set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_docstring_is_the_manual(hook):
    manual = inspect.getdoc(getattr(hookspecs, hook))
    assert manual is not None and len(manual.split()) > 40
    # what is offered, what it takes or consists of, and where a config says so
    assert manual.startswith("Offer ")
    assert "Chosen by ``" in manual or "Weighted by ``" in manual


@pytest.mark.parametrize("hook", HOOKS)
def test_the_specification_says_what_is_returned(hook):
    signature = inspect.signature(getattr(hookspecs, hook))
    assert not signature.parameters
    assert str(signature.return_annotation).startswith("Mapping[str, ")


@pytest.mark.parametrize("hook", [h for h in HOOKS if h != "phases"])
def test_built_ins_use_the_same_hooks(hook):
    assert hasattr(getattr(builtin, hook), "mtkd_impl")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_stranger_may_use_the_hook(hook):
    offered = {"mine": {"title": "mine"} if hook == "phases" else dict}

    class Stranger:
        pass

    setattr(Stranger, hook, hookspecs.hookimpl(lambda self: offered))
    kind = next(k for k, h in KINDS.items() if h == hook)
    registry = Registry.load([Stranger()], entry_points=False)
    assert registry.get(kind, "mine") is offered["mine"]
    assert "mine" in registry.names(kind)
