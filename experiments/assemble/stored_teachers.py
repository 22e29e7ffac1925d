"""Open the stores of a config as teachers, and see that they are of this config."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from align.errors import MissingFileError
from align.foreign.inside import refuse_links_out
from align.sizes import Sizes
from align.text.documents import TextSample
from experiments.assemble.fingerprint import (
    identity_of,
    settings_of,
    student_of,
    tokenizer_digest,
)
from experiments.config.tree import Config
from teacher.loading.tokenizer import load_tokenizer
from teacher.store import KVStore, StoreError
from teacher.store.manifest import differences
from teacher.stored_teacher import StoredTeacher

FUSED = "fused"
"""The store that holds all teachers in one, and the teacher it stands for."""

TOKENIZERS = "tokenizers"
"""The folder beside the stores with every teacher's tokenizer."""


def stored_teachers(config: Config, student_tokenizer: Any) -> dict[str, StoredTeacher]:
    """Open the stores of a config in place of its teachers.

    Args:
        config: with ``store.read``.
        student_tokenizer: of the run's student.

    Returns:
        The teachers that ``store.read`` names. With ``true`` those that the extraction
        knew, without a ``store`` where it kept none; with ``store.form`` fused also the
        one that they have become.

    Raises:
        FileNotFoundError: a store is missing or not finished.
        StoreError: it was extracted otherwise; names every field.
        OutsideError: a name or a link in it leads out of the folder.
    """
    root = config.store_dir
    refuse_links_out(root)
    wanted = [name for name in config.teachers if config.store.reads(name)]
    if config.store.form == FUSED:
        store = KVStore(root / FUSED)
        check_settings(config, store, list(config.teachers), student_tokenizer)
        out = {n: _teacher(config, n, store, part=True) for n in config.teachers}
        return out | {FUSED: _teacher(config, FUSED, store)}
    stores = {n: KVStore(root / n) for n in wanted if (root / n).is_dir()}
    named = wanted if isinstance(config.store.read, list) else []
    missing = [n for n in named if n not in stores] if stores else wanted
    if missing:
        raise MissingFileError(
            f"no store of {', '.join(missing)} in {root}; run `mtkd extract` "
            "with this config first, or check store.dir, store.name and store.read"
        )
    for name, store in stores.items():
        check_settings(config, store, [name], student_tokenizer)
    if not stores:
        return {}  # of no teachers
    some = next(iter(stores.values()))
    known: Any = some.plan.facts["teachers"]
    return {
        name: _teacher(config, name, stores.get(name, some), part=name not in stores)
        for name in wanted
        if name in stores or name in known
    }


def check_settings(
    config: Config, store: KVStore, names: list[str], student_tokenizer: Any
) -> None:
    """Refuse a store that was not made by this config, as far as can be told.

    Weights are compared where the teacher's files are on this machine.

    Raises:
        StoreError: names every field that differs.
    """
    stored = store.plan.fingerprint
    settings = {
        name: identity_of(config, name, _tokenizer(config, name))
        | {
            "positions": _positions(
                config, name, stored if len(names) == 1 else stored[name]
            )
        }
        for name in names
    }
    now: dict[str, Any] = dict(settings[names[0]] if len(names) == 1 else settings)
    now |= settings_of(config)
    if store.plan.form != "raw":
        now["student_tokenizer"] = tokenizer_digest(student_tokenizer)
        stored = {"learn_end": False} | dict(stored)  # as ends_of leaves it out
        now["learn_end"] = config.data.learn_end
        now["aligner"] = config.align.aligner
    if store.plan.form in ("adapted", FUSED):
        now |= {"student": student_of(config), "adapter": config.align.adapter}
    changed = differences(_only(stored, now), now)
    if store.plan.form != config.store.form:
        changed.insert(
            0, f"form: stored {store.plan.form!r}, config {config.store.form!r}"
        )
    if changed:
        raise StoreError(
            f"{store.path} was extracted otherwise: {'; '.join(changed)}. Restore "
            "these settings, or extract again under another store.name"
        )


def _positions(config: Config, name: str, stored: Any) -> Any:
    """How a teacher read long texts, if as the config asks, else what it asks for.

    Where no text was too long nothing was asked of it.
    """
    positions = stored.get("positions")
    asked = config.align.rope_scaling_method
    if config.teachers[name].long_texts == "window":
        asked = "windows"
    return positions if positions is None or positions.split()[0] == asked else asked


def _only(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields that can be told now, at every depth."""
    out = {}
    for key, value in now.items():
        stored_value = stored.get(key)
        if isinstance(stored_value, Mapping) and isinstance(value, Mapping):
            stored_value = _only(stored_value, value)
        out[key] = stored_value
    return out


def check_texts(
    teachers: Iterable[StoredTeacher], samples: Iterable[TextSample]
) -> None:
    """See, before any work, that every text of a run is stored.

    Raises:
        StoreError: names the first that is not.
    """
    stores = {t.store.path: t.store for t in teachers if t.store}
    for sample in samples:
        for path, store in stores.items():
            if store.find(sample.text) is None:
                raise StoreError(
                    f"{path} does not hold text {sample.id} of this run (data, "
                    "run.seed and the student's tokenizer decide which are read); run "
                    "`mtkd extract` with this config under another store.name"
                )


def save_tokenizer(config: Config, name: str, tokenizer: Any) -> None:
    """Keep a teacher's tokenizer beside its store, so that runs need nothing else."""
    folder = config.store_dir / TOKENIZERS / name
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{name}.{uuid.uuid4().hex[:12]}")
    try:
        tokenizer.save_pretrained(part)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # or another task was first, with the same files
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _tokenizer(config: Config, name: str) -> Any:
    folder: Path = config.store_dir / TOKENIZERS / name
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder} with the tokenizer of {name!r} is missing; run the same `mtkd "
            "extract` again, which writes it"
        )
    return load_tokenizer(name, str(folder), {"trust_remote_code": False})


def _teacher(
    config: Config, name: str, store: KVStore, part: bool = False
) -> StoredTeacher:
    """Describe one stored teacher by what its extraction noted."""
    plan = store.plan
    teachers: Any = plan.facts["teachers"]
    if name != FUSED and name not in teachers:
        raise StoreError(
            f"{store.path} was extracted without the teacher {name!r}; run `mtkd "
            "extract` with this config under another store.name"
        )
    weighed: Any = plan.fingerprint.get("layer_map", teachers)
    every = [teachers[weighed_name] for weighed_name in weighed]
    facts = every[0] if name == FUSED else teachers[name]
    on_student_layers = plan.form in ("adapted", FUSED) and not part
    shape = plan.shape
    sizes = Sizes(
        layers=shape.layers if on_student_layers else facts["layers"],
        heads=shape.heads if on_student_layers else facts["heads"],
        k_dim=shape.k_width // shape.heads if on_student_layers else facts["k_dim"],
        v_dim=shape.v_width // shape.heads if on_student_layers else facts["v_dim"],
        hidden_size=0,
    )
    cut = on_student_layers or name == FUSED
    return StoredTeacher(
        name=name,
        store=None if part else store,
        tokenizer=None if name == FUSED else _tokenizer(config, name),
        kind=facts["kind"],
        family=facts["family"],
        sizes=sizes,
        causal=(
            all(each["causal"] for each in every) if name == FUSED else facts["causal"]
        ),
        learned_positions=not on_student_layers and facts["max_tokens"] is not None,
        reads_at_most=None if cut else facts.get("reads_at_most"),
    )
