"""Models of the hub at a branch, a tag or a commit: ``org/name@revision``.

What is read is the snapshot in the hub's cache, a folder that is called by its commit:
so everything that identifies a folder's model identifies these, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from align.errors import InputError, MissingFileError

INDEX = "model.safetensors.index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ = ["*.json", "*.jinja", "*.txt", "*.model", "*.py"]
"""Beside weights; code is read where it is trusted, and digested."""
_WEIGHTS = ["*.safetensors"]
Commits = dict[tuple[str, str], str]
"""By repository and revision."""
FromMain = Callable[[Callable[[], Commits]], Commits]
_settled: ContextVar[Commits | None] = ContextVar("settled", default=None)


@contextmanager
def settled(commits: Mapping[tuple[str, str], str]) -> Iterator[None]:
    """A block in which a branch or tag is one commit, however often it is asked for.

    Args:
        commits: what is known beforehand, by repository and revision; any other is
            settled by the first who asks.
    """
    token = _settled.set(dict(commits))
    try:
        yield
    finally:
        _settled.reset(token)


def settle_alike(asked: Collection[tuple[str, str]], from_main: FromMain) -> None:
    """Inside of :func:`settled`, have all processes read what the main one sees: a
    branch may move while these ask the hub.

    Args:
        asked: repositories and revisions; those that cannot be had are left out, which
            whoever reads them says.
        from_main: gives every process what the main one makes.
    """

    def seen() -> Commits:
        commits = {}
        for parts in asked:
            with suppress(MissingFileError, InputError):
                commits[parts] = pinned_folder(*parts).name
        return commits

    if asked and (known := _settled.get()) is not None:
        known.update(from_main(seen))


def pinned_folder(repository: str, revision: str) -> Path:
    """The snapshot of a model without its weights, fetched where it is not here.

    A commit that is here is not asked for; what a branch or tag means is, unless
    ``HF_HUB_OFFLINE`` is set or it is :func:`settled`.

    Args:
        repository: ``name`` or ``org/name``.
        revision: a branch, a tag, or a commit of 40 digits.

    Raises:
        MissingFileError: no such model or revision, or nobody may read it; says what
            to do.
        InputError: no name that a hub gives.
    """
    known = _settled.get()
    if known is None:
        return _pinned_folder(repository, revision)
    folder = _pinned_folder(repository, known.get((repository, revision), revision))
    known[repository, revision] = folder.name
    return folder


def _pinned_folder(repository: str, revision: str) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    except HFValidationError as error:
        raise InputError(f"model '{repository}@{revision}': {error}") from error
    here = Path(cached).parent if isinstance(cached, str) else None
    settled = _COMMIT.fullmatch(revision) or constants.HF_HUB_OFFLINE
    if here is not None and settled:
        return here
    return _fetched(repository, revision, _READ, here)


def fetch_weights(repository: str, folder: Path) -> None:
    """Fetch the weights of a snapshot, unless all of them are here.

    Args:
        repository: see :func:`pinned_folder`.
        folder: what that gave; it is called by its commit.
    """
    from huggingface_hub import constants

    if _has_weights(folder) or constants.HF_HUB_OFFLINE:
        return  # who reads them says what is missing
    _fetched(repository, folder.name, _WEIGHTS, None)


def _has_weights(folder: Path) -> bool:
    index = folder / INDEX
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, AttributeError):
        return True  # damage is told where weights are read
    return all((folder / name).is_file() for name in set(listed))


def _fetched(
    repository: str, revision: str, patterns: list[str], here: Path | None
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=patterns)
        )
    except Exception as error:  # of the hub, of the network, of the disk
        if here is not None and no_network(error):
            return here
        name = f"{repository}@{revision}"
        raise MissingFileError(
            f"model {name!r} was not fetched: {why_not(name, error)}"
        ) from error


def no_network(error: BaseException | None) -> bool:
    """Whether an error says that the hub was not reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    kinds = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)
    return any(isinstance(each, kinds) for each in _causes(error))


def why_not(name: str, error: BaseException | None) -> str:
    """What the hub answered in place of a model, and the command that helps; "" where
    it said nothing that helps.

    Args:
        name: ``org/name``, or with ``@revision``.
        error: what was raised; what caused it is looked at, too.
    """
    from huggingface_hub import errors

    repository, _, revision = name.partition("@")
    page = f"https://huggingface.co/{repository}"
    for each in _causes(error):
        if isinstance(each, errors.GatedRepoError):
            return (
                f"it is gated: ask for access at {page}, then run `hf auth login` (or "
                "set HF_TOKEN to a token that may read it) and start again"
            )
        if isinstance(each, errors.RevisionNotFoundError):
            return (
                f"it has no branch, tag or commit {revision!r}; {page}/commits/main "
                "lists them"
            )
        if isinstance(each, errors.RepositoryNotFoundError):
            return (
                f"the hub has no {repository}, or it is private: see how it is written "
                f"at {page}; for a private one run `hf auth login`, or set HF_TOKEN"
            )
    if error is not None and no_network(error):
        at = f" --revision {revision}" if revision else ""
        return (
            f"the hub was not reached, and it is not in the cache; where there is a "
            f"network run `hf download {repository}{at}`"
        )
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what led to it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
