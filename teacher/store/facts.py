"""What one teacher's store says of that teacher: its files are read, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import MissingFileError
from align.foreign.inside import refuse_links_out
from align.sizes import Sizes
from teacher.store.manifest import (
    MANIFEST,
    PLAN,
    Plan,
    StoreError,
    digest_of,
    read_sealed,
)
from teacher.store.reader import read_manifest
from teacher.store.records import check_file

FUSED = "fused"
"""The store that holds all teachers in one, the teacher it stands for, its form."""

TOKENIZERS = "tokenizers"
"""The folder beside the stores with every teacher's tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFacts:
    """One teacher, as its store describes it."""

    folder: Path
    """Of the store."""
    name: str
    """What the extraction called the teacher."""
    plan: Plan
    digest: str
    """Of all that the store holds, as its manifest vouches for it."""

    @property
    def tokenizer(self) -> Path:
        """The folder of the teacher's tokenizer."""
        return self.folder.parent / TOKENIZERS / self.name

    @property
    def kind(self) -> str:
        """decoder, encoder or encoder-decoder."""
        return str(noted_of(self.plan)[self.name]["kind"])

    @property
    def family(self) -> str:
        """The architecture, as transformers' ``model_type``."""
        return str(noted_of(self.plan)[self.name]["family"])

    @property
    def model(self) -> str:
        """The model as the extraction's config named it."""
        return str(self.plan.fingerprint.get("model", ""))

    @property
    def sizes(self) -> Sizes:
        """Of its keys and values, as they come."""
        return stored_sizes(self.plan, self.name)

    @property
    def says(self) -> str:
        """What is read of it, in a clause."""
        outputs, plan = self.plan.outputs, self.plan
        named = "" if outputs is None else f"the {outputs.top_k} likeliest next tokens"
        kept = f"keys and values of {plan.shape.layers} layers" * bool(
            plan.shape.layers
        )
        return (
            f"{' and '.join(filter(None, (kept, named)))} of {self.model}, read from "
            f"{self.folder} ({plan.form}, {plan.samples:,} texts)"
        )


def read_facts(folder: Path) -> StoreFacts:
    """Read what a store says of its teacher.

    Args:
        folder: one that ``mtkd extract`` wrote, of one teacher, wherever it lies now;
            ``tokenizers`` stands beside it.

    Raises:
        FileNotFoundError: no folder, no store in it, several, or an unfinished one.
        StoreError: damaged, all teachers in one, or nothing is said of a teacher.
        OutsideError: a link in it leads out of it.
    """
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder} ({folder.absolute()}) is not there; give the folder of one "
            "teacher that `mtkd extract` wrote, such as store:kv/RUN/NAME"
        )
    refuse_links_out(folder)
    manifest = read_manifest(folder)
    check_file(folder, manifest.plan, MANIFEST)
    plan = read_sealed(folder / PLAN, Plan)
    if plan.form == FUSED:
        raise StoreError(
            f"{folder} is of the form fused, in which all teachers are one and none "
            "stands alone; read it by the config that extracted it, with "
            "store.read=true, or extract the teachers each by itself with "
            "store.form=raw"
        )
    facts = StoreFacts(
        folder=folder,
        name=_name_of(folder, plan),
        plan=plan,
        digest=digest_of(manifest),
    )
    if not facts.tokenizer.is_dir():
        raise MissingFileError(
            f"{facts.tokenizer} with the teacher's tokenizer is missing; copy it there "
            "from where the store was extracted"
        )
    return facts


def noted_of(plan: Plan) -> Mapping[str, Any]:
    """What an extraction noted of each of its teachers, by name; nothing of stores
    that :func:`teacher.store.save_kvs` wrote."""
    noted = plan.facts.get("teachers", {})
    return noted if isinstance(noted, dict) else {}


def stored_sizes(plan: Plan, name: str, *, of_model: bool = False) -> Sizes:
    """Sizes of a teacher's keys and values, as they come from a store.

    Args:
        plan: of the store.
        name: of the teacher; of all of a fused store, ``fused``.
        of_model: the model's sizes, whatever the store holds.
    """
    shape, noted = plan.shape, noted_of(plan)
    on_student_layers = plan.form in ("adapted", FUSED) and not of_model
    if on_student_layers:
        return Sizes(
            layers=shape.layers,
            heads=shape.heads,
            k_dim=shape.k_width // shape.heads,
            v_dim=shape.v_width // shape.heads,
            hidden_size=0,
        )
    facts = noted[name]
    return Sizes(
        layers=facts["layers"],
        heads=facts["heads"],
        k_dim=facts["k_dim"],
        v_dim=facts["v_dim"],
        hidden_size=0,
    )


def _name_of(folder: Path, plan: Plan) -> str:
    """What the extraction called the teacher: its folder may be called otherwise."""
    noted = noted_of(plan)
    if not noted:
        raise StoreError(
            f"{folder} holds keys and values without a word on whose they are, as "
            "save_kvs writes them; give a store that `mtkd extract` wrote"
        )
    called = [name for name in (folder.name, folder.resolve().name) if name in noted]
    called += list(noted) if len(noted) == 1 else []
    for name in called:
        if plan.form == "adapted" or _fits(plan, noted[name]):
            return name
    raise StoreError(
        f"{folder} was called as its teacher when it was extracted, one of "
        f"{', '.join(noted)}; give the folder that name again"
    )


def _fits(plan: Plan, facts: Mapping[str, Any]) -> bool:
    """Whether the stored sizes can be a teacher's."""
    shape, heads = plan.shape, facts["heads"]
    widths = (heads * facts["k_dim"], heads * facts["v_dim"])
    return (shape.heads, shape.k_width, shape.v_width) == (heads, *widths)
