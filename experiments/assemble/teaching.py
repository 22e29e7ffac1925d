"""Turn one phase's names into the objects that teach."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from align import layer_map
from align.layer_map import LayerMap
from align.schedules import Timetable, is_on
from align.sizes import Sizes
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import KEYS_VALUES, ModelFacts, Teacher, TeacherView
from experiments.assemble.data import Encoder
from experiments.assemble.layer_maps import (
    BATCHES,
    Depth,
    add_importance,
    check_depth,
    layer_maps,
    sample_layers,
)
from experiments.assemble.needs import (
    alone_objectives,
    check_needs,
    check_sizes,
    sizes_of,
    wanted_parts,
    wants_foretold,
    wants_kv,
    wants_own_loss,
    who_gives,
    with_depth,
)
from experiments.assemble.outputs import (
    build_term,
    check_outputs,
    output_heads,
    setting_of,
)
from experiments.assemble.precision import autocast_of
from experiments.choosing.before_reading import Choosing, check_chosen
from experiments.choosing.weigher import (
    build_weigher,
    fixed_weights,
    router_options,
    shares_of,
)
from experiments.config.parsing import ConfigError
from experiments.config.tree import PhaseConfig
from fuse.beforehand.choose import TextChoice
from fuse.routers.router import learns, needs_sample
from fuse.routing_loss import EntropyRegularizer
from fuse.weigher import Weigher
from plugins.registry import Registry
from student.balance import UNBALANCED, Balance
from student.bridges import Bridge, TeacherShape
from student.bridges.calibrate import CalibrationReport, calibrate, fit_positions
from student.config import ChosenTerm, TrainConfig
from student.distiller import Teaching, WeightedObjective
from student.fitting import SampleBatch
from student.layers import check_layers, layers_read
from student.loop.batches import prefetched, query_rows
from student.objective import alone
from student.step.context import introduce
from student.terms.key_value import BUILT_IN, NEXT_TOKEN, chosen_terms
from teacher.answers import Answers
from teacher.capture.kv_capture import KVCapture
from teacher.panel import TeacherPanel
from teacher.teacher_config import TeacherConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PhaseTeachers:
    """The teachers of one phase, ready to be asked."""

    teaching: Teaching
    panel: TeacherPanel
    report: CalibrationReport
    depth: Depth
    sample: Callable[[str, int], Iterable[SampleBatch]]
    """The calibration sample, under a title, with so many query positions a text."""
    choose: TextChoice | None = None
    """Who is asked about which text, before any teacher reads; None: all about all."""


def build_objectives(
    phase: PhaseConfig, registry: Registry, taught: bool
) -> dict[str, WeightedObjective]:
    """The phase's terms by name; without teachers those that ask none, among them a
    next-token loss in any case."""
    terms = chosen_terms(phase.loss, phase.output)
    if not taught and all(term.kind != NEXT_TOKEN for term in terms.values()):
        terms = {NEXT_TOKEN: ChosenTerm(kind=NEXT_TOKEN), **terms}
    built = {
        name: WeightedObjective(
            term.weight, build_term(term, registry), setting_of(phase, name)
        )
        for name, term in terms.items()
    }
    return {n: term for n, term in built.items() if taught or alone(term.objective)}


def build_balance(
    phase: PhaseConfig, registry: Registry, names: Collection[str]
) -> Balance | None:
    """What weighs a phase's terms against each other; None where nothing does, or
    where one term stands alone.

    Args:
        phase: resolved settings.
        registry: where names are looked up.
        names: of the terms that are trained.
    """
    name, options = phase.loss.balancer
    if name == UNBALANCED or len(names) < 2:
        return None
    terms = chosen_terms(phase.loss, phase.output)
    predicting = [n for n in names if n in terms and terms[n].kind == NEXT_TOKEN]
    build = registry.guarded("balancer", name)
    balancer = build(tuple(names), **options)
    return Balance(balancer, list(names), next(iter(predicting), None))


def build_phase_teachers(
    phase: PhaseConfig,
    *,
    registry: Registry,
    student: KVCapture,
    encode: Encoder,
    teachers: Mapping[str, Teacher],
    shares: Mapping[str, float],
    samples: Sequence[TextSample],
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]],
    answers: Answers | None = None,
    timetable: Timetable | None = None,
    choosing: Choosing | None = None,
) -> PhaseTeachers:
    """Map, calibrate and weigh one phase's teachers.

    Args:
        phase: resolved settings.
        registry: where names are looked up.
        student: as it stands at the start of the phase.
        encode: the student's tokenizer.
        teachers: the phase's teachers in order.
        shares: fixed weights from the config, by teacher.
        samples: to calibrate on.
        progress: wraps an iterable under a title, with its length.
        answers: what teachers said before; None asks them each time.
        timetable: of the phase.
        choosing: what the teachers of a text are chosen by; None: all read all.

    Raises:
        ValueError: a name is unknown, sizes do not fit, or nothing is covered.
    """
    chosen = list(samples)[: phase.train.calibration_samples]
    depth = _depth(
        phase,
        registry=registry,
        student=student,
        encode=encode,
        teachers=teachers,
        samples=chosen,
        answers=answers,
    )
    bridge = build_bridge(phase, registry, student.sizes, teachers, depth.maps)
    if bridge is not None:
        bridge.to(student.device)
    needed = {name: layer_map.needed for name, layer_map in depth.maps.items()}
    kv = wants_kv(phase, registry)
    panel = _panel(phase, registry, teachers, needed, kv=kv, answers=answers)
    count = -(-len(chosen) // phase.train.batch_size)

    def sample(title: str, rows: int = 0) -> Iterable[SampleBatch]:
        batches = _batches(
            chosen, encode, panel, phase.train, student.device, rows=rows
        )
        return progress(batches, f"{title} {phase.name}", count)

    def views(title: str) -> Iterator[tuple[TokenBatch, Sequence[TeacherView]]]:
        return ((batch, views) for batch, _, views in sample(title))

    if bridge is not None and any(teacher.positions for teacher in bridge.teachers):
        fit_positions(bridge, (read for _, read in views("positions of")))
    width = student.hidden_size
    choose = None if choosing is None else choosing(phase, width, teachers, shares)
    report = calibrate(
        student,
        bridge,
        views("calibrating"),
        phase.loss.skip_sinks,
        unasked=() if choose is None else choose.apart,
    )
    weigher = build_weigher(
        phase.fuse,
        registry=registry,
        student=student,
        names=list(teachers),
        shares=shares,
        report=report,
    )
    weigher.to(student.device)
    teaching = Teaching(
        bridge=bridge,
        weigher=weigher,
        regularizer=_regularizer(phase, weigher, timetable),
        maps=depth.maps,
        sizes=sizes_of(teachers),
        temperature=phase.fuse.moving_temperature,
    )
    return PhaseTeachers(
        teaching=teaching,
        panel=panel,
        report=report,
        depth=depth,
        sample=sample,
        choose=choose,
    )


def _regularizer(
    phase: PhaseConfig, weigher: Weigher, timetable: Timetable | None
) -> EntropyRegularizer | None:
    """Of a router that learns, where its entropy counts."""
    strength = phase.fuse.entropy_strength
    learning = any(p.requires_grad for p in weigher.parameters())
    if not learning or not is_on(strength):
        return None
    return EntropyRegularizer(phase.fuse.entropy_target, strength, timetable=timetable)


def check_phase(
    phase: PhaseConfig,
    registry: Registry,
    student: Sizes,
    teachers: Mapping[str, Teacher],
    student_tokenizer: Any,
    *,
    known: Mapping[str, TeacherConfig] | None = None,
) -> None:
    """Find, before any work, what only the models can tell to be wrong.

    Raises:
        InputError: a layer that a model does not have, not one weight a teacher or one
            temperature a layer, an output that is not there or cannot be compared, or
            widths that a term cannot bring together.
        ConfigError: no term is on, or one needs what no teacher can give; names all of
            them.
    """
    if not teachers:
        return introduce(alone_objectives(phase, registry), student, {})
    if not chosen_terms(phase.loss, phase.output):
        raise ConfigError(
            f"phase {phase.name!r} learns nothing: the weights of all terms of loss "
            "and output are 0; give one, such as loss.delta_ce=1 for the next token"
        )
    check_needs(phase, registry, teachers)
    check_outputs(phase, registry, teachers, student_tokenizer)
    mapped = {n: teachers[n] for n in with_depth(phase, registry, teachers)}
    check_depth(phase, registry, student.layers, mapped)
    layers_read(phase.loss.outcome_layers, student.layers)
    check_layers(phase.loss.temperatures, student.layers)
    for name, term in phase.loss.chosen.items():
        temperatures = term.options.get("temperatures")
        if term.kind in BUILT_IN and temperatures is not None:
            place = f"loss.terms.{name}.temperatures"
            check_layers(temperatures, student.layers, place)
    check_sizes(phase, registry, student, teachers)
    shares = shares_of(teachers, known or {})
    if phase.fuse.router == "fixed":
        fixed_weights(phase.fuse, shares)
    check_chosen(phase, shares)
    build = registry.guarded("router", phase.fuse.router)
    if not learns(build) and not needs_sample(build):  # its own errors, before any work
        build(student.hidden_size, len(teachers), **router_options(phase.fuse, shares))


def build_bridge(
    phase: PhaseConfig,
    registry: Registry,
    student: Sizes,
    teachers: Mapping[str, ModelFacts],
    maps: Mapping[str, LayerMap],
) -> Bridge | None:
    """The uncalibrated bridge of ``fuse.space``, of the teachers that have keys and
    values; None where the phase asks for none."""
    if not wants_kv(phase, registry):
        return None
    shapes = [
        TeacherShape(
            name=name,
            sizes=teacher.sizes,
            layer_map=maps[name],
            causal=teacher.causal,
            positions=_loses_positions(phase, teacher),
        )
        for name, teacher in teachers.items()
        if name in who_gives(KEYS_VALUES, teachers)
    ]
    build = registry.guarded("space", phase.fuse.space_name)
    method = registry.guarded("adapter", phase.align.adapter)
    bridge: Bridge = build(student, shapes, method, **phase.fuse.space_options)
    return bridge


def _loses_positions(phase: PhaseConfig, teacher: ModelFacts) -> bool:
    means = phase.align.position_means
    return teacher.learned_positions if means == "auto" else means == "remove"


def _depth(
    phase: PhaseConfig,
    *,
    registry: Registry,
    student: KVCapture,
    encode: Encoder,
    teachers: Mapping[str, Teacher],
    samples: Sequence[TextSample],
    answers: Answers | None,
) -> Depth:
    """The layer maps, with a look at the sample where the strategy needs one."""
    strategy = registry.guarded("layer_map", phase.align.layer_mapping_strategy)
    teachers = {n: teachers[n] for n in with_depth(phase, registry, teachers)}
    sampled = {}
    unmapped = {n: t for n, t in teachers.items() if n not in phase.align.layer_map}
    if layer_map.needs_sample(strategy) and unmapped:
        every = {name: tuple(range(t.sizes.layers)) for name, t in unmapped.items()}
        panel = _panel(phase, registry, unmapped, every, kv=True, answers=answers)
        some = list(samples)[: BATCHES * phase.train.batch_size]
        read = _batches(some, encode, panel, phase.train, student.device)
        batches = ((batch, views) for batch, _, views in read)
        sampled = sample_layers(student, unmapped, batches, phase.loss.skip_sinks)
        if layer_map.needs_importance(strategy):
            named = phase.align.layer_mapping_strategy
            add_importance(named, sampled, unmapped, some)
    return layer_maps(phase, registry, student.num_layers, teachers, sampled)


def _panel(
    phase: PhaseConfig,
    registry: Registry,
    teachers: Mapping[str, Teacher],
    layers: Mapping[str, tuple[int, ...]],
    *,
    kv: bool,
    answers: Answers | None,
) -> TeacherPanel:
    aligner = registry.guarded("aligner", phase.align.aligner)()
    causal = (
        aligner if aligner.causal else registry.guarded("aligner", "causal_char_iou")()
    )
    return TeacherPanel(
        list(teachers.values()),
        aligner,
        causal,
        layers=layers,
        kv=who_gives(KEYS_VALUES, teachers) if kv else (),
        outputs=output_heads(phase, registry, teachers),
        **wanted_parts(phase, registry),
        own_loss=wants_own_loss(phase, registry),
        foretold=wants_foretold(phase, registry),
        autocast=autocast_of(phase.train),
        answers=answers,
    )


def _batches(
    samples: Sequence[TextSample],
    encode: Encoder,
    panel: TeacherPanel,
    train: TrainConfig,
    device: torch.device,
    *,
    rows: int = 0,
) -> Iterator[SampleBatch]:
    size = train.batch_size

    def read(number: int) -> SampleBatch:
        chosen = range(len(samples))[number * size : (number + 1) * size]
        texts = [samples[index].text for index in chosen]
        batch = encode(texts).to(device)
        drawn = query_rows(batch, rows, 0, chosen) if rows else None
        return batch, drawn, panel(batch, drawn)

    return prefetched(read, 0, -(-len(samples) // size), train.prefetch, device)
