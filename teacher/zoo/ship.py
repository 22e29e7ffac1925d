"""Pack the trained zoo of this machine, to lie beside the code.

``mtkd zoo build --fresh`` and then ``python -m teacher.zoo.ship`` write
:data:`teacher.zoo.shipped.FOLDER` anew. Where the text is to be another Python's, run
``python -m teacher.zoo.ship --deal`` before: it notes which documents are held out.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from align.support.digest import sha256_of
from teacher.zoo.build import trained_manifest
from teacher.zoo.evaluate import held_out
from teacher.zoo.packed import pack, unpack
from teacher.zoo.recipes import ZooModel, recipes
from teacher.zoo.shipped import FOLDER, MANIFEST, as_json
from teacher.zoo.text import NOTED, dealt, document_sizes


def ship(zoo: Path, folder: Path = FOLDER, scale: str = "default") -> dict[str, Any]:
    """Pack the trained teachers of a zoo, measuring each before and after.

    Args:
        zoo: holds a folder for each model, as
            :func:`teacher.zoo.build.build_zoo` gives them.
        folder: where archives and manifest go.
        scale: of the recipes they were trained by.

    Returns:
        What the manifest says, by teacher.

    Raises:
        ValueError: a teacher is not there or trained by another recipe.
    """
    entries: dict[str, Any] = {}
    for recipe in recipes(scale).values():
        if recipe.role != "teacher":
            continue
        trained = trained_manifest(zoo / recipe.name, recipe)
        archive = folder / f"{recipe.name}.zip"
        pack(zoo / recipe.name, archive)
        entries[recipe.name] = {
            "sha256": sha256_of(archive),
            "bytes": archive.stat().st_size,
            "recipe": as_json(recipe),
            "python": platform.python_version(),
            "parameters": trained["parameters"],
            "vocabulary": trained["vocabulary"],
            "bits_per_char": _measured(archive, recipe),
            "bits_per_char_trained": trained["bits_per_char"],
            "seconds": trained["seconds"],
            "cpu_seconds": trained["cpu_seconds"],
        }
    text = json.dumps(entries, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return entries


def _measured(archive: Path, recipe: ZooModel) -> dict[str, float]:
    """Bits per character of what is unpacked from an archive."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        PreTrainedTokenizerFast,
    )

    kind: Any = {
        "next-token": AutoModelForCausalLM,
        "masked-token": AutoModelForMaskedLM,
        "span-corruption": AutoModelForSeq2SeqLM,
    }[recipe.train.objective]
    with tempfile.TemporaryDirectory() as scratch:
        unpack(archive, Path(scratch))
        model = kind.from_pretrained(scratch, attn_implementation="eager").eval()
        # As the file says: transformers' class of qwen2 splits text otherwise.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(scratch)
        return held_out(recipe, model, tokenizer)


def deal(path: Path = NOTED) -> dict[str, dict[str, list[str]]]:
    """Deal this Python's documents to the splits and note them.

    Args:
        path: the file.
    """
    splits = {
        kind: dealt(sizes, share) for kind, (sizes, share) in document_sizes().items()
    }
    path.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    return splits


def main() -> None:
    """Pack the zoo of this machine's cache and say what that costs, or deal."""
    if sys.argv[1:] == ["--deal"]:
        for kind, splits in deal().items():
            print(kind, {split: len(names) for split, names in splits.items()})
        return
    from align.support.cache_folder import cache_folder

    entries = ship(cache_folder() / "zoo" / "default")
    for name, facts in entries.items():
        pairs = [
            f"{domain} {facts['bits_per_char_trained'][domain]:.4f} -> {bits:.4f}"
            for domain, bits in facts["bits_per_char"].items()
        ]
        print(
            f"{name}: {facts['bytes']:,} bytes; bits per character {', '.join(pairs)}"
        )
    print(f"in all {sum(f['bytes'] for f in entries.values()):,} bytes")


if __name__ == "__main__":
    main()
