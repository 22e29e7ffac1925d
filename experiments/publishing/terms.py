"""Whose terms bind a run's student: what it began as, and who taught it.

Weights and tokenizers that a student began as are copied into it, so their licence is
its own. A teacher's are not; but there are licences, such as Gemma's, that also speak
of models that were trained on what another one said. What is known of a model is what
its manifest says (:mod:`teacher.packages.manifest`); of others nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import InputError, MissingFileError
from experiments.assemble.fingerprint import model_files
from experiments.publishing.names import public_name
from teacher.names import MADE, PACKAGE, PEER, STORE, ZOO
from teacher.packages.manifest import read_manifest
from teacher.packages.notices import forbids
from teacher.sources.built_in import SOURCES, parted
from teacher.sources.files import FILES
from teacher.store.facts import read_facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is known of the licence of one model."""

    part: str
    """What of it is in the student: ``weights``, ``tokenizer``, or ``teaching``."""
    name: str
    """A teacher's in the config; the model's where it is none."""
    model: str
    """As it may be told, see :func:`public_name`."""
    licence: str
    """Empty where it is not known."""
    redistributable: bool | None
    """Whether copies may be handed on as they are; None where it is not known."""
    here: bool = True
    """Whether its files are on this machine, or it is no model of files."""


def terms_of(config: Mapping[str, Any]) -> list[Terms]:
    """Everybody's terms, the student's origin first.

    Args:
        config: a run's config.yaml.
    """
    student = config.get("student") or {}
    teachers: Mapping[str, Any] = config.get("teachers") or {}
    model, vocabulary = str(student.get("model", "")), student.get("tokenizer")
    drawn = student.get("init") == "fresh"
    origins = (
        [] if drawn and vocabulary else [("tokenizer" if drawn else "weights", model)]
    )
    if vocabulary:
        origins.append(("tokenizer", _model_of(teachers.get(vocabulary)) or vocabulary))
    taught = [("teaching", _model_of(entry), name) for name, entry in teachers.items()]
    every = [(part, of, of) for part, of in origins if of] + taught
    return [_terms(part, of, public_name(name)) for part, of, name in every]


def forbidden(
    terms: Sequence[Terms], licence: str | None, read: Sequence[str]
) -> list[str]:
    """Why a student may not be handed on as it stands, a sentence each.

    Args:
        terms: see :func:`terms_of`.
        licence: that whoever hands it on gives it; None: that of what it began as.
        read: teachers whose terms that person has read and goes by.
    """
    reasons = []
    for each in terms:
        if not each.here and each.name not in read:
            reasons.append(
                f"the files of {each.model} are not found from here, so nobody can say "
                "what its terms are; run this where the run was started"
                + (f", or read them and say --terms {each.name}" * _taught(each))
            )
        if each.redistributable is not False:
            continue
        if each.part != "teaching":
            reasons.append(
                f"its {each.part} come from {each.model}, whose licence "
                f"({each.licence}) forbids handing copies on; it stays on this machine"
            )
        elif each.name not in read:
            reasons.append(
                f"the terms of its teacher {each.name} ({each.model}: {each.licence}) "
                "may bind models that learned from it, too; read them, and say so by "
                f"--terms {each.name}"
            )
    if not reasons and licence_of(terms, licence) is None:
        reasons.append(
            "nothing says under which licence it is handed on; give one, such as "
            "--licence apache-2.0"
        )
    return reasons


def licence_of(terms: Sequence[Terms], given: str | None) -> str | None:
    """The student's licence as the hub writes it: the one given, else its origin's."""
    if given:
        return given.lower()
    known = {t.licence for t in terms if not _taught(t)}
    return known.pop().lower() or None if len(known) == 1 else None


def _taught(terms: Terms) -> bool:
    return terms.part == "teaching"


def _model_of(entry: Any) -> str:
    return (
        str(entry.get("model", "")) if isinstance(entry, Mapping) else str(entry or "")
    )


def _terms(part: str, model: str, name: str) -> Terms:
    files = _files_of(model)
    folder = None if files is None else model_files(files)
    manifest = None if folder is None else read_manifest(folder)
    forbidden = None if folder is None else forbids(folder)
    return Terms(
        part=part,
        name=name,
        model=public_name(model),
        licence="" if manifest is None else manifest.licence,
        redistributable=None if forbidden is None else not forbidden,
        here=folder is not None or files is None or files.startswith(ZOO),
    )


def _files_of(model: str) -> str | None:
    """The model whose files are read; None for sources that read none, or that are of
    the student's own make."""
    try:
        prefix, rest = parted(model, SOURCES)
    except InputError:  # a plugin's
        return None
    if model.startswith(STORE):
        return _stored_model(Path(rest).expanduser())
    of_files = (FILES, ZOO.removesuffix(":"), PACKAGE.removesuffix(":"))
    if model.startswith((PEER, MADE)) or prefix in of_files:
        return model.removeprefix(PEER)
    return None


def _stored_model(folder: Path) -> str:
    """The model that a store was made of; its folder, which is no model's, where that
    cannot be read from here."""
    try:
        return read_facts(folder).model
    except (InputError, MissingFileError):
        return str(folder.absolute())
