"""Several larger models, one tokenizer, and one text that all of them read.

Nothing that a teacher says can come from a text that the student has not read, and no
vocabulary stands between them: what is asked is whether a student learns more from
several larger readers of its own text than from the text alone, or than any of them.

Source:
    The setting of BabyLlama (Timiryasov and Tastet 2023, arXiv 2308.02019), where a
    student of 58 million weights passed both of its teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from experiments.bench.quality.bed import (
    SHAPE,
    STUDENT,
    config_for,
    made_bed,
    recipe_of,
    save,
)
from experiments.bench.quality.disjoint.domains import EMBEDDED, deal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

READ = 30_000
"""Characters of each domain that everybody reads."""
HELD_OUT = 20_000
"""Most characters of each domain that are held out."""
DOMAINS = ("prose", "code")
SIZES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "teacher-1": (4, 160, 448),
        "teacher-2": (4, 192, 512),
        "teacher-3": (6, 128, 384),
        "teacher-4": (4, 160, 448),
    }
)
"""Layers, width and inner width of each teacher; the last one differs from the first
by its seed alone. The student has 4, 96 and 288."""


def prepare_same(
    folder: Path, texts: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Make what the bed consists of, unless it lies there: texts, models, a config.

    Args:
        folder: of all beds of this kind; each set of texts has one of its own in it.
        texts: documents by domain in place of the embedded ones.

    Returns:
        The bed's config. Its teachers are untrained: arms train them.

    Raises:
        InputError: a domain has too little text.
    """
    parts = _parts(texts)
    return made_bed(
        folder,
        parts,
        made_of=[parts, STUDENT, dict(SIZES)],
        make_teachers=lambda there, tokenizer: _make_teachers(
            there, tokenizer, list(parts)
        ),
        config=lambda bed: _config(bed, list(parts)),
    )


def _parts(
    texts: Mapping[str, Sequence[str]] | None,
) -> dict[str, dict[str, list[str]]]:
    """Documents by domain and split."""
    parts = {}
    if texts is None:
        for name in DOMAINS:
            read = EMBEDDED[name]
            parts[name] = {"student": read("student"), "eval": read("eval")}
    else:
        parts = {name: deal(documents) for name, documents in texts.items()}
    return {
        name: {
            "student": _up_to(splits["student"], READ),
            "eval": _up_to(splits["eval"], HELD_OUT),
        }
        for name, splits in parts.items()
    }


def _up_to(documents: Sequence[str], characters: int) -> list[str]:
    """Documents until they have so many characters, the last one cut."""
    taken: list[str] = []
    for document in documents:
        if characters <= 0:
            break
        taken.append(document[:characters])
        characters -= len(document)
    return taken


def _make_teachers(
    folder: Path, tokenizer: PreTrainedTokenizerFast, domains: Sequence[str]
) -> None:
    from teacher.zoo.train import initial_model

    mix = dict.fromkeys(domains, 1 / len(domains))
    for number, (name, (layers, width, inner)) in enumerate(SIZES.items()):
        shape = SHAPE | {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": inner,
        }
        recipe = recipe_of(name, shape, mix, 0, 10 + number)
        save(initial_model(recipe, tokenizer), tokenizer, folder / name)


def _config(bed: Path, domains: Sequence[str]) -> dict[str, Any]:
    return config_for(bed, domains, list(SIZES), "quality_same")
