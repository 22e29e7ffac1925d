"""What is refused before any work: settings that exclude each other, names, room."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path

from align.bounds.regular_file import refuse_pipes
from align.errors import InputError
from align.schedules import (
    RULES,
    ScheduledNotNegative,
    Timetable,
    needs_domains,
    needs_losses,
    signals_of,
)
from experiments.assemble.outputs import build_term, output_of, reading_outputs
from experiments.assemble.selecting.selectors import check_selection
from experiments.choosing.before_reading import check_choice
from experiments.config.parsing import ConfigError, check
from experiments.config.schedules import (
    check_schedules,
    heats_of,
    moving_numbers,
    schedules_of,
)
from experiments.config.tree import Config, PhaseConfig
from experiments.config.used_plugins import check_names
from fuse.config import LEARNABLE, choice_of
from fuse.signals import OF_FORETOLD, signals_needed
from plugins.options import choices, options_of
from plugins.registry import Registry
from student.balance import GRADIENTS, balancer_needs
from student.balance import NEXT_TOKEN as NEXT_TOKEN_LOSS
from student.config import TrainConfig
from student.terms.key_value import NEXT_TOKEN, chosen_terms

RESUME = ("auto", "never", "must")


def check_settings(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> None:
    """See that phases go together and that every name is known.

    Raises:
        ConfigError: a setting of the whole run differs between phases, or two exclude
            each other.
        PluginError: nobody registered a name.
    """
    _same_engine([phase.train for phase in phases])
    _same_rotation(config, phases)
    _check_quantised(config, phases[0].train)
    check_names(config, phases, registry)
    for phase in phases:
        _check_options(phase, registry)
        timetable = timetable_of(phase, registry, phase.train.steps or 1)
        predicts = bool(reading_outputs(phase, registry))
        check_schedules(phase, registry, timetable, predicts)
        _check_level(phase, registry)
        _check_labels(phase, config)
        check_choice(phase, registry, config)


def _check_level(phase: PhaseConfig, registry: Registry) -> None:
    """See that what weighs by what was read is not asked for whole texts."""
    router = registry.entry("router", phase.fuse.router).value
    needs = signals_needed(router, phase.fuse.router_options)
    if needs & OF_FORETOLD and phase.fuse.routing_level != "token":
        raise ConfigError(
            f"phase {phase.name!r}: the router {phase.fuse.router!r} weighs token by "
            "token, by what was read before each; set fuse.routing_level=token"
        )


def _check_labels(phase: PhaseConfig, config: Config) -> None:
    """See that ``label`` has labels, and that they name teachers of the config."""
    if phase.fuse.router != "label":
        return
    domains = phase.fuse.router_options.get("domains") or {}
    place = f"phase {phase.name!r}: fuse.fusion_method label"
    example = "{use: label, domains: {DOMAIN: TEACHER}}"
    if not domains:
        raise ConfigError(
            f"{place} has no domains, so that all teachers would weigh alike; say who "
            f"teaches what: {example}"
        )
    for domain, teacher in domains.items():
        if teacher not in config.teachers:
            raise ConfigError(
                f"{place}.domains.{domain} is {teacher!r}, which is no teacher; give "
                f"one of {', '.join(config.teachers) or 'none'}"
            )


def unknown_labels(phase: PhaseConfig, domains: Iterable[str]) -> Iterator[str]:
    """A sentence on each domain that ``label`` names and no text has.

    Args:
        phase: resolved settings.
        domains: of the run's texts.
    """
    if phase.fuse.router != "label":
        return
    known = sorted(set(domains))
    for domain in phase.fuse.router_options.get("domains") or {}:
        if domain not in known:
            yield (
                f"phase {phase.name!r}: fuse.fusion_method.domains names {domain!r}, "
                f"which no text is of; the texts are of {', '.join(known)}"
            )


def _check_options(phase: PhaseConfig, registry: Registry) -> None:
    """See that what stands beside a plugin's name is what it takes, by type."""
    fuse = phase.fuse
    method, _ = choice_of("fuse.fusion_method", fuse.fusion_method)
    named = "router_type" if method == LEARNABLE else "fusion_method"
    for kind, name, options, setting in (
        ("router", fuse.router, fuse.router_options, named),
        ("space", fuse.space_name, fuse.space_options, "space"),
    ):
        factory = registry.entry(kind, name).value
        check(options_of(factory), options, f"fuse.{setting}")
    _check_balance(phase, registry)
    check_selection(phase, registry)
    for name, term in chosen_terms(phase.loss, phase.output).items():
        if name not in phase.loss.terms:
            continue  # a short form has no options
        factory = registry.entry("objective", term.kind).value
        options_class = options_of(factory)
        place = f"phase.{phase.name}.loss.terms.{name}"
        if getattr(factory, "reads_head", False):
            _check_head(phase.train, place, term.kind)
        entry = {"use": term.kind, "weight": term.weight, **term.options}
        check(_term_schema(options_class), entry, place)
        for option, choice in choices(factory, term.options).items():
            named = registry.entry(choice.kind, choice.name).value
            check(options_of(named), choice.options, f"{place}.{option}")
        try:
            objective = build_term(term, registry)
            output_of(phase, name)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error
        least = getattr(getattr(objective, "distance", None), "least_texts", 1)
        if phase.train.batch_size < least:
            raise ConfigError(
                f"{place} compares a text with the others of its pass, but "
                f"train.batch_size is {phase.train.batch_size}; set {least} or more, "
                "or choose other negatives"
            )


