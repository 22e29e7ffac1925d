"""When a setting of a phase has something to act on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from align.schedules import is_on
from align.views import ATTENTION, HEADS
from experiments.assemble.needs import asking_objectives
from experiments.assemble.outputs import kinds_of, reading_outputs
from experiments.config.tree import PhaseConfig
from fuse.config import LEARNABLE, SETTINGS, choice_of
from fuse.routers.router import learns
from plugins.options import options_of
from plugins.registry import Registry
from student.objective import RELATIONS, needs_of
from student.output_config import OUTPUT_TERMS, OutputConfig
from student.terms.key_value import BUILT_IN, OBJECTIVES

Idle = Callable[[PhaseConfig, Registry], str]
"""Why a setting changes nothing in a phase; nothing where it may change something."""


def _unless(acts: Callable[[PhaseConfig], object], why: str) -> Idle:
    """Idle where another setting of the phase does not ask for it.

    Args:
        acts: whether it does.
        why: not, with the phase as ``{0}``.
    """
    return lambda phase, registry: "" if acts(phase) else why.format(phase)


_NO_OUTCOME = _unless(
    lambda phase: phase.loss.outcome_every,
    "loss.outcome_every is 0: no outcome is measured",
)


def rules() -> dict[str, Idle]:
    """When settings of phases are idle, by their full names.

    A setting that is not here always acts, or it takes more than the settings to see.
    """
    return {
        **{built_in.short: _given_way(name) for name, built_in in BUILT_IN.items()},
        **{f"output.{name}": _of_terms(kinds) for name, kinds in _kinds_by_option()},
        **{
            f"fuse.{name}": _of_router(router)
            for router in ("fixed", "similarity")
            for name in SETTINGS[router]
            if name != "temperature"  # of learned routers, too
        },
        **{f"fuse.{name}": _outside_of_z for name in SETTINGS["z"]},
        "output.mix": _no_mean,
        "output.label_smoothing": _no_hard_labels,
        "align.adapter": _no_adapters,
        "fuse.num_clusters": _clusters,
        "fuse.routing_level": _unless(
            lambda phase: phase.fuse.router != "fixed" or phase.fuse.chosen != "soft",
            "the router is 'fixed' and fuse.choice soft: all texts and tokens are "
            "weighed alike",
        ),
        "fuse.router_type": _no_router_type,
        "fuse.entropy_reg_strength": _nothing_learns,
        "fuse.entropy_target": _no_entropy,
        "fuse.entropy_warmup_steps": _no_entropy,
        "loss.router_signal": _nothing_learns,
        **dict.fromkeys(("loss.eta_outcome", "loss.outcome_layers"), _NO_OUTCOME),
        "loss.temperatures": _no_attention,
        "loss.temperature_rise": _no_attention,
        "loss.attention_rows": _no_attention,
        "loss.domain_signal": _unless(
            lambda phase: is_on(phase.loss.domain_balance),
            "loss.domain_balance is 0: all domains count alike",
        ),
        "loss.fade_to": _unless(
            lambda phase: phase.loss.fade_steps,
            "loss.fade_steps is 0, and it says where these steps lead",
        ),
        "train.num_epochs": _unless(
            lambda phase: phase.train.steps is None,
            "train.steps={0.train.steps} says how long a phase is",
        ),
        "train.matrix_learning_rate": _unless(
            lambda phase: phase.train.optimizer == "muon",
            "it is of train.optimizer=muon, and that is {0.train.optimizer!r}",
        ),
        "train.balance_learning_rate": _unless(
            lambda phase: phase.loss.balance != "none",
            "loss.balance is none: no weights of terms are learned",
        ),
        "train.z_learning_rate": _outside_of_z,
        "train.router_learning_rate": _nothing_learns,
        "train.zero_stage": _unless(
            lambda phase: phase.train.engine == "deepspeed",
            "ZeRO is DeepSpeed's, and train.engine is torch",
        ),
        "train.early_stop.patience": _unless(
            lambda phase: phase.train.early_stop.metric is not None,
            "train.early_stop.metric is null: all steps are done",
        ),
    }


def _given_way(term: str) -> Idle:
    """A weight that is short for a term gives way to the term itself."""
    why = f"loss.terms.{term} says the weight"
    return lambda phase, registry: why if term in phase.loss.chosen else ""


def _kinds_by_option() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Settings of ``output`` that stand in for an option of terms, with their kinds."""
    for field in fields(OutputConfig):
        kinds = tuple(
            kind
            for kind in OUTPUT_TERMS
            if any(
                each.name == field.name for each in fields(options_of(OBJECTIVES[kind]))
            )
        )
        if kinds and field.name != "teachers":
            yield field.name, kinds


