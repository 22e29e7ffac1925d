"""What the zoo holds: every model, built or not, and how well it reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from teacher.zoo.build import is_built, read_manifest, zoo_folder
from teacher.zoo.recipes import ZooModel, recipes

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooEntry:
    """One model of the zoo and what is known about it."""

    name: str
    family: str
    role: str
    """teacher or student."""
    leaning: str
    """prose, code or mixed."""
    path: Path
    """Where it is, or will be."""
    built: bool
    """Present and made from the present recipe and text."""
    parameters: int | None = None
    """Weights, tied ones counted once; None while not built."""
    vocabulary: int | None = None
    """Entries of its tokenizer; None while not built."""
    measure: str = ""
    """What bits per character were paid for: next, masked or cut-out tokens."""
    bits_per_char: dict[str, float] = field(default_factory=dict)
    """By domain, on the eval split."""
    cpu_seconds: float | None = None
    """What building it cost."""


def list_zoo(
    cache_dir: str | Path | None = None, scale: str = "default"
) -> list[ZooEntry]:
    """Describe every model of the zoo, built or not."""
    folder = zoo_folder(cache_dir, scale)
    return [_entry(folder / m.name, m) for m in recipes(scale).values()]


def zoo_table(cache_dir: str | Path | None = None, scale: str = "default") -> Table:
    """Lay :func:`list_zoo` out as a rich table."""
    from rich.table import Table

    from teacher.zoo.text import DOMAINS

    table = Table(title=f"zoo ({scale})", caption=_CAPTION, caption_justify="left")
    for head in ("model", "family", "leaning"):
        table.add_column(head)
    for head in ("parameters", "vocabulary", *(f"{d} bits/char" for d in DOMAINS)):
        table.add_column(head, justify="right")
    table.add_column("measured on")
    for entry in list_zoo(cache_dir, scale):
        cells = [entry.name, entry.family, entry.leaning]
        if entry.built:
            bits = [f"{entry.bits_per_char[d]:.3f}" for d in DOMAINS]
            cells += [f"{entry.parameters:,}", f"{entry.vocabulary:,}", *bits]
            cells.append(entry.measure)
        else:
            cells += ["not built"]
        table.add_row(*cells)
    return table


_CAPTION = (
    "Held-out text; lower is better. Only next-token numbers compare with each "
    "other: the others see both sides of what they restore."
)


def _entry(path: Path, recipe: ZooModel) -> ZooEntry:
    entry = ZooEntry(
        name=recipe.name,
        family=recipe.family,
        role=recipe.role,
        leaning=recipe.leaning,
        path=path,
        built=is_built(path, recipe),
    )
    if not entry.built:
        return entry
    manifest = read_manifest(path)
    keys = ("parameters", "vocabulary", "bits_per_char", "cpu_seconds")
    measure = recipe.train.objective if recipe.train.steps else "untrained"
    return replace(entry, measure=measure, **{key: manifest[key] for key in keys})
