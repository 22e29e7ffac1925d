"""Pretrained teachers, and a text so short that the student soon knows it by heart.

Every seed, arm and length reads the same texts, so that a teacher is asked once for all
of them. Steps beyond a few epochs are of no use without a teacher: the question is what
teachers are worth where text runs out, and not steps.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from align.errors import InputError
from align.support.cache_folder import made_folder
from align.support.whole_file import write_whole
from experiments.bench.quality.bed import CONFIG, write_texts
from experiments.config.packaged import config_path
from teacher.zoo import zoo_samples

HELD_OUT = 128
"""Texts that are held out, of all domains together."""
TOP_K = 64
"""Tokens of a teacher's distribution that its store holds at each place."""
DOMAINS = ("prose", "code")
SMOLLM2, MINILM, GEMMA = "smollm2", "minilm", "gemma3"
"""Teachers: a decoder, an encoder, and a decoder that ``mtkd train real`` has not."""

Parts = Mapping[str, Mapping[str, list[str]]]


def prepare_real(folder: Path, texts: int) -> Path:
    """Write the texts and a config, unless they lie there.

    Args:
        folder: of all beds of this kind; each set of texts has one of its own in it.
        texts: that the student reads, shared by the domains evenly.

    Returns:
        The bed's config: that of ``mtkd train real`` on these texts, with Gemma 3.

    Raises:
        InputError: there are not so many texts.
    """
    parts = {
        name: {
            "student": _drawn(name, "student", texts // len(DOMAINS)),
            "eval": _drawn(name, "eval", HELD_OUT // len(DOMAINS)),
        }
        for name in DOMAINS
    }
    plain = json.dumps(parts, sort_keys=True)
    bed = folder.resolve() / hashlib.sha256(plain.encode()).hexdigest()[:12]
    bed.parent.mkdir(parents=True, exist_ok=True)
    if not bed.is_dir():
        with made_folder(bed) as fresh:
            write_texts(fresh, parts)
    # Unlike texts it says what arms do, and follows the packaged one.
    config, written = bed / CONFIG, yaml.safe_dump(_config(bed), sort_keys=False)
    if not config.is_file() or config.read_text(encoding="utf-8") != written:
        write_whole(config, written)  # workers of another call may read it
    return config


def _drawn(domain: str, split: str, count: int) -> list[str]:
    """The same texts of the embedded ones at each call."""
    texts = [sample.text for sample in zoo_samples(domain, split)]
    if not 1 <= count <= len(texts):
        raise InputError(
            f"{count} texts of {domain!r} are asked for, of which there are "
            f"{len(texts)}; --text-count shares its number by {len(DOMAINS)} domains"
        )
    return random.Random(0).sample(texts, count)


def _config(bed: Path) -> dict[str, Any]:
    config = yaml.safe_load(config_path("real").read_text(encoding="utf-8"))

    def sources(split: str) -> list[str]:
        return [f"{name}={bed / 'texts' / split / name}.jsonl" for name in DOMAINS]

    config["run"]["name"] = "quality_real"
    config["teachers"][GEMMA] = {"model": f"pkg:{GEMMA}", "dtype": "bfloat16"}
    config["data"] |= {
        "train": sources("student"),
        "eval": sources("eval"),
        "eval_samples": HELD_OUT,
    }
    config["answers"] = {"keep": []}  # what teachers say is read from their stores
    config["store"] = {"top_k": TOP_K}
    return config
