"""Whether a teacher says in bytes what it says in tokens.

    python -m experiments.bench.next_byte [--teachers zoo:gpt2-prose] [--texts 6]

Bits per character of held-out text of the zoo, by a teacher's own tokens and by the
next byte as ``teacher.next_byte`` reads it off them. An exact reading takes as many, or
fewer where the model gives a text weight under several ways of cutting it.
"""

from __future__ import annotations

import argparse
import sys

from experiments.bench.measure import one_thread


def main() -> int:
    """Read, print, and say whether each teacher is within ``--bar``."""
    options = _parser().parse_args()
    one_thread()
    import torch

    from experiments.commands.tables import print_table
    from experiments.config.zoo_names import build_named
    from teacher.loading.models import load_model
    from teacher.next_byte import read_bytes_of
    from teacher.zoo import zoo_documents

    build_named(options.teachers)
    rows, apart = [], []
    for name in options.teachers:
        loaded = load_model(name, role="teacher", dtype=torch.float32)
        for domain in ("prose", "code"):
            texts = [text for _, text in zoo_documents(domain, "eval")]
            texts = [text for text in texts if len(text) >= options.characters]
            some = texts[:: max(1, len(texts) // options.texts)][: options.texts]
            reads = [
                read_bytes_of(
                    loaded.model.eval(), loaded.tokenizer, text[: options.characters]
                )
                for text in some
            ]
            tokens = sum(read.token_bits for read in reads)
            in_bytes = sum(read.byte_bits + read.end_bits for read in reads)
            characters = sum(read.characters for read in reads)
            apart.append(in_bytes / tokens - 1)
            bits = [f"{number / characters:.3f}" for number in (tokens, in_bytes)]
            rows.append([name, domain, *bits, f"{apart[-1]:+.2%}"])
    heads = ["teacher", "text", "by tokens", "by bytes", "apart"]
    print_table("bits per character", heads, rows, numbers_from=2)
    return int(max(apart) > options.bar)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="experiments.bench.next_byte", description="A teacher in bytes."
    )
    teachers = ["zoo:gpt2-prose", "zoo:qwen-code"]
    parser.add_argument("--teachers", nargs="+", default=teachers)
    parser.add_argument("--texts", type=int, default=6, help="of each domain")
    parser.add_argument("--characters", type=int, default=120, help="of each text")
    parser.add_argument(
        "--bar", type=float, default=0.005, help="share of bits that may be lost"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
