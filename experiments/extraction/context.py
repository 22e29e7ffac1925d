"""What all the stores of one config share: models, text, phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import JsonValue

from align.errors import InputError
from align.foreign.inside import refuse_links_out
from experiments.assemble.fingerprint import identity_of
from experiments.assemble.lengths import Lengths
from experiments.assemble.models import Models
from experiments.assemble.precision import (
    asks_hardware,
    autocast_of,
    hardware_has_bf16,
    settle,
)
from experiments.assemble.text_sources import check_sources
from experiments.config.parsing import ConfigError
from experiments.config.presets import load_registry, presets_of
from experiments.config.tree import Config, resolve_phases
from experiments.config.used_plugins import names_used, options_used
from experiments.extraction.corpus import Corpus, plan_corpus
from experiments.making.made import makers_used, with_made_student
from experiments.making.origin_map import with_origin_maps
from experiments.making.pairs import student_reads_pairs
from experiments.record.dates import dated, day_of_stores
from experiments.run.context import Stage
from experiments.sources.named import sources_of, sources_used
from experiments.texts.hub import pinned_lists
from plugins.registry import Registry
from plugins.trial import try_used
from teacher.loading.longer_texts import trained_length
from teacher.sources.base import TeacherSource


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExtractionContext:
    """What all the stores of one config share."""

    config: Config
    registry: Registry
    stages: list[Stage]
    models: Models
    corpus: Corpus
    lengths: Lengths
    """The longest texts of every teacher."""
    warnings: tuple[str, ...]
    """What a user should know of how the texts are cut and read."""

    @property
    def teachers(self) -> list[str]:
        """Every teacher that some phase takes, in order of appearance."""
        return list(dict.fromkeys(n for stage in self.stages for n in stage.teachers))

    @property
    def autocast(self) -> torch.dtype | None:
        """Of the teachers' matrix products, as a run's."""
        return autocast_of(self.config.train)


def open_extraction(
    config: Config, registry: Registry | None = None, begin: bool = False
) -> ExtractionContext:
    """Load the models and plan the text, checking all that can be checked.

    Args:
        config: the run whose teachers and text are stored.
        registry: plugins; None loads the built-in and the installed ones.
        begin: note, beside the stores, the day that all tasks tell chat templates.

    Raises:
        ConfigError: the phases cannot be resolved.
        ValueError: a model or a text cannot be used, or a link in the stores' folder
            leads out of it.
    """
    _refuse_parts(config)
    data = pinned_lists(config.data, config.store_dir / "config.yaml")
    config = replace(config, data=data)
    check_sources(config.data)
    refuse_links_out(config.store_dir)
    registry = registry or load_registry(config)
    phases = resolve_phases(config, presets_of(registry))
    config = with_made_student(config, registry)
    phases = with_origin_maps(config, phases)
    used = sources_used(config, registry) | makers_used(config)
    try_used(
        registry, [*names_used(phases), *used], options=options_used(phases) | used
    )
    if asks_hardware(config, phases):
        config, phases = settle(config, phases, hardware_has_bf16())
    sources = _of_files(config, sources_of(config, registry))
    models = Models(replace_store(config, read=False), torch.device(device()), sources)
    if begin and models.tells_date:
        config = dated(config, day_of_stores(config.store_dir))
    most = max(phase.train.calibration_samples for phase in phases)
    lengths, seed = models.lengths(), config.run.seed
    corpus = plan_corpus(
        config.data,
        models.encode,
        seed=seed,
        calibration=most,
        see=lengths.see,
        teachers=models.readers(),
    )
    scaler = registry.guarded("rope_scaler", config.align.rope_scaling_method)
    notes = models.settle_lengths(lengths, scaler)
    stages = [Stage(phase, tuple(phase.select(models.teachers))) for phase in phases]
    return ExtractionContext(
        config=config,
        registry=registry,
        stages=stages,
        models=models,
        corpus=corpus,
        lengths=lengths,
        warnings=(*corpus.warnings, *notes),
    )


def _refuse_parts(config: Config) -> None:
    """See, by settings alone, that student and teachers read one text in one part.

    Raises:
        InputError: the student reads sources and writes targets, or teachers read the
            sources of what it reads.
    """
    apart = [name for name, pairs in config.data.pairs.items() if pairs.apart]
    if student_reads_pairs(config):
        what = f"student.model {config.student.model!r} is an encoder-decoder, and"
        what += " stores hold what was read of a text in one part"
    elif apart:
        what = f"data.pairs.{apart[0]}.apart has teachers read other texts than the"
        what += " student, by whose texts stores are read"
    else:
        return
    raise InputError(
        f"{what}; train with teachers asked live (store.read=false), which takes no "
        "extraction"
    )


def not_stored(sources: Mapping[str, TeacherSource]) -> list[str]:
    """The teachers of which nothing can be stored: no models from files that stand
    still."""
    return [n for n, s in sources.items() if s.files is None or s.moves]


def _of_files(
    config: Config, sources: Mapping[str, TeacherSource]
) -> Mapping[str, TeacherSource]:
    """See that there is something to store of every teacher.

    Raises:
        ConfigError: a teacher is not read from files.
    """
    for name in not_stored(sources):
        why = (
            "a store already"
            if sources[name].cost == "read"
            else "no model from files that stands still: nothing of it can be stored"
        )
        raise ConfigError(
            f"teachers.{name}.model is {config.teachers[name].model!r}, which is {why}"
            "; extract with a config that leaves it out, and name in "
            "store.read of this one the teachers that are stored"
        )
    return sources


def replace_store(config: Config, **changes: Any) -> Config:
    """The same config with other ``store`` settings."""
    return replace(config, store=replace(config.store, **changes))


def identity(extraction: ExtractionContext, name: str) -> dict[str, JsonValue]:
    """What identifies a teacher, and how it reads these texts."""
    teacher = extraction.models.live[name]
    of_teacher = identity_of(extraction.config, name, teacher.tokenizer)
    positions = _positions(extraction, name)
    return of_teacher | {"which": teacher.capture.which, "positions": positions}


def _positions(extraction: ExtractionContext, name: str) -> JsonValue:
    """How a teacher reads beyond its trained length, None where it does not."""
    capture = extraction.models.live[name].capture
    most, _ = extraction.lengths.most[name]
    windows = capture.windows
    if windows is not None:
        if most <= windows.tokens:
            return None
        return f"windows of {windows.tokens} every {windows.stride}"
    trained = trained_length(capture.model)
    if trained is None or most <= trained:
        return None
    return f"{extraction.config.align.rope_scaling_method} to {most}"


def facts_of(models: Models, name: str) -> dict[str, JsonValue]:
    """What a run wants to know of a teacher that is not loaded."""
    teacher = models.live[name]
    limits = {reader.name: reader.limit for reader in models.readers()}
    return {
        "kind": teacher.kind,
        "family": teacher.family,
        "causal": teacher.causal,
        "layers": teacher.sizes.layers,
        "heads": teacher.sizes.heads,
        "k_dim": teacher.sizes.k_dim,
        "v_dim": teacher.sizes.v_dim,
        "max_tokens": teacher.capture.max_tokens,
        "reads_at_most": limits.get(f"teachers.{name}"),
        "dtype": str(teacher.capture.dtype).removeprefix("torch."),
    }


def device() -> str:
    """Where models run: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
