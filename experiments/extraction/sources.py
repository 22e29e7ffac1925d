"""From a config to one plan and one form for every store that is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from align.layer_map import build_multi_teacher_layer_map, needs_sample
from align.text import TextSample
from experiments.config import Config, PhaseConfig, resolve_phases
from experiments.extraction.corpus import Corpus, plan_corpus
from experiments.extraction.fingerprint import (
    identity_of,
    settings_of,
    student_of,
    tokenizer_digest,
)
from experiments.extraction.forms import Form, RawForm, StudentTokensForm
from experiments.extraction.stand_ins import FUSED
from experiments.models import Models
from experiments.presets import load_registry, presets_of
from experiments.settings import ConfigError
from experiments.stage import Stage
from experiments.teaching import Faculty, build_faculty, fixed_weights
from plugins.registry import Registry
from student.bridges.adapter import AdapterBridge
from student.objective import ATTENTION, term_weights
from teacher.capture import KVCapture
from teacher.extract_teacher_kv import TeacherKVExtractor
from teacher.models import LoadedModel
from teacher.panel import TeacherPanel
from teacher.store import Encoding, Plan, StoreWriter, open_store
from teacher.store.encoding import DTYPES, measure_constants
from teacher.store.manifest import PLAN, Shape
from teacher.store.packing import StoredSample
from teacher.store.writer import Constants


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all the stores of one config share."""

    config: Config
    registry: Registry
    stages: list[Stage]
    models: Models
    corpus: Corpus

    @property
    def teachers(self) -> list[str]:
        """Every teacher that some phase takes, in order of appearance."""
        return list(dict.fromkeys(n for stage in self.stages for n in stage.teachers))

    @property
    def autocast(self) -> torch.dtype | None:
        """Of the teachers' matrix products, as a run's."""
        return torch.bfloat16 if self.config.train.bf16 else None


def open_bench(config: Config, registry: Registry | None = None) -> Bench:
    """Load the models and plan the text, checking all that can be checked.

    Raises:
        ConfigError: the phases cannot be resolved.
        ValueError: a model or a text cannot be used.
    """
    registry = registry or load_registry(config)
    phases = resolve_phases(config, presets_of(registry))
    models = Models(replace_store(config, read=False), torch.device(_device()))
    corpus = plan_corpus(config.data, models.encode, config.run.seed)
    scaler = registry.get("rope_scaler", config.align.rope_scaling_method)
    models.fit_lengths(corpus.longest, scaler)
    facts = models.facts()
    stages = [Stage(phase, tuple(phase.select(facts))) for phase in phases]
    return Bench(config, registry, stages, models, corpus)


def replace_store(config: Config, **changes: Any) -> Config:
    """The same config with other ``store`` settings."""
    return replace(config, store=replace(config.store, **changes))


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One store in the making."""

    name: str
    """The teacher's, or ``fused``."""
    path: Path
    plan: Plan
    form: Form
    teachers: tuple[str, ...]

    def open(self, probe: Sequence[TextSample]) -> StoreWriter:
        """Begin the store, or go on; constants are measured if it is the first task.

        Raises:
            StoreError: another extraction's store stands there.
        """
        constants: Constants | None = None
        if self.plan.encoding.name not in DTYPES and not (self.path / PLAN).is_file():
            constants = self.measure(probe)
        return open_store(self.path, self.plan, constants)

    def measure(self, probe: Sequence[TextSample]) -> Constants:
        """The encoding's constants, from a sample of texts."""
        made = [one for one in self.form(probe) if isinstance(one, StoredSample)]
        return encoding_constants(made, self.plan.encoding)


def encoding_constants(made: Sequence[StoredSample], encoding: Encoding) -> Constants:
    """Measure means, and bases for ``lowrank``, sinks and uncovered tokens left out."""
    out: Constants = {}
    for part in ("k", "v"):
        seen = [getattr(one, part)[:, one.origin > 1].float() for one in made]
        measured = measure_constants(torch.cat(seen, 1), encoding.rank)
        out[f"{part}.mean"] = measured.mean
        if measured.basis is not None:
            out[f"{part}.basis"] = measured.basis
    return out


def sources_of(bench: Bench) -> list[Source]:
    """One source per store of the config.

    Raises:
        ConfigError: the form does not fit the phases.
    """
    form = bench.config.store.form
    if form == "raw":
        return [_raw(bench, name) for name in bench.teachers]
    _same_everywhere(bench)
    # Text sets calibration apart: every task must find the same adapters.
    if form == "fused":
        names = tuple(bench.teachers)
        return [_on_student_tokens(bench, FUSED, names)]
    return [_on_student_tokens(bench, name, (name,)) for name in bench.teachers]


