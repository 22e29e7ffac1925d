"""Text that an arm reads beside the base's: the teachers' split, or what they write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from align.support.whole_file import write_whole
from align.text.documents import TextSample
from experiments.record.history import write_json
from experiments.record.progress import Progress
from teacher.zoo import zoo_documents, zoo_samples

UNLABELLED, WRITTEN = "unlabelled", "written"
DOMAINS = ("prose", "code")
CHARACTERS = 1_500_000
"""Of each domain's unlabelled text, at most."""
WRITERS = (
    ("gpt2-prose", "prose", 0),
    ("neox-mixed", "prose", 1),
    ("qwen-code", "code", 0),
    ("neox-mixed", "code", 1),
)
"""Who goes on from which domain's texts, and from which half of them: each of the
student's is gone on from once. Who has read one domain writes that."""
OPENING, NEW = 16, 128
"""Tokens of a written text: of the student's text that it begins with, and drawn."""


def text_settings(folder: Path, reads: Sequence[str]) -> list[str]:
    """Settings under which a run of the zoo's text reads more, and is measured as ever.

    Args:
        folder: of the texts.
        reads: names of what is read beside the zoo's; none: no settings.
    """
    if not reads:
        return []
    files = [
        f"{file.stem.split('-')[0]}={file}"
        for name in reads
        for file in _files(folder, name)
    ]
    # What is cut where its writer had to stop has no end to be learned.
    ends = ["data.learn_end=false"] if WRITTEN in reads else []
    return [f"data.train={json.dumps(['zoo', *files])}", "data.eval=[zoo]", *ends]


def make_text(folder: Path, name: str) -> None:
    """Write one of these texts, and what that took, into a folder.

    Args:
        folder: of the texts; NAME.json has ``cpu_s``, processor seconds of the teachers
            that wrote, and ``characters`` and ``texts`` by file.
        name: :data:`UNLABELLED` or :data:`WRITTEN`.

    Raises:
        OSError: no room, or no right to write.
    """
    before = time.process_time()
    sizes = {}
    for at, file in enumerate(_files(folder, name)):
        if name == UNLABELLED:
            texts = list(_unlabelled(DOMAINS[at]))
        else:
            texts = _written(folder, *WRITERS[at])
        rows = (json.dumps({"text": text}) for text in texts)
        write_whole(file, "\n".join(rows) + "\n")
        sizes[file.name] = {"texts": len(texts), "characters": sum(map(len, texts))}
    seconds = round(time.process_time() - before, 1) if name == WRITTEN else 0.0
    write_json(folder / f"{name}.json", {"cpu_s": seconds, "files": sizes})


def _files(folder: Path, name: str) -> list[Path]:
    """One for each domain or writer; a name begins with the domain."""
    if name == UNLABELLED:
        return [folder / f"{domain}-{name}.jsonl" for domain in DOMAINS]
    return [folder / f"{domain}-{writer}.jsonl" for writer, domain, _ in WRITERS]


def _unlabelled(domain: str) -> Iterator[str]:
    """Whole documents, in the order of their hashes, the last one cut."""
    left = CHARACTERS
    for _, text in zoo_documents(domain, "teacher"):
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


def _written(folder: Path, teacher: str, domain: str, half: int) -> list[str]:
    """A text for every second one of the student's, from its first words on, drawn at
    temperature 1."""
    from experiments.config.zoo_names import build_named
    from experiments.writing.corpus import Plan, write_corpus
    from experiments.writing.openings import beginnings
    from experiments.writing.sources import load_writer
    from teacher.writing import Sample

    build_named([f"zoo:{teacher}"])
    writer = load_writer(teacher, f"zoo:{teacher}")
    samples: list[TextSample] = zoo_samples(domain, "student")[half::2]
    facts = {"by": teacher, "weights": None, "writer": "sample", "domain": domain}
    plan = Plan(
        openings=beginnings(samples, writer, OPENING, None),
        way=Sample(),
        max_new_tokens=NEW,
        seed=0,
        facts=facts,
    )
    out = folder / "rows" / f"{domain}-{teacher}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_corpus(out, plan, writer, range(plan.parts), Progress())
    rows = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    return [row["prompt"] + row["completion"] for row in rows]
