"""What testbeds of the project's own making share: one tokenizer, a student, texts.

All models of a bed have one tokenizer, made from the student's text, so that nothing is
lost between vocabularies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from align.errors import InputError
from align.support.cache_folder import made_folder
from teacher.zoo.recipes import TokenizerRecipe, TrainRecipe, ZooModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Texts = Mapping[str, Mapping[str, Sequence[str]]]
"""Documents by domain and split."""

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
TRAINING = {
    "batch_size": 8,
    "optimizer": "muon",
    "zero_stage": 0,
    "learning_rate": 4e-3,
    "warmup_steps": 15,
    "threads": 1,
}


def made_bed(
    folder: Path,
    texts: Texts,
    *,
    made_of: Sequence[object],
    make_teachers: Callable[[Path, PreTrainedTokenizerFast], None],
    config: Callable[[Path], Mapping[str, Any]],
) -> Path:
    """Make what a bed consists of, unless it lies there: texts, models, a config.

    Args:
        folder: of all beds of this kind; each set of texts has one of its own in it.
        texts: of every domain, those of ``student`` and ``eval`` among them.
        made_of: all that decides what is made, of what JSON holds; the bed's folder is
            named after it.
        make_teachers: writes teachers into a folder, with the bed's tokenizer.
        config: of a bed in this folder.

    Returns:
        The bed's config.

    Raises:
        InputError: a domain has too little text.
    """
    check_sizes(texts)
    plain = json.dumps(made_of, sort_keys=True)
    bed = folder.resolve() / hashlib.sha256(plain.encode()).hexdigest()[:12]
    bed.parent.mkdir(parents=True, exist_ok=True)
    if not (bed / CONFIG).is_file():
        with made_folder(bed) as fresh:
            write_texts(fresh, texts)
            make_teachers(fresh / "teachers", _make_student(fresh, texts))
            written = yaml.safe_dump(config(bed))
            (fresh / CONFIG).write_text(written, encoding="utf-8")
    return bed / CONFIG


def check_sizes(texts: Texts) -> None:
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


def write_texts(folder: Path, texts: Texts) -> None:
    """Write what the student learns from, and what is held out, by domain."""
    for domain, splits in texts.items():
        for split in ("student", "eval"):
            path = folder / "texts" / split / f"{domain}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = (json.dumps({"text": text}) for text in splits[split])
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _make_student(folder: Path, texts: Texts) -> PreTrainedTokenizerFast:
    """Write an untrained one, and the tokenizer made from what it will read."""
    from teacher.zoo.tokenizers import train_tokenizer
    from teacher.zoo.train import initial_model

    reading = [text for splits in texts.values() for text in splits["student"]]
    tokenizer = train_tokenizer(TOKENIZER, reading)
    student = recipe_of("student", STUDENT, dict.fromkeys(texts, 1 / len(texts)), 0, 6)
    save(initial_model(student, tokenizer), tokenizer, folder / "student")
    return tokenizer


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


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def config_for(
    bed: Path, domains: Sequence[str], teachers: Sequence[str], name: str
) -> dict[str, Any]:
    """What all arms share.

    Args:
        bed: its folder.
        domains: of its texts.
        teachers: by the names of their folders.
        name: of runs.
    """

    def sources(split: str) -> list[str]:
        return [f"{name}={bed / 'texts' / split / name}.jsonl" for name in domains]

    return {
        "run": {"name": name},
        "student": {"model": str(bed / "student"), "init": "fresh"},
        "teachers": {n: {"model": str(bed / "teachers" / n)} for n in teachers},
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
