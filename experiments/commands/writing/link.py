"""``mtkd link``: which words of two files of sentences translate which."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from align.foreign.quote import put
from experiments.commands.output import lasting_output
from experiments.commands.parser import Command, option


@lasting_output("the links")
def link(options: Namespace) -> int:
    """Link words and say how many."""
    from align.across.words import linked_words
    from align.errors import InputError
    from align.support.whole_file import write_whole
    from align.text.parallel import pairs_of_lines
    from experiments.record.progress import waiting

    paths = [Path(p).expanduser() for p in (options.source, options.target)]
    out = Path(options.out).expanduser()
    if options.passes < 1:
        raise InputError(f"--passes is {options.passes}; give 1 or more")
    if out.exists():
        raise InputError(f"--out {out} is there already; give a new file")
    pairs = list(pairs_of_lines(*paths))
    if not pairs:
        raise InputError(f"{paths[0]} and {paths[1]} hold no sentences; give some")
    sources, targets = ([pair[side] for pair in pairs] for side in (1, 2))
    with waiting(f"linking the words of {len(pairs):,} pairs"):
        links = linked_words(sources, targets, options.passes)
    rows = (" ".join(f"{i}-{j}" for i, j in of_pair) + "\n" for of_pair in links)
    write_whole(out, "".join(rows))
    linked = sum(len({j for _, j in of_pair}) for of_pair in links)
    words = sum(len(target.split()) for target in targets)
    put(
        f"{out}: {len(pairs):,} pairs, {linked / max(1, words):.0%} of the "
        f"{words:,} words of {paths[1]} are linked"
    )
    return 0


LINK = Command(
    name="link",
    action=link,
    what="find which words of sentences and their translations translate which, for "
    "data.pairs.NAME.links",
    examples=(
        (
            "mtkd link train.en train.de --out train.links",
            "a line for each pair: 0-0 1-2 links the first words, and the second "
            "with the third",
        ),
    ),
    options=(
        option("source", metavar="SOURCE", help="sentences, one a line"),
        option("target", metavar="TARGET", help="their translations, line by line"),
        option("--out", required=True, metavar="FILE", help="the new file"),
        option(
            "--passes",
            type=int,
            default=5,
            metavar="N",
            help="of IBM Model 1 in each direction (5)",
        ),
    ),
)
