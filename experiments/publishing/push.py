"""Put a run's student on the hub: weights, card and evidence in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError, MachineError
from align.foreign.marker import files_in
from experiments.publishing.adapter import (
    SETTINGS,
    alone,
    settled_config,
    without_places,
)
from experiments.publishing.card import Wishes, write_card
from experiments.publishing.evidence import config_of
from experiments.publishing.student import FOLDER
from experiments.publishing.terms import forbidden, terms_of
from experiments.record.run_dir import RunDir


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """What would go to the hub."""

    repo: str
    """``organisation/name``."""
    files: dict[str, Path]
    """By their names in the repository."""
    reasons: list[str]
    """Why it may not go, a sentence each; empty where it may."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(path.stat().st_size for path in self.files.values())


def pack(
    run: RunDir, repo: str, card: Path, wishes: Wishes, read: Sequence[str] = ()
) -> Parcel:
    """Write the card, and gather what belongs together.

    Args:
        run: finished.
        repo: ``organisation/name`` on the hub.
        card: folder for card and evidence.
        wishes: what is said of the student; see :class:`Wishes`.
        read: teachers whose terms were read; see :func:`forbidden`.

    Raises:
        InputError: a name that the hub does not take, a teacher that the run has not,
            a run without a student, or without updates that are to go alone.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        validate_repo_id,
    )

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no name on the hub: {error}") from error
    if repo.count("/") != 1:
        raise InputError(
            f"{repo!r} does not say whose it is; give ORGANISATION/NAME, such as "
            f"your-name/{repo}"
        )
    terms = terms_of(config_of(run))
    teachers = [each.name for each in terms if each.part == "teaching"]
    if strangers := [name for name in read if name not in teachers]:
        raise InputError(
            f"--terms names {strangers[0]!r}, which taught nobody here; the run's "
            f"teachers are {', '.join(teachers) or 'none'}"
        )
    written = write_card(run, card, wishes)
    files = {path.relative_to(card).as_posix(): path for path in written}
    student = files_in(run.path / FOLDER)  # the card has seen that they are whole
    chosen = alone if wishes.adapter else without_places
    config = settled_config(config_of(run), run.path)
    student = chosen(student, card / SETTINGS, config)
    weights = {name: path for name, path in student.items() if name not in files}
    return Parcel(
        repo=repo,
        files=weights | files,
        reasons=forbidden(terms, wishes.licence, read),
    )


def send(parcel: Parcel, *, private: bool, branch: str | None, message: str) -> str:
    """Upload a parcel as one commit; the repository is made if it is not there.

    Args:
        parcel: see :func:`pack`.
        private: of a new repository.
        branch: None: the main one.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        InputError: it may not be handed on, or nobody is logged in.
        MachineError: the hub cannot be reached, or does not take it.
    """
    if parcel.reasons:
        raise InputError(f"nothing was sent: {'; '.join(parcel.reasons)}")
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import (
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    hub = HfApi(library_name="mtkd")
    adds = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in parcel.files.items()
    ]
    try:
        hub.whoami()
        hub.create_repo(parcel.repo, private=private, exist_ok=True)
        if branch is not None:
            hub.create_branch(parcel.repo, branch=branch, exist_ok=True)
        done = hub.create_commit(
            parcel.repo, adds, commit_message=message, revision=branch
        )
    except LocalTokenNotFoundError as error:
        raise InputError(
            "nobody is logged in at the hub; run `hf auth login`, or set HF_TOKEN to a "
            "token that may write"
        ) from error
    except OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE is set, so nothing was sent; unset it to push"
        ) from error
    except (OSError, _transport_error()) as error:
        raise MachineError(
            f"the hub did not take {parcel.repo}: {error}; what was written here is "
            "whole, and the same command sends it again"
        ) from error
    return str(done.commit_url)


def _transport_error() -> type[Exception]:
    """What the library below the hub's client raises: it has had several names."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base
