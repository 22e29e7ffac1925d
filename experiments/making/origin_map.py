"""The layer map ``origin``: where the layers of a made student were in its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.assemble.fingerprint import model_files, weights_digest
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from teacher.packages.manifest import Making, Manifest, read_manifest

ORIGIN = "origin"
"""Of ``align.layer_mapping_strategy``."""


def with_origin_maps(
    config: Config, phases: Sequence[PhaseConfig]
) -> list[PhaseConfig]:
    """The phases, with the map of each teacher that the student was made of written out
    where they ask for ``origin``; maps that the config writes out stay.

    Raises:
        ConfigError: the student was made of no model, or of none of the teachers.
    """
    asking = [p for p in phases if p.align.layer_mapping_strategy == ORIGIN]
    if not asking:
        return list(phases)
    manifest, making = _of_student(config)
    sources = [name for name in config.teachers if _is_source(config, name, manifest)]
    if not sources:
        raise ConfigError(
            f"align.layer_mapping_strategy is {ORIGIN}, but no teacher is "
            f"{manifest.source}, which {config.student.model} was made of; add it to "
            "teachers, or choose another strategy"
        )
    maps = dict.fromkeys(sources, making.layers)
    return [
        replace(p, align=replace(p.align, layer_map=maps | p.align.layer_map))
        if p in asking
        else p
        for p in phases
    ]


def _of_student(config: Config) -> tuple[Manifest, Making]:
    folder = model_files(config.student.model)
    manifest = None if folder is None else read_manifest(folder)
    if manifest is None or manifest.making is None:
        raise ConfigError(
            f"align.layer_mapping_strategy is {ORIGIN}, but nothing says what "
            f"student.model={config.student.model} was made of; give a folder that "
            "`mtkd make` wrote, or choose another strategy"
        )
    return manifest, manifest.making


def _is_source(config: Config, name: str, manifest: Manifest) -> bool:
    """Whether a teacher is the model that was cut: by its weights, or by its name where
    those are not at hand."""
    model = config.teachers[name].model
    digest = weights_digest(model) if manifest.source_sha256 else None
    return (
        model == manifest.source
        if digest is None
        else (digest == manifest.source_sha256)
    )