def _raw(bench: Bench, name: str) -> Source:
    loaded, capture = bench.models.teacher(name)
    layers = needed_layers(bench, name, capture)
    extractor = TeacherKVExtractor(
        loaded, bench.config.store.batch_size, layers=layers, device=capture.device
    )
    own_loss = any(wants_own_loss(stage.phase) for stage in bench.stages)
    shape = Shape(
        layers=len(layers),
        heads=capture.num_kv_heads,
        k_width=capture.num_kv_heads * capture.k_dim,
        v_width=capture.num_kv_heads * capture.v_dim,
    )
    return Source(
        name,
        bench.config.store_dir / name,
        _plan(bench, shape, (name,), {"layers": list(layers), "own_loss": own_loss}),
        RawForm(extractor, own_loss, bench.autocast),
        (name,),
    )


def _on_student_tokens(bench: Bench, name: str, names: tuple[str, ...]) -> Source:
    config = bench.config.store
    faculty = student_space(bench, names)
    bridge = faculty.teaching.bridge
    assert isinstance(bridge, AdapterBridge)
    assert isinstance(faculty.panel, TeacherPanel)
    own = bridge.student
    extra: dict[str, JsonValue] = {
        "student_tokenizer": tokenizer_digest(bench.models.student_tokenizer),
        "aligner": bench.stages[0].phase.align.aligner,
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
            layers=own.layers, heads=own.heads, k_width=own.k_width, v_width=own.v_width
        )
        extra["student"] = student_of(bench.config)
        extra["adapter"] = bench.stages[0].phase.align.adapter
    if config.form == "fused":
        weights = _weights(bench, names)
        extra["weights"] = list(weights)
    return Source(
        name,
        bench.config.store_dir / name,
        _plan(bench, shape, names, extra),
        StudentTokensForm(
            bench.models.encode,
            faculty.panel,
            config.batch_size,
            None if config.form == "aligned" else bridge,
            weights,
        ),
        names,
    )


def student_space(bench: Bench, names: Sequence[str]) -> Faculty:
    """Teachers with adapters into the student's space, calibrated on the probe."""
    phase = bench.stages[0].phase
    fuse = replace(phase.fuse, fusion_method="fixed", space="student", weights=None)
    loss = replace(phase.loss, gamma_kl=0.0, relation_k=0.0, relation_v=0.0, extra={})
    train = replace(phase.train, calibration_samples=len(bench.corpus.probe))
    bare = replace(phase, fuse=fuse, loss=loss, train=train)
    student = KVCapture(bench.models.student(None).to(_device()))
    return build_faculty(
        bare,
        bench.registry,
        student,
        bench.models.encode,
        {name: bench.models.teacher(name) for name in names},
        dict.fromkeys(names, 1.0),
        list(bench.corpus.probe),
        _plainly,
    )


def needed_layers(bench: Bench, name: str, capture: KVCapture) -> tuple[int, ...]:
    """The layers that some phase's layer map reads, ascending.

    A map that looks at the student as it stands may ask for any.
    """
    needed: set[int] = set()
    for stage in bench.stages:
        if name not in stage.teachers:
            continue
        align = stage.phase.align
        strategy = bench.registry.get("layer_map", align.layer_mapping_strategy)
        explicit = align.layer_map.get(name)
        if explicit is None and needs_sample(strategy):
            return tuple(range(capture.num_layers))
        (found,) = build_multi_teacher_layer_map(
            [capture.num_layers],
            bench.models.student_layers,
            strategy if explicit is None else [explicit],
            [name],
        )
        needed |= set(found.needed)
    return tuple(sorted(needed))


def wants_own_loss(phase: PhaseConfig) -> bool:
    """Whether a phase asks the teachers for their own next-token loss."""
    return phase.fuse.fusion_method == "similarity" or (
        phase.fuse.router is not None and phase.loss.router_signal != "outcome"
    )


def wants_attention(phase: PhaseConfig, registry: Registry) -> bool:
    """Whether a phase compares attention, which no store holds."""
    needs = (
        registry.get("objective", name)().needs for name in term_weights(phase.loss)
    )
    return any(ATTENTION in one for one in needs)


