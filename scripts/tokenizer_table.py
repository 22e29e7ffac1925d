"""Write what alignment makes of real tokenizers into docs/tokenizers.md.

    python scripts/tokenizer_table.py FOLDER            # print the tables
    python scripts/tokenizer_table.py FOLDER --write    # put them into the page

FOLDER, or ``$MTKD_DATA``, holds ``tokenizers/NAME/tokenizer.json`` of real models,
``gpt2`` among them, and the texts that ``CORPORA`` names under ``corpora``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tokenizers.md"
BEGIN = "<!-- begin: python scripts/tokenizer_table.py FOLDER --write -->"
END = "<!-- end -->"

CORPORA = {
    "plays": "tinyshakespeare/*.txt",
    "wiki": "wikitext-2/valid.txt",
    "maths": "gsm8k/test.jsonl",
    "captions": "multi30k/val*.en",
    "news": "ntrex/eng.txt",
    "German": "ntrex/deu.txt",
    "French": "ntrex/fra.txt",
    "Chinese": "ntrex/zho-CN.txt",
    "novel": "hongloumeng/*.txt",
    "zh-wiki": "zh-wikipedia-gsdsimp/*",
}
"""A column for each, and where its text is."""
STUDENT = "gpt2"
CHARS, PIECE = 4000, 500
"""From the middle of each corpus, in pieces."""


def tables(data: Path) -> str:
    """Measure and compose the tables."""
    from align import ByteLengths, encode_batch
    from teacher.loading.tokenizer import load_tokenizer

    folders = sorted(p.parent for p in data.glob("tokenizers/*/tokenizer.json"))
    if STUDENT not in {folder.name for folder in folders}:
        raise FileNotFoundError(
            f"no {data}/tokenizers/{STUDENT}/tokenizer.json; give a folder with "
            "tokenizers/NAME of real models, and corpora beside them"
        )
    sides = {
        f.name: load_tokenizer(f.name, str(f), {"trust_remote_code": False})
        for f in folders
    }
    texts = {name: excerpt(data / "corpora", where) for name, where in CORPORA.items()}
    every = [text for pieces in texts.values() for text in pieces]
    tables = {name: ByteLengths.of(side) for name, side in sides.items()}
    whole = {
        name: encode_batch(side, every, byte_lengths=tables[name])
        for name, side in sides.items()
    }
    of_student = _by_corpus(sides[STUDENT], tables[STUDENT], texts)
    kinds = ["| tokenizer | model | spans by | the commonest it loses |"]
    kinds.append("|---|---|---|---|")
    shares = ["| tokenizer | " + " | ".join(CORPORA) + " |"]
    shares.append("|---|" + "---:|" * len(CORPORA))
    for name, side in sides.items():
        kinds.append(
            f"| `{name}` | {' | '.join(_kind(side, tables[name], whole[name]))} |"
        )
        of_teacher = _by_corpus(side, tables[name], texts)
        cells = [_reads(of_student[c], side, of_teacher[c]) for c in CORPORA]
        shares.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*kinds, "", *shares, "", *_pairs(whole)])


def excerpt(corpora: Path, where: str) -> list[str]:
    """Pieces from the middle of the first file that fits a pattern.

    Raises:
        FileNotFoundError: no file does.
    """
    files = sorted(corpora.glob(where))
    if not files:
        raise FileNotFoundError(f"no file {where} in {corpora}")
    text = files[0].read_bytes().decode()
    start = max(0, len(text) // 2 - CHARS // 2)
    return [text[at : at + PIECE] for at in range(start, start + CHARS, PIECE)]


def page_with(text: str) -> str:
    """The page with the tables between its marks replaced."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE} lacks the marks of the table"
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _by_corpus(
    tokenizer: Any, table: Any, texts: dict[str, list[str]]
) -> dict[str, Any]:
    """Each corpus as one tokenizer reads it."""
    from align import encode_batch

    return {
        name: encode_batch(tokenizer, pieces, byte_lengths=table)
        for name, pieces in texts.items()
    }


def _kind(tokenizer: Any, table: Any, batch: Any) -> list[str]:
    """Model, method, and what is lost on all texts together."""
    from align.tokens.lost_text import lost_text

    model = type(tokenizer.backend_tokenizer.model).__name__
    method = "offsets" if table is None else "byte lengths"
    if table is not None and table.normalizes:
        method += "; offsets where NFC changes the text"
    lost = lost_text(tokenizer, batch)
    pieces = "; ".join(lost.examples[:4]).replace("|", "\\|")
    blanks = "blanks" if lost.blanks else ""
    return [model, method, ", ".join(filter(None, [blanks, pieces])) or "nothing"]


def _reads(student_batch: Any, teacher: Any, teacher_batch: Any) -> str:
    """Coverage of the student's tokens, and the share of characters lost."""
    from align import CharIoUAligner
    from align.tokens.lost_text import lost_text

    coverage = CharIoUAligner()(student_batch, teacher_batch).coverage(
        student_batch.has_text
    )
    lost = lost_text(teacher, teacher_batch).share
    return f"{_percent(coverage)} / {_percent(lost)}"


def _pairs(batches: dict[str, Any]) -> list[str]:
    """Coverage of every tokenizer's tokens by every other's, for two aligners."""
    from align import CharIoUAligner, ChunkEndAligner

    lines = ["| student \\ teacher | " + " | ".join(f"`{x}`" for x in batches) + " |"]
    lines.append("|---|" + "---:|" * len(batches))
    for name, student_batch in batches.items():
        cells, has_text = [], student_batch.has_text
        for teacher_batch in batches.values():
            alignments = (
                align(student_batch, teacher_batch)
                for align in (CharIoUAligner(), ChunkEndAligner())
            )
            shares = (each.coverage(has_text) for each in alignments)
            cells.append(" / ".join(map(_percent, shares)))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def _percent(share: float) -> str:
    if share in (0, 1):
        return f"{share:.0%}".rstrip("%")
    near = {"0.0%": "<0.1", "100.0%": ">99.9"}
    return near.get(f"{share:.1%}", f"{share:.1%}".rstrip("%"))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, then print or write."""
    parser = argparse.ArgumentParser(description="Measure what alignment makes of text")
    given = os.environ.get("MTKD_DATA")
    parser.add_argument(
        "data",
        type=Path,
        metavar="FOLDER",
        nargs="?" if given else None,
        default=given,
        help="holds tokenizers/NAME and corpora; default: $MTKD_DATA",
    )
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE}")
    chosen = parser.parse_args(words)
    try:
        rows = tables(Path(chosen.data))
    except FileNotFoundError as error:
        print(f"tokenizer_table: {error}", file=sys.stderr)
        return 2
    if chosen.write:
        PAGE.write_text(page_with(rows), encoding="utf-8")
    else:
        print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
