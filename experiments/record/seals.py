"""Which files of a run vouch for themselves, and how earlier versions' are made to.

What steers a run is sealed as it is written. Runs that an earlier version began have
some of it without a seal; it is read all the same, with a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from align.foreign.marker import MARKER, marker_text, read_marker
from align.foreign.quote import say
from align.foreign.seal import DamageError, read_sealed
from align.foreign.signature import is_signed, sign
from align.support.digest import sha256_of
from align.support.whole_file import write_whole
from experiments.record.history import IDENTITY, SETTINGS, STATE, read_json, write_json
from experiments.record.run_dir import SUMMARY
from experiments.record.which_run import CONFIG

_OF_RUN = (IDENTITY, STATE, "texts.json", SUMMARY)


def unsealed(run: Path) -> list[Path]:
    """The files that steer a run and do not vouch for themselves."""
    return [file for file in _steering(run) if _lacks_seal(file)]


def seal_run(run: Path) -> list[Path]:
    """Seal what an earlier version wrote, once its files were seen to be as it says.

    Returns:
        What was sealed; what is damaged is left as it is.
    """
    sealed = []
    for file in unsealed(run):
        try:
            if file.name == MARKER:
                marked = read_marker(file.parent, digests=True)
                assert marked is not None
                signed = is_signed(file.parent)
                write_whole(file, marker_text(file.parent, marked.state))
                if signed:
                    sign(file.parent)
            else:
                write_json(file, read_sealed(file)[0])
        except DamageError:
            continue
        sealed.append(file)
    return sealed


def warn_unsealed(run: Path) -> None:
    """Say on stderr what is read of a run though nothing vouches for it."""
    files = unsealed(run)
    if files:
        say(
            f"warning: {_listed(run, files)}, as earlier versions wrote it: a damaged "
            f"number in it is not found; `mtkd train {run / CONFIG} "
            "--trust-checkpoint` seals it, where you know that it is yours",
        )
    for sentence in _edited(run):
        say(f"warning: {sentence}")


def before_it_goes_on(run: Path) -> list[str]:
    """Seal what an earlier version wrote; sentences on that and on an edited config."""
    sealed = seal_run(run)
    if not sealed:
        return _edited(run)
    return [
        f"{_listed(run, sealed)}, as earlier versions wrote it; what it says of files "
        "is true, and it is sealed now"
    ]


def _edited(run: Path) -> list[str]:
    noted = read_json(run / IDENTITY).get("config")
    file = run / CONFIG
    if noted is None or not file.is_file() or sha256_of(file) == noted:
        return []
    return [f"{file} was edited or damaged since a launch of this run wrote it"]


def _listed(run: Path, files: Sequence[Path]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{run}: {files[0].relative_to(run)}{more} had no seal"


def _steering(run: Path) -> Iterator[Path]:
    yield from (run / name for name in _OF_RUN)
    for arm in (run / "phases", *sorted((run / "baselines").glob("*"))):
        yield from sorted(arm.glob(f"*{SETTINGS}"))
        yield from sorted(arm.glob(f"*/{MARKER}"))
        yield from sorted(arm.glob(f"*.checkpoint/step-*/{MARKER}"))


def _lacks_seal(file: Path) -> bool:
    try:
        return not read_sealed(file)[1]
    except (OSError, DamageError):  # whoever reads it says so
        return False
