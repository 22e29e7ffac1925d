"""From a config to one plan and one form for every store that is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from align.layer_map import build_multi_teacher_layer_map, needs_sample
from align.text.documents import TextSample
from experiments.assemble.fingerprint import (
    ends_of,
    settings_of,
    student_of,
    tokenizer_digest,
)
from experiments.assemble.needs import wants_foretold, wants_kv, wants_own_loss
from experiments.assemble.outputs import wants_outputs
from experiments.assemble.stored_code import code_of
from experiments.assemble.teaching import PhaseTeachers, build_phase_teachers
from experiments.extraction.context import ExtractionContext, device, facts_of, identity
from experiments.extraction.form_rules import check_forms, fused_weights
from experiments.extraction.forms import Form, RawForm, StudentTokensForm
from student.bridges.adapter import AdapterBridge
from student.output_config import OutputConfig
from teacher.capture.kv_capture import KVCapture
from teacher.extract_teacher_kv import TeacherKVExtractor
from teacher.output_head import vocabulary_size
from teacher.store import Encoding, Plan, StoreWriter, open_store
from teacher.store.encoding import DTYPES, measure_constants
from teacher.store.facts import FUSED
from teacher.store.manifest import OutputShape, Shape
from teacher.store.packing import StoredSample
from teacher.store.records import Constants

BRIDGE = "bridge."
"""Prefix of the calibrated bridge among a store's constants: nodes that compute a
little otherwise must not calibrate each their own."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """One store in the making."""

    name: str
    """The teacher's, or ``fused``."""
    path: Path
    plan: Plan
    form: Form
    teachers: tuple[str, ...]

    bridge: AdapterBridge | None = None
    """Whose adapters the form applies."""

    def open(self, constants: Constants | None = None) -> StoreWriter:
        """Begin the store, or go on; the bridge becomes the one it was begun with.

        Args:
            constants: from :meth:`measure`; needed to begin.

        Raises:
            StoreError: another extraction's store stands there.
        """
        writer = open_store(self.path, self.plan, constants or None)
        if self.bridge is not None:
            settings = {
                name.removeprefix(BRIDGE): tensor
                for name, tensor in writer.constants.items()
                if name.startswith(BRIDGE)
            }
            self.bridge.load_state_dict(settings)
        return writer

    def measure(self, probe: Sequence[TextSample]) -> Constants:
        """What all shards are made with: the encoding's constants, the bridge."""
        out: Constants = {}
        if self.plan.encoding.name not in DTYPES:
            made = [
                sample
                for sample in self.form(probe)
                if isinstance(sample, StoredSample)
            ]
            out = encoding_constants(made, self.plan.encoding)
        if self.bridge is not None:
            state = self.bridge.state_dict()
            out |= {BRIDGE + name: tensor.cpu() for name, tensor in state.items()}
        return out


def encoding_constants(made: Sequence[StoredSample], encoding: Encoding) -> Constants:
    """Measure means, and bases for ``lowrank``, sinks and uncovered tokens left out."""
    out: Constants = {}
    for part in ("k", "v"):
        features = [
            getattr(sample, part)[:, sample.origin > 1].float() for sample in made
        ]
        measured = measure_constants(torch.cat(features, 1), encoding.rank)
        out[f"{part}.mean"] = measured.mean
        if measured.basis is not None:
            out[f"{part}.basis"] = measured.basis
    return out


def sources_of(extraction: ExtractionContext) -> list[Source]:
    """One source per store of the config; none of a teacher that no phase asks for
    keys and values.

    Raises:
        ConfigError: the form does not fit the phases.
    """
    form = extraction.config.store.form
    meeting, speaking = _asking(extraction)
    names = tuple(dict.fromkeys((*meeting, *speaking)))
    if form == "raw" or not names:
        return [
            _raw(extraction, name, kv=name in meeting, outputs=name in speaking)
            for name in names
        ]
    check_forms(extraction)
    if form == "fused":
        return [_on_student_tokens(extraction, FUSED, names)]
    return [_on_student_tokens(extraction, name, (name,)) for name in names]


def _asking(extraction: ExtractionContext) -> tuple[list[str], list[str]]:
    """Of whom keys and values are stored, and of whom next-token outputs."""
    registry, store = extraction.registry, extraction.config.store
    meeting: list[str] = []
    speaking: list[str] = []
    for stage in extraction.stages:
        if wants_kv(stage.phase, registry):
            meeting += stage.teachers
        outputs = wants_outputs(stage.phase, registry)
        if store.top_k and (outputs or wants_foretold(stage.phase, registry)):
            every = extraction.models.chosen(stage.teachers)
            speaking += [name for name, teacher in every.items() if teacher.predicts]
    return meeting, speaking


def _raw(
    extraction: ExtractionContext, name: str, *, kv: bool, outputs: bool
) -> Source:
    teacher, store = extraction.models.live[name], extraction.config.store
    capture, sizes = teacher.capture, teacher.sizes
    layers = needed_layers(extraction, name, sizes.layers) if kv else ()
    vocabulary = vocabulary_size(capture) if outputs else 0
    top_k = min(store.top_k, vocabulary)
    extractor = TeacherKVExtractor(
        teacher.loaded,
        store.batch_size,
        layers=layers,
        device=capture.device,
        windows=capture.windows,
    )
    own_loss = any(
        wants_own_loss(stage.phase, extraction.registry) for stage in extraction.stages
    )
    shape = Shape(
        layers=len(layers),
        heads=sizes.heads,
        k_width=sizes.k_width,
        v_width=sizes.v_width,
    )
    return Source(
        name=name,
        path=extraction.config.store_dir / name,
        plan=_plan(
            extraction,
            shape,
            (name,),
            {"layers": list(layers), "own_loss": own_loss},
            OutputShape(vocabulary=vocabulary, top_k=top_k, log_probs=store.log_probs)
            if outputs
            else None,
        ),
        form=RawForm(extractor, own_loss, extraction.autocast, top_k),
        teachers=(name,),
    )