def _plan(
    bench: Bench, shape: Shape, names: Sequence[str], extra: Mapping[str, JsonValue]
) -> Plan:
    store = bench.config.store
    rank = store.rank
    if store.encoding == "lowrank" and rank is None:
        rank = max(1, min(shape.k_width, shape.v_width) // 2)
    encoding = {"name": store.encoding, "rank": rank, "zstd": store.zstd}
    # One teacher's fields stand alone, several each under the teacher's name.
    each: dict[str, JsonValue] = {name: _identity(bench, name) for name in names}
    own = each[names[0]] if len(names) == 1 else each
    assert isinstance(own, dict)
    return Plan(
        form=store.form,
        shape=shape,
        encoding=Encoding.model_validate(encoding),
        fingerprint={
            **own,
            **extra,
            "text": bench.corpus.digest,
            **settings_of(bench.config),
        },
        facts={"teachers": {n: facts_of(bench, n) for n in bench.config.teachers}},
        samples=bench.corpus.samples,
        shard_samples=store.shard_samples,
    )


def _identity(bench: Bench, name: str) -> dict[str, JsonValue]:
    loaded, capture = bench.models.teacher(name)
    own = identity_of(bench.config, name, loaded.tokenizer)
    return own | {"which": capture.which, "positions": _positions(bench, loaded)}


def _positions(bench: Bench, loaded: LoadedModel) -> JsonValue:
    """How a teacher reads beyond its trained length, None where it does not."""
    from experiments.data import Encoder
    from teacher.context import trained_length

    trained = trained_length(loaded.model)
    texts = [sample.text for sample in bench.corpus.longest]
    most = int(Encoder(loaded.tokenizer, None)(texts).mask.sum(1).max())
    if trained is None or most <= trained:
        return None
    return f"{bench.config.align.rope_scaling_method} to {most}"


def facts_of(bench: Bench, name: str) -> dict[str, JsonValue]:
    """What a run wants to know of a teacher that is not loaded."""
    loaded, capture = bench.models.teacher(name)
    return {
        "kind": loaded.kind,
        "family": loaded.model.config.model_type,
        "causal": capture.causal,
        "layers": capture.num_layers,
        "heads": capture.num_kv_heads,
        "k_dim": capture.k_dim,
        "v_dim": capture.v_dim,
        "max_tokens": capture.max_tokens,
        "dtype": str(capture.dtype).removeprefix("torch."),
    }


def _weights(bench: Bench, names: Sequence[str]) -> list[float]:
    """The fixed shares, which must be those of every phase.

    Raises:
        ConfigError: a phase weighs otherwise.
    """
    shares = {name: bench.config.teachers[name].weight for name in names}
    found = []
    for stage in bench.stages:
        fuse = stage.phase.fuse
        if fuse.fusion_method != "fixed" or fuse.space != "student":
            raise ConfigError(
                f"store.form is fused, but phase {stage.phase.name!r} has "
                f"fuse.fusion_method {fuse.fusion_method} and fuse.space {fuse.space}; "
                "fused stores need fixed weights in the student's space: set "
                "phase.all.fuse.fusion_method=fixed and phase.all.fuse.space=student, "
                "or choose store.form=adapted"
            )
        if set(stage.teachers) != set(names):
            raise ConfigError(
                f"store.form is fused, but phase {stage.phase.name!r} takes the "
                f"teachers {', '.join(stage.teachers)} of {', '.join(names)}; fused "
                "stores need the same in every phase"
            )
        found.append(fixed_weights(fuse, {n: shares[n] for n in stage.teachers}))
    if any(weights != found[0] for weights in found):
        raise ConfigError(
            f"store.form is fused, but the phases' fuse.weights differ ({found}); give "
            "one, or choose store.form=adapted"
        )
    return found[0]


def _same_everywhere(bench: Bench) -> None:
    """Forms on the student's tokens hold for one alignment only.

    Raises:
        ConfigError: the phases differ, or a map follows the student as it learns.
    """
    form = bench.config.store.form
    for field in ("aligner", "layer_mapping_strategy", "layer_map", "adapter"):
        values = [getattr(stage.phase.align, field) for stage in bench.stages]
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"store.form is {form}, but align.{field} differs between phases "
                f"({values}); give one for all, or choose store.form=raw"
            )
    align = bench.stages[0].phase.align
    if not bench.registry.get("aligner", align.aligner)().causal:
        raise ConfigError(
            f"store.form is {form}, but align.aligner {align.aligner} is not causal: "
            "the outcome pass would need a second alignment; choose causal_char_iou, "
            "or store.form=raw"
        )
    if needs_sample(bench.registry.get("layer_map", align.layer_mapping_strategy)):
        raise ConfigError(
            f"store.form is {form}, but align.layer_mapping_strategy "
            f"{align.layer_mapping_strategy} follows the student as it learns; choose "
            "another, or store.form=raw"
        )


def _plainly(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
    return items


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
