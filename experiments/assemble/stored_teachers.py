"""Open the stores of a config as teachers, and see that they are of this config."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from align.errors import MissingFileError
from align.foreign.inside import refuse_links_out
from align.text.documents import TextSample
from experiments.assemble.fingerprint import (
    identity_of,
    settings_of,
    student_of,
    tokenizer_digest,
)
from experiments.config.sections import StoreConfig
from experiments.config.tree import Config
from teacher.loading.tokenizer import load_tokenizer
from teacher.names import STORE
from teacher.store import KVStore, StoreError
from teacher.store.facts import (
    FUSED,
    TOKENIZERS,
    StoreFacts,
    noted_of,
    stored_sizes,
)
from teacher.store.manifest import Plan, differences
from teacher.stored_teacher import StoredTeacher


def stored_teachers(config: Config, student_tokenizer: Any) -> dict[str, StoredTeacher]:
    """Open the stores of a config in place of its teachers.

    Args:
        config: with ``store.read``.
        student_tokenizer: of the run's student.

    Returns:
        The teachers that ``store.read`` names. With ``true`` those that the extraction
        knew, without a ``store`` where it kept none; with ``store.form`` fused also the
        one that they have become. None whose ``model`` names a store of its own.

    Raises:
        FileNotFoundError: a store is missing or not finished.
        StoreError: it was extracted otherwise; names every field.
        OutsideError: a name or a link in it leads out of the folder.
    """
    root = config.store_dir
    refuse_links_out(root)
    apart = elsewhere(config)
    wanted = [n for n in config.teachers if config.store.reads(n) and n not in apart]
    if config.store.form == FUSED:
        store = KVStore(root / FUSED)
        check_settings(config, store, list(config.teachers), student_tokenizer)
        out = {n: _teacher(n, n, store, part=True) for n in config.teachers}
        return out | {FUSED: _teacher(FUSED, FUSED, store)}
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
    known = noted_of(some.plan)
    return {
        name: _teacher(name, name, stores.get(name, some), part=name not in stores)
        for name in wanted
        if name in stores or name in known
    }


def teacher_of_store(
    config: Config, name: str, facts: StoreFacts, student_tokenizer: Any
) -> StoredTeacher:
    """Open a teacher's own store, wherever it lies.

    How its model was loaded and computed is the store's; what decides texts and tokens
    must be as in the config.

    Args:
        config: the run.
        name: what the run calls the teacher.
        facts: what the store says.
        student_tokenizer: of the run's student.

    Raises:
        FileNotFoundError: something of it is missing.
        StoreError: it was extracted otherwise; names every field.
        OutsideError: a name or a link in it leads out of the folder.
    """
    refuse_links_out(facts.tokenizer)
    store = KVStore(facts.folder)
    stored = store.plan.fingerprint
    read = {"tokenizer": tokenizer_digest(_tokenizer(facts.tokenizer))}
    decides = {k: v for k, v in settings_of(config).items() if k in _OF_TEXTS}
    now = read | decides | _on_student_tokens(config, store.plan, student_tokenizer)
    changed = differences(_only({"learn_end": False} | stored, now), now)
    _refuse(store, changed, "with these and name that store")
    return _teacher(name, facts.name, store)


def elsewhere(config: Config) -> frozenset[str]:
    """The teachers whose ``model`` names a store of its own."""
    models = {name: entry.model for name, entry in config.teachers.items()}
    return frozenset(n for n, model in models.items() if model.startswith(STORE))


_OF_TEXTS = {"date", "max_length"}
"""Of the settings beside the models those that decide a text, or a teacher's tokens."""


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
        name: identity_of(
            config, name, _tokenizer(config.store_dir / TOKENIZERS / name)
        )
        | {
            "positions": _positions(
                config, name, stored if len(names) == 1 else stored[name]
            )
        }
        for name in names
    }
    now: dict[str, Any] = dict(settings[names[0]] if len(names) == 1 else settings)
    now |= settings_of(config)
    now |= _on_student_tokens(config, store.plan, student_tokenizer)
    changed = differences(_only({"learn_end": False} | stored, now), now)
    changed = [*_kept_otherwise(config, store.plan), *changed]
    _refuse(store, changed, "under another store.name")


def _kept_otherwise(config: Config, plan: Plan) -> list[str]:
    """How a store keeps its numbers, where the config asks for something else; what it
    leaves at its default it does not ask for."""
    usual = StoreConfig()
    kept: dict[str, Any] = {"form": plan.form, "encoding": plan.encoding.name}
    if plan.encoding.rank is not None:
        kept["rank"] = plan.encoding.rank
    if plan.outputs is not None:
        kept |= {"top_k": plan.outputs.top_k, "log_probs": plan.outputs.log_probs}
    asked = {name: getattr(config.store, name) for name in kept}
    return [
        f"{name}: stored {kept[name]!r}, config {value!r}"
        for name, value in asked.items()
        if value != kept[name] and (name == "form" or value != getattr(usual, name))
    ]


def _on_student_tokens(
    config: Config, plan: Plan, student_tokenizer: Any
) -> dict[str, Any]:
    """What decides a store beside the teacher where it is on the student's tokens."""
    if plan.form == "raw":
        return {}
    # Stores of versions that wrote no end are read with learn_end=false, see ends_of.
    now: dict[str, Any] = {
        "student_tokenizer": tokenizer_digest(student_tokenizer),
        "learn_end": config.data.learn_end,
        "aligner": config.align.aligner,
    }
    if plan.form in ("adapted", FUSED):
        now |= {"student": student_of(config), "adapter": config.align.adapter}
    return now


def _refuse(store: KVStore, changed: list[str], how: str) -> None:
    """Refuse a store of which fields differ; ``how`` to extract another."""
    if changed:
        raise StoreError(
            f"{store.path} was extracted otherwise: {'; '.join(changed)}. Restore "
            f"these settings, or extract again {how}"
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


def _tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder} with the tokenizer of {folder.name!r} is missing; run the same "
            "`mtkd extract` again, which writes it"
        )
    return load_tokenizer(folder.name, str(folder), {"trust_remote_code": False})


def _teacher(
    name: str, stored_as: str, store: KVStore, part: bool = False
) -> StoredTeacher:
    """Describe one stored teacher by what its extraction noted.

    Args:
        name: in the run.
        stored_as: what the extraction called it.
        store: that holds it.
        part: whether it is only known there, and not read from it.
    """
    plan = store.plan
    noted, fused = noted_of(plan), stored_as == FUSED
    if not fused and stored_as not in noted:
        raise StoreError(
            f"{store.path} was extracted without the teacher {stored_as!r}; run `mtkd "
            "extract` with this config under another store.name"
        )
    weighed: Any = plan.fingerprint.get("layer_map", noted)
    every = [noted[weighed_name] for weighed_name in weighed]
    facts = every[0] if fused else noted[stored_as]
    on_student_layers = plan.form in ("adapted", FUSED) and not part
    cut = on_student_layers or fused
    tokenizers = store.path.parent / TOKENIZERS
    return StoredTeacher(
        name=name,
        store=None if part else store,
        tokenizer=None if fused else _tokenizer(tokenizers / stored_as),
        kind=facts["kind"],
        family=facts["family"],
        sizes=stored_sizes(plan, stored_as, of_model=part),
        causal=all(each["causal"] for each in every) if fused else facts["causal"],
        learned_positions=not on_student_layers and facts["max_tokens"] is not None,
        reads_at_most=None if cut else facts.get("reads_at_most"),
    )
