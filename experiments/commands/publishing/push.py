"""``mtkd push``: a run's student, its card and evidence, to the hub."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from align.foreign.quote import put
from experiments.commands.parser import RUN, Command, option
from experiments.commands.publishing.card import CARD_OPTIONS, wishes_of

if TYPE_CHECKING:
    from experiments.publishing.push import Parcel


def push(options: Namespace) -> int:
    """Say what would go, and send it unless it may not or shall not."""
    from experiments.assemble.text_sources import tell
    from experiments.publishing.push import pack, send
    from experiments.record.run_dir import read_run

    run = read_run(Path(options.run))
    tell(run.faults)
    parcel = pack(
        run,
        options.repo,
        run.path / "card",
        wishes_of(options, options.repo),
        read=options.terms,
    )
    _show(parcel, options)
    if options.dry_run:
        return 2 if parcel.reasons else 0
    address = send(
        parcel,
        private=not options.public,
        branch=options.branch,
        message=options.message or f"{run.name}, trained by mtkd",
    )
    put(address)
    return 0


def _show(parcel: Parcel, options: Namespace) -> None:
    mine = "only its owner can see, or whoever can already where it is there"
    put(f"to {parcel.repo}, which {'everybody can see' if options.public else mine}:")
    for name, path in parcel.files.items():
        put(f"  {path.stat().st_size:>14,}  {name}")
    put(f"  {parcel.size:>14,}  bytes in {len(parcel.files)} files")
    for reason in parcel.reasons:
        put(f"it may not go: {reason}")
    if options.dry_run:
        so = "it would be refused, too" if parcel.reasons else "it is"
        put("the hub was not asked: names, licence and account are judged by it alone")
        put(f"nothing was sent; without --dry-run {so}")


PUSH = Command(
    name="push",
    action=push,
    what="put a run's student on the Hugging Face hub, with its card and evidence; "
    "refused where a licence forbids it",
    examples=(
        (
            "mtkd push runs/quickstart me/tiny --licence apache-2.0 --dry-run",
            "what would go, and whether it may",
        ),
        (
            "mtkd push runs/quickstart me/tiny --licence apache-2.0",
            "as a private model",
        ),
        (
            "mtkd push runs/mine me/updates --adapter",
            "low-rank updates without the weights that they are on",
        ),
        (
            "mtkd push runs/mine me/small --terms gemma --public",
            "whose teacher gemma has terms that were read",
        ),
    ),
    options=(
        RUN,
        option("repo", metavar="ORG/NAME", help="the model's name on the hub"),
        *CARD_OPTIONS,
        option(
            "--terms",
            nargs="+",
            default=[],
            metavar="TEACHER",
            help="teachers whose terms you have read and go by, where these may bind "
            "models that learned from them",
        ),
        option(
            "--public",
            action="store_true",
            help="everybody can see a repository that this makes (its owner alone)",
        ),
        option("--branch", metavar="NAME", help="of the repository (the main one)"),
        option("--message", metavar="TEXT", help="of the commit"),
        option(
            "--dry-run",
            action="store_true",
            help="write the card, say what would go and whether it may; exits with 2 "
            "where it may not",
        ),
    ),
)
