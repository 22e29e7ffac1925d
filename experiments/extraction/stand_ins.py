"""Stand-ins for teachers that are read from a store and never loaded."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from align.errors import MissingFileError
from align.sizes import Sizes
from align.text import TextSample
from experiments.config import Config
from experiments.extraction.fingerprint import (
    identity_of,
    settings_of,
    student_of,
    tokenizer_digest,
)
from experiments.settings import ConfigError
from teacher.store import KVStore, StoreError
from teacher.store.manifest import differences
from teacher.tokenizer import load_tokenizer

FUSED = "fused"
"""The store that holds all teachers in one, and the teacher it stands for."""

TOKENIZERS = "tokenizers"
"""The folder beside the stores with every teacher's tokenizer."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """What a run asks of a loaded model, apart from running it."""

    name: str
    tokenizer: Any
    kind: str
    model: Any
    """Has a ``config`` with a ``model_type``."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredCapture:
    """What a run asks of a capture, apart from calling it."""

    store: KVStore | None
    """None of a teacher that is part of a fused one, or that no phase took."""
    num_layers: int
    num_kv_heads: int
    k_dim: int
    v_dim: int
    causal: bool
    max_tokens: int | None = None
    reads_at_most: int | None = None
    """Of its own tokens, beyond which a text was cut; see
    :func:`experiments.lengths.reads_at_most`."""
    has_logits: bool = False

    @property
    def sizes(self) -> Sizes:
        """Of keys and values; no hidden states are stored."""
        return Sizes(
            layers=self.num_layers,
            heads=self.num_kv_heads,
            k_dim=self.k_dim,
            v_dim=self.v_dim,
            hidden_size=0,
        )

    def places(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Where layers stand among the stored ones.

        Raises:
            StoreError: one is not stored.
        """
        if self.store is None:
            raise StoreError(
                "a phase takes a teacher that was not extracted, because no phase took "
                "it then; run `mtkd extract` with this config"
            )
        plan = self.store.plan
        stored = plan.fingerprint.get("layers", list(range(plan.shape.layers)))
        assert isinstance(stored, list)
        missing = [layer for layer in layers if layer not in stored]
        if missing:
            raise StoreError(
                f"{self.store.path} holds the teacher's layers {stored}, but the layer "
                f"map reads {missing}; set align as it was extracted, or extract again"
            )
        return tuple(stored.index(layer) for layer in layers)


Teacher = tuple[StoredModel, StoredCapture]


def stored_teachers(config: Config, student_tokenizer: Any) -> dict[str, Teacher]:
    """Open the stores of a config in place of its teachers.

    Args:
        config: with ``store.read``.
        student_tokenizer: of the run's student.

    Returns:
        Every teacher of the config; with ``store.form`` fused also the one that they
        have become.

    Raises:
        FileNotFoundError: a store is missing or not finished.
        StoreError: it was extracted otherwise; names every field.
    """
    root = config.store_dir
    if config.store.form == FUSED:
        store = KVStore(root / FUSED)
        check_settings(config, store, list(config.teachers), student_tokenizer)
        out = {n: _teacher(config, n, store, part=True) for n in config.teachers}
        return out | {FUSED: _teacher(config, FUSED, store)}
    stores = {n: KVStore(root / n) for n in config.teachers if (root / n).is_dir()}
    if not stores:
        raise MissingFileError(
            f"no store of {', '.join(config.teachers)} in {root}; run `mtkd extract` "
            "with this config first, or check store.dir and store.name"
        )
    for name, store in stores.items():
        check_settings(config, store, [name], student_tokenizer)
    some = next(iter(stores.values()))
    return {
        name: _teacher(config, name, stores.get(name, some), part=name not in stores)
        for name in config.teachers
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
    own = {
        name: identity_of(config, name, _tokenizer(config, name))
        | {
            "positions": _positions(
                config, name, stored if len(names) == 1 else stored[name]
            )
        }
        for name in names
    }
    now: dict[str, Any] = dict(own[names[0]] if len(names) == 1 else own)
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
    found = stored.get("positions")
    asked = config.align.rope_scaling_method
    if config.teachers[name].long_texts == "window":
        asked = "windows"
    return found if found is None or found.split()[0] == asked else asked


def _only(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields that can be told now, at every depth."""
    out = {}
    for key, value in now.items():
        own = stored.get(key)
        if isinstance(own, Mapping) and isinstance(value, Mapping):
            own = _only(own, value)
        out[key] = own
    return out


def check_texts(teachers: Mapping[str, Teacher], samples: Iterable[TextSample]) -> None:
    """See, before any work, that every text of a run is stored.

    Raises:
        StoreError: names the first that is not.
    """
    stores = {c.store.path: c.store for _, c in teachers.values() if c.store}
    for sample in samples:
        for path, store in stores.items():
            if store.find(sample.text) is None:
                raise StoreError(
                    f"{path} does not hold text {sample.id} of this run (data, "
                    "run.seed and the student's tokenizer decide which are read); run "
                    "`mtkd extract` with this config under another store.name"
                )


def check_terms(
    attention: bool, own_loss: bool, teachers: Mapping[str, Teacher]
) -> None:
    """Refuse what no store, or not this one, can give.

    Raises:
        ConfigError: attention, or teachers' own losses where they were not stored.
    """
    if attention:
        raise ConfigError(
            "store.read: stores hold keys and values, no queries, hence no attention, "
            "which loss.gamma_kl compares; set phase.all.loss.gamma_kl=0, or train "
            "from live teachers"
        )
    for name, (_, capture) in teachers.items():
        held = capture.store is None or capture.store.plan.fingerprint.get("own_loss")
        if own_loss and not held:
            raise ConfigError(
                f"store.read: the store of {name!r} holds no losses of its own, which "
                "a router here learns from; extract again with this config, or set "
                "phase.all.loss.router_signal=outcome"
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


def _teacher(config: Config, name: str, store: KVStore, part: bool = False) -> Teacher:
    """Describe one stored teacher by what its extraction noted."""
    plan = store.plan
    teachers: Any = plan.facts["teachers"]
    if name != FUSED and name not in teachers:
        raise StoreError(
            f"{store.path} was extracted without the teacher {name!r}; run `mtkd "
            "extract` with this config under another store.name"
        )
    weighed: Any = plan.fingerprint.get("layer_map", teachers)
    every = [teachers[one] for one in weighed]
    facts = every[0] if name == FUSED else teachers[name]
    causal = all(each["causal"] for each in every) if name == FUSED else facts["causal"]
    tokenizer = None if name == FUSED else _tokenizer(config, name)
    family = SimpleNamespace(model_type=facts["family"])
    loaded = StoredModel(name, tokenizer, facts["kind"], SimpleNamespace(config=family))
    heads, shape = facts["heads"], plan.shape
    if plan.form in ("adapted", FUSED) and not part:
        return loaded, StoredCapture(
            store,
            shape.layers,
            shape.heads,
            shape.k_width // shape.heads,
            shape.v_width // shape.heads,
            causal,
        )
    return loaded, StoredCapture(
        None if part else store,
        facts["layers"],
        heads,
        facts["k_dim"],
        facts["v_dim"],
        causal,
        facts["max_tokens"],
        None if name == FUSED else facts.get("reads_at_most"),
    )
