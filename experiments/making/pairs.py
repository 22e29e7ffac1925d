"""What a student that is an encoder-decoder cannot learn, refused beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from align.errors import MtkdError
from align.schedules import is_on
from align.views import ATTENTION, HEADS, STATES
from experiments.assemble.fingerprint import model_files
from experiments.assemble.needs import alone_objectives, asking_objectives, wants_kv
from experiments.assemble.outputs import setting_of
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, PhaseConfig
from experiments.making.made import makers_used
from fuse.routers.router import learns
from plugins.registry import Registry
from student.match.distance import alone as alone_in_text
from student.objective import needs_of
from student.terms.key_value import chosen_terms
from student.transforms.choice import chosen_transforms
from teacher.capture.pair_capture import NO_ATTENTION, NO_INJECTION, NO_STATES
from teacher.loading.model_config import read_config

NO_RELATIONS = (
    "keys and values of a source lie in the basis of cross-attention and those of a "
    "target in that of self-attention, so that products of the two compare nothing"
)


def check_pairs(
    config: Config, phases: Sequence[PhaseConfig], registry: Registry
) -> None:
    """See that an encoder-decoder student is asked for nothing that it cannot learn.

    Of its files only config.json is read; one that is not there is somebody else's
    error.

    Raises:
        ConfigError: a setting that goes with decoders alone; names it, and says why.
    """
    if not student_reads_pairs(config):
        return
    student = f"student.model {config.student.model!r} is an encoder-decoder"
    for why in (*_of_run(config), *_of_phases(phases, registry)):
        raise ConfigError(f"{student}: {why}")


def student_reads_pairs(config: Config) -> bool:
    """Whether a run's student is an encoder-decoder, by its config.json."""
    if makers_used(config):
        return False  # nothing is made of one
    if config.student.trust_remote_code:  # which of its code runs was not told yet
        folder = model_files(config.student.model)
        try:
            said = json.loads(((folder or Path()) / "config.json").read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(said, dict) and said.get("is_encoder_decoder") is True
    try:
        _, kind = read_config(config.student.model)
    except MtkdError:
        return False
    return kind == "encoder-decoder"


def _of_run(config: Config) -> Iterator[str]:
    data, settings = config.data, config.student
    if data.train or data.eval or not data.pairs:
        place = "data.eval" if data.eval and not data.train else "data.train"
        yield (
            f"{place} gives texts of one part, and it reads a source and writes a "
            "target; give data.pairs, with data.train=[] and data.eval=[] (rows of "
            "prompt and completion by source_key and target_key of data.pairs)"
        )
    if settings.trained != "all":
        yield (
            f"student.trained={settings.trained} is of decoders alone so far; set "
            "student.trained=all"
        )
    if data.written.on:
        yield (
            "data.written has texts go on from their first words, and it writes "
            "targets of sources; set data.written.by=null"
        )
    if config.store.read:
        yield (
            "store.read takes teachers from stores, which hold what was read of a text "
            "in one part; set store.read=false, and teachers are asked live"
        )


def _of_phases(phases: Sequence[PhaseConfig], registry: Registry) -> Iterator[str]:
    for phase in phases:
        place = f"phase.{phase.name}"
        yield from _of_terms(phase, registry, place)
        if chosen_transforms(phase.transform):
            yield f"{place}.transform is of decoders alone so far; leave it out"
        train = phase.train
        if train.teacher_ranks:
            yield (
                f"{place}.train.teacher_ranks={train.teacher_ranks} has teachers read "
                "texts of one part elsewhere; set it to 0"
            )
        if train.engine == "deepspeed" and train.zero_stage == 3:
            yield (
                f"{place}.train.zero_stage=3 brings weights together layer by layer, "
                "and a forward that ends before the head would leave them so; set 2"
            )


def _of_terms(phase: PhaseConfig, registry: Registry, place: str) -> Iterator[str]:
    """Of what a phase compares, and puts in place of the student's own."""
    terms = asking_objectives(phase, registry) | alone_objectives(phase, registry)
    for name, term in terms.items():
        needs = needs_of({name: term})
        why = NO_STATES if needs & STATES else NO_ATTENTION
        if needs & {ATTENTION, HEADS, *STATES}:
            yield f"{setting_of(phase, name)} of {place} is to be 0: {why}"
    if phase.align.position_means == "remove":
        yield (
            f"{place}.align.position_means=remove takes off what is held at a place of "
            "a row, and a target begins at another place behind each source; set keep"
        )
    for name, chosen in chosen_terms(phase.loss, phase.output).items():
        if chosen.kind in ("relation_k", "relation_v"):
            yield (f"{setting_of(phase, name)} of {place} is to be 0: {NO_RELATIONS}")
        built: Any = terms.get(name)
        mixed = getattr(built, "site", None) in ("keys", "values")
        if mixed and not alone_in_text(built.distance):
            yield (
                f"{place}.loss.terms.{name}: distance of {built.site} compares tokens "
                f"with each other: {NO_RELATIONS}; choose one that compares each by "
                "itself (mse, smooth_l1, cosine)"
            )
        if chosen.kind in ("mixup", "smoothness"):
            yield (
                f"{place}.loss.terms.{name}: {chosen.kind} changes the embeddings of a "
                "row, which an encoder-decoder reads in two; leave it out"
            )
    loss, router = phase.loss, registry.guarded("router", phase.fuse.router)
    outcome = is_on(loss.eta_outcome) and loss.outcome_every > 0
    if outcome and (wants_kv(phase, registry) or learns(router)):
        yield (
            f"{place}.loss.outcome_every is {loss.outcome_every}, but nothing can be "
            f"injected: {NO_INJECTION}; set it to 0"
            + (", with a router that learns nothing" if learns(router) else "")
        )