def _check_head(train: TrainConfig, place: str, kind: str) -> None:
    if train.engine == "deepspeed" and train.zero_stage == 3:
        raise ConfigError(
            f"{place}: {kind} reads the student's head, which train.zero_stage=3 "
            f"splits between processes; set train.zero_stage=2, or {place}.weight=0"
        )


def _check_balance(phase: PhaseConfig, registry: Registry) -> None:
    """See that a balancer takes its options and can have what it needs."""
    name, options = phase.loss.balancer
    factory = registry.entry("balancer", name).value
    place = f"phase.{phase.name}.loss.balance"
    check(options_of(factory), options, place)
    needs, train = balancer_needs(factory), phase.train
    terms = chosen_terms(phase.loss, phase.output)
    if NEXT_TOKEN_LOSS in needs and not any(
        term.kind == NEXT_TOKEN for term in terms.values()
    ):
        raise ConfigError(
            f"{place} is {name!r}, which brings the terms to the size of the "
            "next-token loss, and there is none; give loss.delta_ce a weight > 0, or "
            "choose another balancer"
        )
    if GRADIENTS not in needs:
        return
    if train.engine == "deepspeed" and train.zero_stage == 3:
        raise ConfigError(
            f"{place} is {name!r}, which walks back through every term by itself, "
            "and train.zero_stage=3 parts the weights it meets there; set "
            "train.zero_stage=2 or less, or choose relative or uncertainty"
        )
    if train.fp16:
        raise ConfigError(
            f"{place} is {name!r}, which compares gradients, and those of single "
            "terms vanish in train.fp16; set train.bf16=true instead, or choose "
            "relative or uncertainty"
        )


def timetable_of(
    phase: PhaseConfig, registry: Registry, steps: int, seed: int = 0
) -> Timetable:
    """What a phase's settings are at each step.

    Args:
        phase: resolved settings.
        registry: where rules are looked up.
        steps: optimiser steps of the phase.
        seed: of the phase, for what terms draw.
    """
    schedules, heats = schedules_of(phase), heats_of(phase)
    moving = {moved.rule for moved in schedules.values()}
    others = {
        rule: registry.guarded("schedule", rule)
        for rule in sorted(moving - RULES.keys())
    }
    rules = {**RULES, **others}
    kinds = {rule: registry.entry("schedule", rule).value for rule in moving}
    cold = {moved.rule for place, moved in schedules.items() if place not in heats}
    reads_losses = any(map(needs_losses, kinds.values()))
    signals = frozenset().union(*(signals_of(kinds[rule]) for rule in cold))
    return Timetable(
        steps,
        rules=rules,
        reads_losses=reads_losses,
        reads_domains=any(map(needs_domains, kinds.values())),
        seed=seed,
        signals=signals,
        numbers=moving_numbers(phase, registry),
    )


@dataclass(frozen=True, kw_only=True)
class _AnyTerm:
    """What stands beside the options of every term."""

    use: str = ""
    weight: ScheduledNotNegative = 1.0


