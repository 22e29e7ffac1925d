"""A testbed in which a router could matter: a specialist a domain, and no generalist.

All models have one tokenizer, made from the student's text: what is asked is who should
teach, and nothing is lost between vocabularies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import InputError
from experiments.bench.quality.bed import (
    SHAPE,
    STUDENT,
    Texts,
    config_for,
    made_bed,
    recipe_of,
    save,
)
from experiments.bench.quality.disjoint.domains import texts_of
from experiments.record.history import write_json
from teacher.zoo.recipes import ZooModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_RUN = "quality_disjoint"
_TEACHER = SHAPE | {
    "num_hidden_layers": 4,
    "hidden_size": 160,
    "intermediate_size": 448,
}


def prepare(
    folder: Path,
    given: Mapping[str, Path],
    domains: Sequence[str] = (),
    teacher_steps: int = 150,
) -> Path:
    """Make what the bed consists of, unless it lies there: texts, models, a config.

    Args:
        folder: of all beds of this kind; each set of texts has one of its own in it.
        given: texts by domain, see
            :func:`experiments.bench.quality.disjoint.domains.texts_of`.
        domains: those that take part; none: all there are.
        teacher_steps: optimiser steps of every teacher.

    Returns:
        The bed's config, which has a teacher of each domain's name.

    Raises:
        InputError: a text cannot be read, or a domain is unknown or has too little.
    """
    texts = texts_of(given)
    if domains:
        _check(domains, texts)
        texts = {name: texts[name] for name in domains}
    return made_bed(
        folder,
        texts,
        made_of=[texts, teacher_steps, STUDENT, _TEACHER],
        make_teachers=lambda there, tokenizer: _make_teachers(
            there, tokenizer, texts, teacher_steps
        ),
        config=lambda bed: config_for(bed, list(texts), list(texts), _RUN),
    )


def _check(domains: Sequence[str], texts: Mapping[str, object]) -> None:
    for name in domains:
        if name not in texts:
            raise InputError(
                f"--domains names {name!r}, of which there is no text; there are "
                f"{', '.join(texts)}, and --texts {name}=PATH gives more"
            )


def _make_teachers(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    texts: Texts,
    steps: int,
) -> None:
    costs = {}
    for number, (domain, splits) in enumerate(texts.items()):
        recipe = recipe_of(domain, _TEACHER, {domain: 1.0}, steps, 10 + number)
        before = time.process_time()
        model = _trained(recipe, tokenizer, splits["teacher"])
        costs[domain] = round(time.process_time() - before, 1)
        save(model, tokenizer, folder / domain)
    write_json(folder.parent / "teachers.json", {"cpu_s": costs, "steps": steps})


def _trained(
    recipe: ZooModel, tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]
) -> Any:
    from teacher.zoo.train import fit, initial_model, training_batches

    model = initial_model(recipe, tokenizer)
    batches = training_batches(recipe, tokenizer, {recipe.name: list(documents)})
    fit(model, recipe, batches, lambda step, steps, loss: None, threading.Event())
    return model.eval()
