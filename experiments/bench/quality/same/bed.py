"""Several larger models, one tokenizer, and one text that all of them read.

Nothing that a teacher says can come from a text that the student has not read, and no
vocabulary stands between them: what is asked is whether a student learns more from
several larger readers of its own text than from the text alone, or than any of them.

Source:
    The setting of BabyLlama (Timiryasov and Tastet 2023, arXiv 2308.02019), where a
    student of 58 million weights passed both of its teachers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from align.support.cache_folder import made_folder
from experiments.bench.quality.disjoint import (
    CONFIG,
    SHAPE,
    STUDENT,
    TOKENIZER,
    check_sizes,
    config_for,
    recipe_of,
    save,
    write_texts,
)
from experiments.bench.quality.domains import EMBEDDED, deal

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
    check_sizes(parts)
    plain = json.dumps([parts, STUDENT, dict(SIZES)], sort_keys=True)
    bed = folder.resolve() / hashlib.sha256(plain.encode()).hexdigest()[:12]
    bed.parent.mkdir(parents=True, exist_ok=True)
    if not (bed / CONFIG).is_file():
        with made_folder(bed) as fresh:
            write_texts(fresh, parts)
            _make_models(fresh, parts)
            config = _config(bed, list(parts))
            (fresh / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    return bed / CONFIG


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


def _make_models(folder: Path, texts: Mapping[str, Mapping[str, list[str]]]) -> None:
    from teacher.zoo.tokenizers import train_tokenizer
    from teacher.zoo.train import initial_model

    tokenizer = train_tokenizer(
        TOKENIZER, [text for splits in texts.values() for text in splits["student"]]
    )
    mix = dict.fromkeys(texts, 1 / len(texts))
    student = recipe_of("student", STUDENT, mix, 0, 6)
    save(initial_model(student, tokenizer), tokenizer, folder / "student")
    for number, (name, (layers, width, inner)) in enumerate(SIZES.items()):
        shape = SHAPE | {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": inner,
        }
        recipe = recipe_of(name, shape, mix, 0, 10 + number)
        save(initial_model(recipe, tokenizer), tokenizer, folder / "teachers" / name)


def _config(bed: Path, domains: Sequence[str]) -> dict[str, Any]:
    untrained = {n: {"model": str(bed / "teachers" / n)} for n in SIZES}
    config = config_for(bed, domains)
    return config | {"run": {"name": "quality_same"}, "teachers": untrained}
