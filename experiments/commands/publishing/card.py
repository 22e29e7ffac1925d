"""``mtkd card``: a model card for a run's student, and the evidence beside it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import put
from experiments.commands.parser import RUN, Command, option

if TYPE_CHECKING:
    from experiments.publishing.card import Wishes

CARD_OPTIONS = (
    option(
        "--licence",
        "--license",
        metavar="ID",
        help="the student's, as the hub writes it, such as apache-2.0 (that of the "
        "model which it began as)",
    ),
    option(
        "--language",
        nargs="+",
        default=[],
        metavar="CODE",
        help="languages of its texts, such as en de",
    ),
    option(
        "--adapter",
        action="store_true",
        help="of its low-rank updates alone, to be put on the model that it began as "
        "(merged weights, with the updates beside them)",
    ),
)
"""What a run does not know of its student."""


def wishes_of(options: Namespace, title: str | None) -> Wishes:
    """What a command line says of a student."""
    from experiments.publishing.card import Wishes

    return Wishes(
        title=title,
        licence=options.licence,
        languages=options.language,
        adapter=options.adapter,
    )


def card(options: Namespace) -> int:
    """Write the card and the evidence."""
    from experiments.assemble.text_sources import tell
    from experiments.publishing.card import write_card
    from experiments.record.run_dir import read_run

    run = read_run(Path(options.run))
    tell(run.faults)
    folder = Path(options.out) if options.out else run.path / "card"
    for path in write_card(run, folder, wishes_of(options, options.title)):
        put(str(path))
    return 0


CARD = Command(
    name="card",
    action=card,
    what="write a model card for a run's student, with its evidence: who taught it, on "
    "what, what it was worth, and under which terms",
    examples=(
        ("mtkd card runs/quickstart", "into runs/quickstart/card"),
        (
            "mtkd card runs/quickstart --licence apache-2.0 --language en",
            "with what the run does not know",
        ),
    ),
    options=(
        RUN,
        option("--title", metavar="TEXT", help="its heading (the run's name)"),
        option("--out", metavar="FOLDER", help="where it goes (RUN/card)"),
        *CARD_OPTIONS,
    ),
)