def _on_student_tokens(
    extraction: ExtractionContext, name: str, names: tuple[str, ...]
) -> Source:
    config = extraction.config.store
    phase_teachers = student_space(extraction, names)
    bridge = phase_teachers.teaching.bridge
    assert isinstance(bridge, AdapterBridge)
    student = bridge.student
    extra: dict[str, JsonValue] = {
        "student_tokenizer": tokenizer_digest(extraction.models.student_tokenizer),
        **ends_of(extraction.config),
        "aligner": extraction.stages[0].phase.align.aligner,
        "layer_map": {
            t.name: [[list(feed) for feed in feeds] for feeds in t.layer_map]
            for t in bridge.teachers
        },
    }
    weights = None
    if config.form == "aligned":
        (teacher,) = bridge.teachers
        shape = Shape(
            layers=len(teacher.layer_map.needed),
            heads=teacher.heads,
            k_width=teacher.k_width,
            v_width=teacher.v_width,
        )
        extra["layers"] = list(teacher.layer_map.needed)
    else:
        shape = Shape(
            layers=student.layers,
            heads=student.heads,
            k_width=student.k_width,
            v_width=student.v_width,
        )
        extra["student"] = student_of(extraction.config)
        extra["adapter"] = extraction.stages[0].phase.align.adapter
    if config.form == "fused":
        weights = fused_weights(extraction, names)
        extra["weights"] = list(weights)
    return Source(
        name=name,
        path=extraction.config.store_dir / name,
        plan=_plan(extraction, shape, names, extra),
        form=StudentTokensForm(
            extraction.models.encode,
            phase_teachers.panel,
            config.batch_size,
            None if config.form == "aligned" else bridge,
            weights,
        ),
        teachers=names,
        bridge=None if config.form == "aligned" else bridge,
    )


def student_space(extraction: ExtractionContext, names: Sequence[str]) -> PhaseTeachers:
    """Teachers with adapters into the student's space, calibrated on the probe."""
    phase = extraction.stages[0].phase
    fuse = replace(phase.fuse, fusion_method="fixed", space="student", weights=None)
    loss = replace(
        phase.loss,
        lambda_k=1.0,
        gamma_kl=0.0,
        relation_k=0.0,
        relation_v=0.0,
        extra={},
        terms={},
    )
    train = replace(phase.train, calibration_samples=len(extraction.corpus.probe))
    bare = replace(phase, fuse=fuse, loss=loss, output=OutputConfig(), train=train)
    student = KVCapture(extraction.models.student(None).to(device()))
    return build_phase_teachers(
        bare,
        registry=extraction.registry,
        student=student,
        encode=extraction.models.encode,
        teachers=extraction.models.chosen(names),
        shares=dict.fromkeys(names, 1.0),
        samples=list(extraction.corpus.probe),
        progress=_plainly,
    )


def needed_layers(
    extraction: ExtractionContext, name: str, depth: int
) -> tuple[int, ...]:
    """The layers that some phase's layer map reads, ascending.

    A map that looks at the student as it stands may ask for any.

    Args:
        extraction: the config's phases.
        name: the teacher's.
        depth: its layers.
    """
    needed: set[int] = set()
    for stage in extraction.stages:
        if name not in stage.teachers:
            continue
        align = stage.phase.align
        strategy = extraction.registry.guarded(
            "layer_map", align.layer_mapping_strategy
        )
        explicit = align.layer_map.get(name)
        if explicit is None and needs_sample(strategy):
            return tuple(range(depth))
        (layer_map,) = build_multi_teacher_layer_map(
            [depth],
            extraction.models.student_layers,
            strategy if explicit is None else [explicit],
            [name],
        )
        needed |= set(layer_map.needed)
    return tuple(sorted(needed))


def _plan(
    extraction: ExtractionContext,
    shape: Shape,
    names: Sequence[str],
    extra: Mapping[str, JsonValue],
    outputs: OutputShape | None = None,
) -> Plan:
    store = extraction.config.store
    rank = store.rank
    if store.encoding == "lowrank" and rank is None:
        rank = max(1, min(shape.k_width, shape.v_width) // 2)
    encoding = {"name": store.encoding, "rank": rank, "zstd": store.zstd}
    # One teacher's fields stand alone, several each under the teacher's name.
    each: dict[str, JsonValue] = {name: identity(extraction, name) for name in names}
    plans = each[names[0]] if len(names) == 1 else each
    assert isinstance(plans, dict)
    align = extraction.stages[0].phase.align
    used = [("rope_scaler", extraction.config.align.rope_scaling_method)]
    used += [("aligner", align.aligner)] if store.form != "raw" else []
    used += [("adapter", align.adapter)] if store.form in ("adapted", FUSED) else []
    return Plan(
        version=2 if outputs is None else 3,
        outputs=outputs,
        form=store.form,
        shape=shape,
        encoding=Encoding.model_validate(encoding),
        fingerprint={
            **plans,
            **extra,
            "text": extraction.corpus.digest,
            **settings_of(extraction.config),
            **code_of(extraction.registry, used),
        },
        facts={
            "teachers": {
                n: facts_of(extraction.models, n) for n in extraction.config.teachers
            }
        },
        samples=extraction.corpus.samples,
        shard_samples=store.shard_samples,
    )


def _plainly(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
    return items
