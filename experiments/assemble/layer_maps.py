"""Which teacher layers feed each student layer, read off a sample where need be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align.errors import InputError
from align.kv import KV
from align.layer_map import (
    LayerMap,
    build_multi_teacher_layer_map,
    needs_importance,
    needs_sample,
)
from align.layer_similarity import LayerSimilarity
from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from align.views import ModelFacts, Teacher, TeacherView
from experiments.config.tree import PhaseConfig
from plugins.registry import Registry
from student.attention_sinks import without_sinks
from student.bridges.calibrate import NoCoverageError
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher

Teachers = Mapping[str, ModelFacts]

BATCHES = 8
"""A sample of layers is drawn from so many batches, a share of it from each."""


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """The layer maps of one phase."""

    maps: dict[str, LayerMap]
    """By teacher, in the phase's order."""
    similarity: dict[str, Tensor] = field(default_factory=dict)
    """(L_t, L_s) CKA of the teachers whose map was read off a sample."""


def explicit_maps(
    phase: PhaseConfig, student_layers: int, teachers: Teachers
) -> dict[str, LayerMap]:
    """The maps that the config writes out, by teacher.

    Raises:
        ValueError: a layer that a model does not have.
    """
    written = phase.align.layer_map
    return {
        name: build_multi_teacher_layer_map(
            [teacher.sizes.layers], student_layers, [written[name]], [name]
        )[0]
        for name, teacher in teachers.items()
        if name in written
    }


def check_depth(
    phase: PhaseConfig, registry: Registry, student_layers: int, teachers: Teachers
) -> None:
    """See, before any work, that every map fits, those left out that need a sample.

    Raises:
        ValueError: a layer that a model does not have.
        InputError: the map goes by a loss that a teacher does not have.
    """
    strategy = registry.guarded("layer_map", phase.align.layer_mapping_strategy)
    if needs_sample(strategy):
        written = explicit_maps(phase, student_layers, teachers)
        if needs_importance(strategy):
            for name in teachers.keys() - written.keys():
                _measure_of(phase.align.layer_mapping_strategy, name, teachers[name])
    else:
        layer_maps(phase, registry, student_layers, teachers, {})


def crowded_layers(
    phase: PhaseConfig, registry: Registry, student_layers: int, teachers: Teachers
) -> list[str]:
    """A sentence on each teacher of whom one layer feeds much of the student.

    Maps that are written out, or read off a sample, are as they are meant to be.
    """
    strategy = phase.align.layer_mapping_strategy
    if needs_sample(registry.guarded("layer_map", strategy)):
        return []
    maps = layer_maps(phase, registry, student_layers, teachers, {}).maps
    crowded = []
    for name, one_map in maps.items():
        depth = teachers[name].sizes.layers
        crowd = one_map.crowded(depth)
        if crowd is not None and name not in phase.align.layer_map:
            crowded.append(
                f"phase {phase.name!r}: align.layer_mapping_strategy={strategy} feeds "
                f"{crowd[1]} of the student's {student_layers} layers from layer "
                f"{crowd[0]} of teacher {name!r}, which has {depth}; set it to ratio, "
                "which spreads them evenly"
            )
    return crowded


def layer_maps(
    phase: PhaseConfig,
    registry: Registry,
    student_layers: int,
    teachers: Teachers,
    samples: Mapping[str, LayerSimilarity],
) -> Depth:
    """One map per teacher, explicit where the config gives one.

    Args:
        phase: resolved settings.
        registry: knows the strategy.
        student_layers: L_s.
        teachers: the phase's teachers in order.
        samples: from :func:`sample_layers`, of the teachers whose map needs one.
    """
    strategy = registry.guarded("layer_map", phase.align.layer_mapping_strategy)
    maps = explicit_maps(phase, student_layers, teachers)
    for name, teacher in teachers.items():
        if name in maps:
            continue
        layers = teacher.sizes.layers
        sample = (samples[name],) if needs_sample(strategy) else ()
        layer_map = strategy(layers, student_layers, *sample)
        (maps[name],) = build_multi_teacher_layer_map(
            [layers], student_layers, [layer_map], [name]
        )
    similarity = {name: sample.cka() for name, sample in samples.items()}
    return Depth({name: maps[name] for name in teachers}, similarity)


