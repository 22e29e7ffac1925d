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
    kinds = ["| tokenizer | model | spans by | the commonest it loses |"]
    kinds.append("|---|---|---|---|")
    shares = ["| tokenizer | " + " | ".join(CORPORA) + " |"]
    shares.append("|---|" + "---:|" * len(CORPORA))
    for name, tokenizer in sides.items():
        kinds.append(f"| `{name}` | {' | '.join(_kind(tokenizer, texts))} |")
        cells = [_reads(sides[STUDENT], tokenizer, texts[corpus]) for corpus in CORPORA]
        shares.append(f"| `{name}` | {' | '.join(cells)} |")
    every = [text for pieces in texts.values() for text in pieces]
    return "\n".join([*kinds, "", *shares, "", *_pairs(sides, every)])


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


def _kind(tokenizer: Any, texts: dict[str, list[str]]) -> list[str]:
    """Model, method, and what is lost on all texts together."""
    from align import ByteLengths, encode_batch
    from align.tokens.lost_text import lost_text

    model = type(tokenizer.backend_tokenizer.model).__name__
    table = ByteLengths.of(tokenizer)
    method = "offsets" if table is None else "byte lengths"
    if table is not None and table.normalizes:
        method += "; offsets where NFC changes the text"
    every = [text for pieces in texts.values() for text in pieces]
    lost = lost_text(tokenizer, encode_batch(tokenizer, every, byte_lengths=table))
    pieces = "; ".join(lost.examples[:4]).replace("|", "\\|")
    blanks = "blanks" if lost.blanks else ""
    return [model, method, ", ".join(filter(None, [blanks, pieces])) or "nothing"]


def _reads(student: Any, teacher: Any, texts: list[str]) -> str:
    """Coverage of the student's tokens, and the share of characters lost."""
    from align import CharIoUAligner, encode_batch
    from align.tokens.lost_text import lost_text

    student_batch, teacher_batch = (
        encode_batch(side, texts) for side in (student, teacher)
    )
    coverage = CharIoUAligner()(student_batch, teacher_batch).coverage(
        student_batch.has_text
    )
    lost = lost_text(teacher, teacher_batch).share
    return f"{_percent(coverage)} / {_percent(lost)}"


def _pairs(sides: dict[str, Any], texts: list[str]) -> list[str]:
    """Coverage of every tokenizer's tokens by every other's, for two aligners."""
    from align import ByteLengths, CharIoUAligner, ChunkEndAligner, encode_batch

    batches = {
        name: encode_batch(side, texts, byte_lengths=ByteLengths.of(side))
        for name, side in sides.items()
    }
    lines = ["| student \\ teacher | " + " | ".join(f"`{x}`" for x in sides) + " |"]
    lines.append("|---|" + "---:|" * len(sides))
    for name, student_batch in batches.items():
        cells = []
        for teacher_batch in batches.values():
            alignments = (
                align(student_batch, teacher_batch)
                for align in (CharIoUAligner(), ChunkEndAligner())
            )
            shares = (each.coverage(student_batch.has_text) for each in alignments)
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