def _term_schema(options: type) -> type:
    """The keys of an entry of ``loss.terms``."""
    return make_dataclass(
        "Term", [], bases=(_AnyTerm, options), frozen=True, kw_only=True
    )


def check_causal(name: str, kind: str) -> None:
    """See that a student predicts text.

    Raises:
        InputError: it is an encoder alone.
    """
    if kind == "encoder":
        raise InputError(
            f"student.model {name!r} is an {kind}, but what is learned and carried "
            "over is the next token and keys and values of what was read before it; "
            "give a causal language model, or an encoder-decoder for data.pairs"
        )


def check_positions(config: Config, positions: int | None) -> None:
    """See that the student has positions for texts of ``data.max_length``.

    Args:
        config: the run.
        positions: of the student's table, None where it has none.

    Raises:
        InputError: there are fewer.
    """
    if positions is not None and config.data.max_length > positions:
        raise InputError(
            f"data.max_length is {config.data.max_length}, but the student "
            f"{config.student.model!r} has {positions} positions; set "
            f"data.max_length={positions} or less"
        )


def check_resume(run_dir: Path, resume: str) -> None:
    """See that there is, or is not, a run to go on with.

    Args:
        run_dir: the run's.
        resume: one of ``RESUME``.

    Raises:
        ConfigError: it is none of them, or not as it says.
        InputError: among the run's files is a pipe.
    """
    if resume not in RESUME:
        raise ConfigError(f"resume is {resume!r}; give one of {', '.join(RESUME)}")
    refuse_pipes(run_dir)
    there = (run_dir / "config.yaml").is_file()
    if not there and resume == "must":
        raise ConfigError(
            f"--resume must: there is no run in {run_dir} to continue; check run.dir "
            "and run.name"
        )
    if there and resume == "never":
        raise ConfigError(
            f"{run_dir} holds a run already; choose another run.name, or --resume "
            "auto to continue it"
        )


def check_disk(run_dir: Path, student_bytes: int, phases: int) -> None:
    """See that there is room for students of every phase, and for one checkpoint with
    optimiser state.

    Args:
        run_dir: the run's, which need not be there yet.
        student_bytes: size of the student's weights.
        phases: of all arms together.

    Raises:
        ConfigError: there is less.
    """
    needed = student_bytes * (phases + 1) + 6 * student_bytes
    free = free_bytes(run_dir)
    if free < needed:
        raise ConfigError(
            f"the run writes about {needed / 2**20:.0f} MiB under {run_dir}, but "
            f"{free / 2**20:.0f} MiB are free; free some space or set run.dir to "
            "another disk"
        )


def free_bytes(folder: Path) -> int:
    """Free on the disk where a folder is, or will be."""
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    return shutil.disk_usage(there).free


def _same_engine(trains: Sequence[TrainConfig]) -> None:
    """One process has one engine: what it is made of cannot change by phase."""
    fields = (
        "engine zero_stage optimizer batch_size grad_accum fp16 threads max_grad_norm "
        "teacher_ranks zero_hpz_partition_size"
    )
    for name in fields.split():
        values = {getattr(train, name) for train in trains}
        if len(values) > 1:
            raise ConfigError(
                f"train.{name} differs between phases ({sorted(map(str, values))}); "
                "it belongs to the whole run: set it under train or phase.all.train"
            )


def _same_rotation(config: Config, phases: Sequence[PhaseConfig]) -> None:
    """Teachers are loaded once, so how far they may read is the whole run's choice."""
    for phase in phases:
        if phase.align.rope_scaling_method != config.align.rope_scaling_method:
            raise ConfigError(
                f"phase {phase.name!r} sets align.rope_scaling_method to "
                f"{phase.align.rope_scaling_method!r}, the run to "
                f"{config.align.rope_scaling_method!r}; set it under align, for all"
            )


def _check_quantised(config: Config, train: TrainConfig) -> None:
    """ZeRO 3 would take the bytes of quantised weights for numbers to part."""
    splits = train.engine == "deepspeed" and train.zero_stage == 3
    if splits and config.student.quantise != "none":
        raise ConfigError(
            f"student.quantise={config.student.quantise} does not go with "
            "train.zero_stage=3, which parts weights that are numbers; set "
            "train.zero_stage=2 or less: a quantised student is small, and what is "
            "trained of it smaller still"
        )
