"""Who taught: of every teacher what tells it from another under its name.

``teachers.json`` in a run's folder is for people and other programs; that a run does
not go on with another teacher is seen to phase by phase, by
:func:`experiments.run.lineage.check_record`, from the same facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.assemble.fingerprint import code_of_model, commit_of, tokenizer_digest
from experiments.record.history import read_json, write_json
from experiments.record.run_dir import STUDENT, TEACHERS
from teacher.names import pinned
from teacher.store.manifest import digest_of

if TYPE_CHECKING:
    from experiments.assemble.models import Models
    from experiments.config.tree import Config

FACTS = ("revision", "tokenizer", "dtype", "code", "store")
"""Beside digests of files; records of earlier versions lack them, and of these are
compared only where both sides have one."""
_STORED = ("revision", "config", "weights", "tokenizer", "dtype", "code")


def facts_of(config: Config, models: Models) -> dict[str, dict[str, str]]:
    """What each teacher of a run is, beside the digests of its files.

    Args:
        config: the run's.
        models: as loaded.

    Returns:
        By name, of what is known of it: ``revision``, the commit of a hub model;
        ``tokenizer``, a digest of it as it reads; ``dtype`` of its weights as they are
        held; ``code``, a digest of what comes with it and is run. Of a stored teacher
        what its store says,
        and ``store``, a digest of all that it holds.
    """
    facts: dict[str, dict[str, str]] = {}
    of_student = {name for name, s in models.sources.items() if s.of_student}
    for name, teacher in models.live.items():
        if name in of_student:  # their files are noted as their phase begins
            continue
        facts[name] = {
            "tokenizer": tokenizer_digest(teacher.tokenizer),
            "dtype": _type(teacher.weight_types, config.teachers[name].quantise),
        }
        files = models.sources[name].files
        if files is None:
            continue
        if commit := commit_of(files):
            facts[name]["revision"] = commit
        trusted = config.teachers[name].trust_remote_code
        if trusted and (code := code_of_model(files)):
            facts[name]["code"] = code
    for name, other in models.elsewhere.items():
        if name not in of_student:
            facts[name] = {"tokenizer": tokenizer_digest(other.tokenizer)}
    for name, stored in models.stored.items():
        if (store := stored.store) is not None and name in config.teachers:
            facts[name] = _in_store(name, store.plan.fingerprint)
            facts[name]["store"] = digest_of(store.manifest)
    return facts


def settled_commits(run_dir: Path) -> dict[tuple[str, str], str]:
    """What branches and tags of hub models were when a run began, by repository and
    revision; empty before it has begun.

    A run goes on with these commits, whatever the branch has become.
    """
    known = read_json(run_dir / TEACHERS)
    noted = [*known.get("teachers", {}).values(), known.get(STUDENT, {})]
    commits: dict[tuple[str, str], str] = {}
    for entry in noted:
        parts = pinned(str(entry.get("model", "")))
        commit = entry.get("revision")
        if parts is not None and isinstance(commit, str):
            commits[parts] = commit
    return commits


def _type(sizes: Mapping[str, int], quantised: str) -> str:
    """The types of a model's weights, the one that most of them have first."""
    types = ", ".join(sorted(sizes, key=lambda dtype: (-sizes[dtype], dtype)))
    return types if quantised == "none" else f"{types}, linear layers in {quantised}"


def _in_store(name: str, fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """What a store says of a teacher; a fused one has a part for each."""
    part = fingerprint.get(name, fingerprint)
    if not isinstance(part, Mapping):
        return {}
    known = {key: part.get(key) for key in _STORED}
    return {key: value for key, value in known.items() if isinstance(value, str)}


def write_teachers(
    run_dir: Path,
    config: Config,
    files: Mapping[str, Mapping[str, str]],
    stored: Iterable[str],
) -> None:
    """Write who teaches a run; who taught it earlier stays.

    Args:
        run_dir: the run's.
        config: the run's.
        files: digests and facts by name, see :func:`facts_of`.
        stored: teachers that are read from a store.
    """
    path, stored = run_dir / TEACHERS, set(stored)
    teachers: dict[str, Any] = {}
    for name, entry in config.teachers.items():
        asked = "from a store" if name in stored else "live"
        teachers[name] = {"model": entry.model, "asked": asked, **files.get(name, {})}
    known = read_json(path)
    written = {"teachers": {**known.get("teachers", {}), **teachers}}
    if pinned(config.student.model) and (commit := commit_of(config.student.model)):
        written[STUDENT] = {"model": config.student.model, "revision": commit}
    if known != written:
        write_json(path, written)


def compared(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of two accounts of one model what has to be equal.

    A hub's commit may change nothing that is read: where both know the weights, these
    decide.
    """
    idle = {key for key in FACTS if key not in before or key not in now}
    if before.get("weights") is not None and now.get("weights") is not None:
        idle.add("revision")
    kept = [{k: v for k, v in side.items() if k not in idle} for side in (before, now)]
    return kept[0], kept[1]