@torch.no_grad()
def sample_layers(
    student: KVCapture,
    names: Iterable[str],
    batches: Iterable[tuple[TokenBatch, Sequence[TeacherView]]],
    skip_sinks: int,
) -> dict[str, LayerSimilarity]:
    """Gather keys and values of all layers, of some tokens of each batch.

    Args:
        student: as it stands.
        names: the teachers, in the order of the views.
        batches: the student's tokens with views of all of each teacher's layers.
        skip_sinks: leading tokens to leave out, the student's and the teachers'.

    Raises:
        NoCoverageError: a teacher shares fewer than two tokens with the student.
    """
    samples = {name: LayerSimilarity() for name in names}
    for batch, views in batches:
        student_features = _features(student(batch.ids, batch.mask).kv)
        counted = without_sinks(batch, views, skip_sinks) & batch.has_text[..., None]
        for m, (sample, view) in enumerate(zip(samples.values(), views, strict=True)):
            keep = (view.alignment.covered & counted[..., m]).flatten().nonzero()[:, 0]
            keep = keep[:: max(1, len(keep) * BATCHES // sample.max_tokens)]
            theirs = view.alignment.apply(_features(view.met))
            sample.update(
                *(x.flatten(1, 2)[:, keep] for x in (theirs, student_features))
            )
    for name, sample in samples.items():
        if sample.n < 2:
            raise NoCoverageError(
                f"teacher {name!r} covers {sample.n} tokens of the student on the "
                "calibration sample, too few to compare layers on; write its map "
                f"into align.layer_map.{name}, or leave the teacher out"
            )
    return samples


def add_importance(
    strategy: str,
    sampled: Mapping[str, LayerSimilarity],
    teachers: Mapping[str, Teacher],
    samples: Sequence[TextSample],
) -> None:
    """Tell what was read of each teacher by how much its own loss would move without
    each of its layers, (L_t,) float64.

    Args:
        strategy: the map that asks, for errors.
        sampled: of each teacher, which is told.
        teachers: by name.
        samples: texts that it is measured on.

    Raises:
        InputError: nobody can differentiate a teacher's loss.
    """
    texts = [sample.text for sample in samples]
    for name, teacher in teachers.items():
        sampled[name].importance = _measure_of(strategy, name, teacher)(texts)


def _measure_of(strategy: str, name: str, teacher: ModelFacts) -> Any:
    """What measures the layers of a teacher that is at hand, and has a loss."""
    measure: Any = getattr(teacher, "layer_importance", None)
    why = "is not at hand as a model"
    if not teacher.predicts:
        why, measure = "has no next-token loss", None
    if measure is None:
        raise InputError(
            f"align.layer_mapping_strategy={strategy} asks for gradients of the loss "
            f"of teacher {name!r}, which {why}; write its map into "
            f"align.layer_map.{name}, or choose another strategy"
        )
    return measure


def _features(kv: KV) -> Tensor:
    """(L, B, T, C): keys and values of every token side by side."""
    return torch.cat(kv.flat(), dim=-1)


def layers_without_kv(teachers: Mapping[str, LiveTeacher]) -> list[str]:
    """A sentence on each teacher that has layers without KV of their own."""
    sentences = []
    for name, teacher in teachers.items():
        capture = teacher.capture
        others = capture.layers_without_kv
        if others:
            named_layers = ", ".join(f"{n} ({why})" for n, why in others.items())
            sentences.append(
                f"teacher {name!r} gives {capture.num_layers} layers, counted without "
                f"those that have no keys and values of their own: {named_layers}"
            )
    return sentences
