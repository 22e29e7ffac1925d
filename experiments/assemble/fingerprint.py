"""What must be equal for two extractions to be one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from align.errors import MtkdError
from align.support.digest import sha256_of
from align.text.chat import has_template
from experiments.assemble.precision import autocast_of
from experiments.config.later import with_effect
from experiments.config.tree import Config
from teacher.loading.model_files import weights_folder
from teacher.loading.remote_code import code_digest
from teacher.names import model_source
from teacher.packages.notices import licence_notices


def model_files(name: str) -> Path | None:
    """The folder of a model's files, None where it is not on this machine.

    Args:
        name: see :func:`teacher.names.model_source`.
    """
    try:
        return weights_folder(model_source(name))
    except MtkdError:
        return None


def model_fingerprint(name: str, dtype: str, tokenizer: Any) -> dict[str, JsonValue]:
    """Identify a model by its files.

    Args:
        name: as in the config.
        dtype: as in the config.
        tokenizer: as loaded.

    Returns:
        ``model``, ``revision`` (the commit of a hub model), ``config`` and
        ``weights`` (digests of its files; absent where they are not on this machine),
        ``tokenizer`` (a digest) and ``dtype``.
    """
    out: dict[str, JsonValue] = {
        "model": name,
        "dtype": dtype,
        "tokenizer": tokenizer_digest(tokenizer),
    }
    folder = model_files(name)
    if folder is None:
        return out
    if commit := commit_of(name):
        out["revision"] = commit
    out["config"] = sha256_of(folder / "config.json")[:16]
    out["weights"] = weights_digest(name)
    return out


def commit_of(name: str) -> str | None:
    """The commit of a hub's model that is read; None of what lies in other folders."""
    folder = model_files(name)
    return folder.name if folder and folder.parent.name == "snapshots" else None


def code_of_model(name: str) -> str | None:
    """Digest the Python files that come with a model; None where it is not here."""
    folder = model_files(name)
    return None if folder is None else code_digest(folder)


READ = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Of a model's files those beside its weights that decide what it says."""


def notices_of_student(config: Config) -> dict[str, str]:
    """Texts that go with a run's students: the terms of what they began as, and of the
    model whose vocabulary they were given; see :func:`licence_notices`.
    """
    vocabulary = config.vocabulary
    tokenizer = None if vocabulary is None else model_files(vocabulary)
    return licence_notices(model_files(config.student.model), tokenizer)


def file_digests(name: str, weights: bool = True) -> dict[str, str]:
    """Digest the files that a model is read from.

    Args:
        name: see :func:`teacher.names.model_source`.
        weights: whether its weights are read, too.

    Returns:
        By name, ``weights`` for all files of them; empty where they are not on this
        machine.
    """
    folder = model_files(name)
    if folder is None:
        return {}
    files = [folder / name for name in READ]
    digests = {file.name: sha256_of(file)[:16] for file in files if file.is_file()}
    whole = weights_digest(name) if weights else None
    return digests if whole is None else {**digests, "weights": whole}


def weights_digest(name: str) -> str | None:
    """Digest a model's weight files; None where they are not on this machine."""
    folder = model_files(name)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:16]


def identity_of(config: Config, name: str, tokenizer: Any) -> dict[str, JsonValue]:
    """Identify a teacher of a config; see :func:`model_fingerprint`."""
    entry = config.teachers[name]
    dtype: str = entry.dtype
    if entry.quantise != "none":
        dtype = f"{dtype}, linear layers in {entry.quantise}"
    identity = model_fingerprint(entry.model, dtype, tokenizer)
    code = code_of_model(entry.model) if entry.trust_remote_code else None
    return identity if code is None else {**identity, "code": code}


def student_of(config: Config) -> dict[str, JsonValue]:
    """Identify the student that adapters are calibrated to."""
    settings: dict[str, JsonValue] = with_effect(config.student)
    if config.student.trust_remote_code:
        settings["code"] = code_of_model(config.student.model)
    if config.student.init == "fresh":
        return settings | {"seed": config.run.seed}
    return settings | {"weights": weights_digest(config.student.model)}


def settings_of(config: Config) -> dict[str, JsonValue]:
    """Settings beside the models that decide what is stored."""
    day = config.data.date
    dated: dict[str, JsonValue] = {} if day is None else {"date": day}
    return dated | {
        "max_length": config.data.max_length,
        "autocast": "bfloat16" if autocast_of(config.train) else None,
        "on_non_finite": config.store.on_non_finite,
    }


def ends_of(config: Config) -> dict[str, JsonValue]:
    """Where the student's tokens of a text end, for forms that hold these.

    Stores of versions in which no end was written are read with ``learn_end=false``.
    """
    return {"learn_end": True} if config.data.learn_end else {}


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest a fast tokenizer: its vocabulary, how it cuts and its chat template."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # What an earlier call left set on it changes no token.
    state.pop("truncation", None)
    state.pop("padding", None)
    if has_template(tokenizer):
        state["chat_template"] = tokenizer.chat_template
    text = json.dumps(state, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
