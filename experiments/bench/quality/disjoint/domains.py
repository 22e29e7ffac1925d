"""Texts of domains that have nothing in common, each dealt to teacher and student."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from align.text.documents import read_texts
from teacher.zoo import zoo_documents

SPLITS = ("eval", "student", "teacher")
"""Who reads a text, in the order in which documents are dealt."""
CHARACTERS: Mapping[str, int] = MappingProxyType(
    {"eval": 30_000, "student": 120_000, "teacher": 1_500_000}
)
"""Most characters of a split in each domain."""
SHARES: Mapping[str, float] = MappingProxyType({"eval": 0.08, "student": 0.3})
"""Most of a domain that is held out, or the student's: short ones are the teacher's."""

Documents = Sequence[str]


def texts_of(given: Mapping[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Documents of every domain by split.

    Args:
        given: files or folders of text by domain, beside the embedded domains or, under
            the name of one, in its place.

    Returns:
        Domain -> split -> documents: the embedded ones, then those that are given.

    Raises:
        InputError: a text cannot be read.
    """
    dealt = {
        name: {split: read(split) for split in SPLITS}
        for name, read in EMBEDDED.items()
        if name not in given
    }
    for name, path in given.items():
        dealt[name] = deal([sample.text for sample in read_texts(path, name)])
    return {
        domain: {split: _first(splits[split], CHARACTERS[split]) for split in SPLITS}
        for domain, splits in dealt.items()
    }


def deal(documents: Documents) -> dict[str, list[str]]:
    """Give the first documents to be held out, the next to the student, and the
    teacher all others: neighbours, which resemble each other, stay together."""
    waiting = list(documents)
    whole = sum(map(len, waiting))
    dealt: dict[str, list[str]] = {}
    for split, share in SHARES.items():
        room = min(CHARACTERS[split], int(share * whole))
        dealt[split] = _first(waiting, room)
        waiting = waiting[len(dealt[split]) :]
    return {**dealt, "teacher": waiting}


def _first(documents: Documents, characters: int) -> list[str]:
    """The first documents that reach so many characters together."""
    taken, size = [], 0
    for document in documents:
        if size >= characters:
            break
        taken.append(document)
        size += len(document)
    return taken


def _library(domain: str) -> Callable[[str], list[str]]:
    """The embedded zoo's, whose splits share no paragraph."""
    return lambda split: [text for _, text in zoo_documents(domain, split)]


def _headers(split: str) -> list[str]:
    """C++ that comes with PyTorch."""
    import torch

    root = Path(torch.__file__).parent / "include"
    folders = ("c10", "torch/csrc", "ATen/core", "ATen/native", "ATen/cpu")
    files = sorted(file for name in folders for file in (root / name).rglob("*.h"))
    random.Random(0).shuffle(files)
    texts = [file.read_text("utf-8", "replace") for file in files]
    return deal([text for text in texts if len(text) < 20_000])[split]


def _sums(split: str) -> list[str]:
    """Worked sums, made up here: every split by a generator of its own."""
    draw = random.Random(f"sums of the {split}")
    sizes = {"eval": 60, "student": 250, "teacher": 2_000}
    return [
        "\n".join(problem for _ in range(8) for problem in _problem(draw))
        for _ in range(sizes[split])
    ]


def _problem(draw: random.Random) -> Iterator[str]:
    """The lines of one problem with its solution."""
    kind = draw.choice(("equation", "chain", "share"))
    if kind == "equation":
        a, x, b = draw.randint(2, 19), draw.randint(-30, 30), draw.randint(1, 99)
        yield f"Solve {a}x + {b} = {a * x + b}."
        yield f"{a}x = {a * x + b} - {b} = {a * x}, so x = {a * x} / {a} = {x}."
    elif kind == "chain":
        a, b, c = (draw.randint(2, 60) for _ in range(3))
        yield f"Compute {a} * {b} - {c} * (1 + {b})."
        left, right = a * b, c * (1 + b)
        yield f"{a} * {b} = {left}, {c} * {1 + b} = {right}, {left} - {right} = "
        yield f"{left - right}."
    else:
        part, whole = draw.randint(1, 19) * 5, draw.randint(1, 50) * 20
        yield f"What is {part} % of {whole}?"
        yield f"{part} / 100 * {whole} = {part * whole} / 100 = {part * whole // 100}."
    yield ""


EMBEDDED: Mapping[str, Callable[[str], list[str]]] = MappingProxyType(
    {
        "prose": _library("prose"),
        "code": _library("code"),
        "headers": _headers,
        "mathematics": _sums,
    }
)
"""Domains that are there without a file: English and Python, which Python carries; C++,
which PyTorch carries; and sums that are made up."""