def _of_terms(kinds: tuple[str, ...]) -> Idle:
    def idle(phase: PhaseConfig, registry: Registry) -> str:
        on = set(kinds_of(phase))
        strangers = {*on} - {*OBJECTIVES} and reading_outputs(phase, registry)
        if on & {*kinds} or strangers:
            return ""
        named = " or ".join(f"output.{kind}" for kind in kinds)
        return f"it is of {named}, and no such term is on"

    return idle


def _no_mean(phase: PhaseConfig, registry: Registry) -> str:
    why = _of_terms(("kd", "hybrid_ot", "projected_kl"))(phase, registry)
    kind = phase.output.divergence
    apart = any("divergence" in term.options for term in phase.loss.chosen.values())
    if why or apart or kind not in ("forward", "reverse"):
        return why
    return f"output.divergence is {kind!r}, which has no mean in it"


def _no_hard_labels(phase: PhaseConfig, registry: Registry) -> str:
    why = _of_terms(("kd",))(phase, registry)
    apart = any("hard_labels" in term.options for term in phase.loss.chosen.values())
    if why or apart or is_on(phase.output.hard_labels):
        return why
    return "output.hard_labels is 0: there are no labels to smooth"


def _of_router(name: str) -> Idle:
    def idle(phase: PhaseConfig, registry: Registry) -> str:
        if phase.fuse.router == name:
            return ""
        return f"it is of fuse.fusion_method={name}, and the router is {_router(phase)}"

    return idle


def _router(phase: PhaseConfig) -> str:
    return repr(phase.fuse.router)


def _outside_of_z(phase: PhaseConfig, registry: Registry) -> str:
    space = phase.fuse.space_name
    if space not in ("student", "losses"):
        return ""  # z, or a plugin's, which may learn a latent of its own
    return f"it is of fuse.space=z, and the space is {space!r}"


def _no_adapters(phase: PhaseConfig, registry: Registry) -> str:
    space = phase.fuse.space_name
    if space == "z":
        return "in fuse.space=z coders take the place of adapters"
    outcome = is_on(phase.loss.eta_outcome) and phase.loss.outcome_every > 0
    if space != "losses" or outcome:
        return ""
    return "in fuse.space=losses only the outcome adapts, and loss.outcome_every is 0"


def _clusters(phase: PhaseConfig, registry: Registry) -> str:
    why = _of_router("similarity")(phase, registry)
    if why or phase.fuse.prototype_method == "kmeans":
        return why
    method = phase.fuse.prototype_method
    return f"it is of fuse.prototype_method=kmeans, and that is {method!r}"


def _no_router_type(phase: PhaseConfig, registry: Registry) -> str:
    method = choice_of("fuse.fusion_method", phase.fuse.fusion_method)[0]
    if method == LEARNABLE:
        return ""
    return f"it is of fuse.fusion_method={LEARNABLE}, and that is {method!r}"


def _nothing_learns(phase: PhaseConfig, registry: Registry) -> str:
    if learns(registry.guarded("router", phase.fuse.router)):
        return ""
    return f"the router {_router(phase)} learns nothing"


def _no_entropy(phase: PhaseConfig, registry: Registry) -> str:
    why = _nothing_learns(phase, registry)
    if why or is_on(phase.fuse.entropy_reg_strength):
        return why
    return "fuse.entropy_reg_strength is 0"


def _no_attention(phase: PhaseConfig, registry: Registry) -> str:
    needs = needs_of(asking_objectives(phase, registry))
    if needs & {ATTENTION, HEADS, RELATIONS}:
        return ""
    return "no term compares attention or relations (loss.gamma_kl, loss.relation_k, …)"
