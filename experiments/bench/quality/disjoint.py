"""A testbed in which a router could matter: a specialist a domain, and no generalist.

All models have one tokenizer, made from the student's text: what is asked is who should
teach, and nothing is lost between vocabularies.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from align.errors import InputError
from align.support.cache_folder import made_folder
from experiments.bench.quality.domains import texts_of
from experiments.record.history import write_json
from teacher.zoo.recipes import TokenizerRecipe, TrainRecipe, ZooModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG = "config.yaml"
TOKENIZER = TokenizerRecipe(kind="byte-bpe", vocab_size=2048, style="bos")
SHAPE = {
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
STUDENT = SHAPE | {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "intermediate_size": 288,
}
_TEACHER = SHAPE | {
    "num_hidden_layers": 4,
    "hidden_size": 160,
    "intermediate_size": 448,
}
TRAINING = {
    "batch_size": 8,
    "optimizer": "muon",
    "zero_stage": 0,
    "learning_rate": 4e-3,
    "warmup_steps": 15,
    "threads": 1,
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
        given: texts by domain, see :func:`experiments.bench.quality.domains.texts_of`.
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
    check_sizes(texts)
    plain = json.dumps([texts, teacher_steps, STUDENT, _TEACHER], sort_keys=True)
    bed = folder.resolve() / hashlib.sha256(plain.encode()).hexdigest()[:12]
    bed.parent.mkdir(parents=True, exist_ok=True)
    if not (bed / CONFIG).is_file():
        with made_folder(bed) as fresh:
            write_texts(fresh, texts)
            _make_models(fresh, texts, teacher_steps)
            config = config_for(bed, list(texts))
            (fresh / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    return bed / CONFIG


def _check(domains: Sequence[str], texts: Mapping[str, object]) -> None:
    for name in domains:
        if name not in texts:
            raise InputError(
                f"--domains names {name!r}, of which there is no text; there are "
                f"{', '.join(texts)}, and --texts {name}=PATH gives more"
            )


def check_sizes(texts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """See that every domain has text for everybody.

    Raises:
        InputError: one has not.
    """
    for domain, splits in texts.items():
        for split, documents in splits.items():
            if not documents:
                raise InputError(
                    f"the text of {domain!r} is too short for a part of its own to be "
                    f"the {split}'s; give more in --texts {domain}=PATH"
                )


def write_texts(folder: Path, texts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Write what the student learns from, and what is held out, by domain."""
    for domain, splits in texts.items():
        for split in ("student", "eval"):
            path = folder / "texts" / split / f"{domain}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = (json.dumps({"text": text}) for text in splits[split])
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _make_models(
    folder: Path,
    texts: Mapping[str, Mapping[str, Sequence[str]]],
    teacher_steps: int,
) -> None:
    from teacher.zoo.tokenizers import train_tokenizer
    from teacher.zoo.train import initial_model

    reading = [text for splits in texts.values() for text in splits["student"]]
    tokenizer = train_tokenizer(TOKENIZER, reading)
    student = recipe_of("student", STUDENT, dict.fromkeys(texts, 1 / len(texts)), 0, 6)
    save(initial_model(student, tokenizer), tokenizer, folder / "student")
    costs = {}
    for number, (domain, splits) in enumerate(texts.items()):
        recipe = recipe_of(domain, _TEACHER, {domain: 1.0}, teacher_steps, 10 + number)
        before = time.process_time()
        model = _trained(recipe, tokenizer, splits["teacher"])
        costs[domain] = round(time.process_time() - before, 1)
        save(model, tokenizer, folder / "teachers" / domain)
    write_json(folder / "teachers.json", {"cpu_s": costs, "steps": teacher_steps})


def recipe_of(
    name: str,
    config: Mapping[str, object],
    mix: Mapping[str, float],
    steps: int,
    seed: int,
) -> ZooModel:
    """A model of the Llama family with the bed's tokenizer.

    Args:
        name: of the model.
        config: fields of the family's config.
        mix: share of each domain in its training text.
        steps: that it learns for here.
        seed: of its initial weights.
    """
    train = TrainRecipe(objective="next-token", steps=steps, seed=seed)
    return ZooModel(
        name=name,
        family="llama",
        mix=mix,
        tokenizer=TOKENIZER,
        train=train,
        config=config,
    )


def _trained(
    recipe: ZooModel, tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]
) -> Any:
    from teacher.zoo.train import fit, initial_model, training_batches

    model = initial_model(recipe, tokenizer)
    batches = training_batches(recipe, tokenizer, {recipe.name: list(documents)})
    fit(model, recipe, batches, lambda step, steps, loss: None, threading.Event())
    return model.eval()


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def config_for(bed: Path, domains: Sequence[str]) -> dict[str, Any]:
    """What all arms share, with a teacher of each domain's name."""

    def sources(split: str) -> list[str]:
        return [f"{name}={bed / 'texts' / split / name}.jsonl" for name in domains]

    return {
        "run": {"name": "quality_disjoint"},
        "student": {"model": str(bed / "student"), "init": "fresh"},
        "teachers": {n: {"model": str(bed / "teachers" / n)} for n in domains},
        "data": {
            "train": sources("student"),
            "eval": sources("eval"),
            "max_length": 128,
        },
        "train": dict(TRAINING),
        "loss": {"lambda_k": 2, "lambda_v": 2, "gamma_kl": 0},
        "baselines": {"ce_only": False, "single_teachers": "none"},
        "samples": {"prompts": 0},
    }
