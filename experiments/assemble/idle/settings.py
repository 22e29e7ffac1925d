"""Settings that somebody gave and that change nothing: said before a run works.

A setting that is quietly without effect is worse than one that is refused: who gave it
believes that it was tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from align.schedules import is_on
from experiments.assemble.idle.of_phases import rules
from experiments.assemble.outputs import kinds_of
from experiments.assemble.text_sources import domains_of
from experiments.config.parsing import plain
from experiments.config.phase_choice import EVERY_PHASE
from experiments.config.tree import GENERAL, Config, PhaseConfig, preset_name
from fuse.config import choice_of
from plugins.registry import Registry
from student.evaluators.built_in import read_pairs_by

_STORED = ("form", "encoding", "rank", "top_k", "zstd", "shard_samples", "batch_size")
_BY_DEFAULT: Mapping[str, Any] = plain(Config())


def idle_settings_given(
    config: Config,
    phases: Sequence[PhaseConfig],
    presets: Mapping[str, Mapping[str, Any]],
    registry: Registry,
) -> list[str]:
    """What a config gives that changes nothing in the run, a sentence each.

    A general setting counts as given where it is not its default, one of a phase
    wherever it stands. One that acts in any phase for which it was given is not named,
    nor is what a preset sets.

    Args:
        config: the run.
        phases: its phases, resolved.
        presets: partial configs by phase name.
        registry: knows routers, spaces and terms.
    """
    sentences = list(_of_phases(config, phases, presets, registry))
    return [*sentences, *_of_run(config, phases), *_phases_left_out(config)]


def _of_phases(
    config: Config,
    phases: Sequence[PhaseConfig],
    presets: Mapping[str, Mapping[str, Any]],
    registry: Registry,
) -> Iterator[str]:
    general = plain(config)
    for name, why_idle in rules().items():
        preset = [presets[preset_name(config, p.name, presets)] for p in phases]
        asked = [
            phase
            for phase, below in zip(phases, preset, strict=True)
            if _given(config, general, phase.name, below, name)
        ]
        reasons = [why_idle(phase, registry) for phase in asked]
        if asked and all(reasons):
            some = [phase.name for phase in asked if len(asked) < len(phases)]
            where = f" in {', '.join(some)}" if some else ""
            yield f"{name} changes nothing{where}: {reasons[0]}"
    yield from _named_in_vain(phases)
    yield from _slow_warm_ups(phases)


def _given(
    config: Config,
    general: Mapping[str, Any],
    phase: str,
    preset: Mapping[str, Any],
    name: str,
) -> bool:
    """Whether a phase has a setting as somebody gave it."""
    of_phases = (config.phase.get(phase, {}), config.phase.get(EVERY_PHASE, {}))
    if any(_at(section, name) is not None for section in of_phases):
        return True
    if _at(preset, name) is not None:
        return False
    return bool(_at(general, name) != _at(_BY_DEFAULT, name))


def _at(tree: Mapping[str, Any], name: str) -> Any:
    """A setting's value in nested mappings; None where it is not given."""
    value: Any = tree
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _named_in_vain(phases: Sequence[PhaseConfig]) -> Iterator[str]:
    on = {kind for phase in phases for kind in kinds_of(phase)}
    named = dict.fromkeys(name for phase in phases for name in phase.output.teachers)
    for name in named:
        if name not in on:
            yield f"output.teachers.{name} changes nothing: output.{name} is 0"


def _slow_warm_ups(phases: Sequence[PhaseConfig]) -> Iterator[str]:
    for phase in phases:
        warmup, steps = phase.train.warmup_steps, phase.train.steps
        if steps and warmup >= steps:
            yield (
                f"phase {phase.name!r}: train.warmup_steps={warmup} is no shorter than "
                f"its {steps} steps: the learning rate ends before it is at its peak"
            )


def _of_run(config: Config, phases: Sequence[PhaseConfig]) -> Iterator[str]:
    given, rows = plain(config), list[tuple[str, Sequence[str], str]]()
    if not config.student.lora.rank:
        why = "student.lora.rank is 0: there are no low-rank updates"
        rows.append(("student.lora", ("alpha", "targets", "dropout"), why))
    if config.data.eval:
        why = "data.eval gives the held-out text"
        rows.append(("data", ("eval_share",), why))
    if config.data.written.by is None:
        why = "data.written.by is null: no text is written"
        rows.append(("data.written", (*given["data"]["written"],), why))
    if config.store.read is False:
        why = "store.read is false: teachers are asked live, no store is read"
        rows.append(("store", _STORED, why))
    if config.answers.keep == "none":
        why = "answers.keep is none"
        rows.append(("answers", ("memory_gib", "disk_gib"), why))
    if not config.samples.prompts:
        why = "samples.prompts is 0: the student writes nothing"
        rows.append(("samples", ("max_new_tokens", "temperature", "during"), why))
    asks = {choice_of("eval.use", use)[0] for use in config.eval.use}
    if not read_pairs_by(asks):
        why = "eval.use has no generation, which asks them"
        rows.append(("eval", ("pairs",), why))
    for section, keys, why in rows:
        for key in keys:
            name = f"{section}.{key}"
            if _at(given, name) != _at(_BY_DEFAULT, name):
                yield f"{name} changes nothing: {why}"
    yield from _weights(config, phases)
    yield from _one_domain(config, phases)


def _weights(config: Config, phases: Sequence[PhaseConfig]) -> Iterator[str]:
    """Of teachers, where no phase reads them."""
    if any(p.fuse.router == "fixed" and p.fuse.weights is None for p in phases):
        return
    listed = any(p.fuse.weights is not None for p in phases)
    why = "fuse.weights says all shares" if listed else "no phase's router is 'fixed'"
    for name, teacher in config.teachers.items():
        if teacher.weight != 1:
            yield f"teachers.{name}.weight changes nothing: {why}"


def _one_domain(config: Config, phases: Sequence[PhaseConfig]) -> Iterator[str]:
    """What weighs domains against each other, where there is one."""
    domains = domains_of(config.data)
    if len(domains) != 1:
        return
    why = f"all text to learn from is of one domain, {domains[0]!r}"
    if config.data.mix:
        yield f"data.mix changes nothing: {why}"
    if config.data.mix_temperature != 1:
        yield f"data.mix_temperature changes nothing: {why}"
    if any(is_on(phase.loss.domain_balance) for phase in phases):
        yield f"loss.domain_balance changes nothing: {why}"


def _phases_left_out(config: Config) -> Iterator[str]:
    for name, sections in config.phase.items():
        if name not in (*config.phases, EVERY_PHASE) and sections:
            keys = [key for key in sections if key in (*GENERAL, "teachers")]
            what = f"phase.{name}.{keys[0]}" if len(keys) == 1 else f"phase.{name}"
            yield (
                f"{what} changes nothing: the run has the phases "
                f"{', '.join(config.phases)}"
            )
