"""Data sets of the hub: which files an ``hf:`` entry stands for, at which commit.

Files are read by the project's own readers, so nothing but the download is the hub's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from align.bounds.yaml_document import read_yaml
from align.errors import InputError, MissingFileError, meant, prefix_errors
from align.text.files import is_named_text
from align.text.folder import Split, TextFile, TextFiles, text_files
from experiments.texts.config import DataConfig, named_apart

PREFIX = "hf:"
FORM = "hf:ORG/NAME[:CONFIG][@SPLIT][#REVISION]"
_ENTRY = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<config>[^@#]+))?"
    r"(?:@(?P<split>[\w.-]+))?(?:#(?P<revision>[\w./-]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>.*)")
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_DATA = [f"*.{end}" for end in ("parquet", "arrow", "feather", "json*", "ndjson*")]
_DATA += [f"*.{end}" for end in ("csv*", "tsv*", "txt*")]

Lists = tuple[list[str], list[str]]
FromMain = Callable[[Callable[[], Lists]], Lists]
"""See :meth:`student.loop.engine.Engine.from_main`."""


@dataclass(frozen=True, slots=True)
class HubSet:
    """One ``hf:`` entry."""

    repo: str
    config: str | None
    split: str | None
    revision: str | None

    def __str__(self) -> str:
        """The entry as it is written."""
        parts = (f":{self.config}" if self.config else "", _at(self.split))
        tail = f"#{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{''.join(parts)}{tail}"


def hub_set(entry: str) -> HubSet | None:
    """What an entry asks for; None of files, folders and the embedded texts.

    Raises:
        InputError: it begins with ``hf:`` and is no such entry.
    """
    if not entry.startswith(PREFIX):
        return None
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise InputError(f"{entry!r} names no data set of the hub; write {FORM}")
    return HubSet(**match.groupdict())


def pinned(entries: Iterable[str], earlier: Iterable[str] = ()) -> list[str]:
    """Entries of a list of texts, those of the hub with their commits.

    Args:
        entries: ``domain=path`` or paths.
        earlier: entries of the run that goes on, whose commits stay.

    Raises:
        InputError: an entry that cannot be meant.
        MissingFileError: the data set is not on this machine, and the hub cannot be
            reached or has none.
    """
    known = {_unpinned(entry): entry for entry in earlier}
    out = []
    for entry in entries:
        path = named_apart(entry)[1]
        domain = entry.removesuffix(path)
        asked = hub_set(path)
        if asked is None or _COMMIT.fullmatch(asked.revision or ""):
            out.append(entry)
        elif entry in known and asked.revision is None:
            out.append(known[entry])
        else:
            commit = snapshot(asked, ["README.md"]).name
            out.append(f"{domain}{replace(asked, revision=commit)}")
    return out


def pinned_lists(data: DataConfig, kept: Path) -> DataConfig:
    """The settings of texts with the commits of the hub's data sets in them.

    Args:
        data: of a run.
        kept: the ``config.yaml`` of a run or of stores that may go on: what it began
            with stays.

    Raises:
        MtkdError: see :func:`pinned`.
    """
    if not _any_of_hub(data):
        return data
    earlier: list[str] = []
    if kept.is_file():
        section = read_yaml(kept.read_text(encoding="utf-8"), str(kept))["data"]
        earlier = [*section.get("train", ()), *section.get("eval", ())]
    lists: dict[str, Any] = {}
    for name in ("train", "eval"):
        with prefix_errors(f"data.{name}"):
            lists[name] = pinned(getattr(data, name), earlier)
    return replace(data, **lists)


def pinned_alike(data: DataConfig, from_main: FromMain) -> DataConfig:
    """The same texts on every process: a branch may move while these ask the hub.

    Args:
        data: with commits, see :func:`pinned_lists`.
        from_main: gives every process what the main one makes.
    """
    if not _any_of_hub(data):
        return data
    train, evaluated = from_main(lambda: (data.train, data.eval))
    return replace(data, train=train, eval=evaluated)


def _any_of_hub(data: DataConfig) -> bool:
    return any(PREFIX in entry for entry in (*data.train, *data.eval))


def hub_files(entry: str, which: Split) -> TextFiles:
    """The files of an entry, downloaded where they are not in the hub's cache.

    Args:
        entry: begins with ``hf:``.
        which: an entry without a split gives its train split to learn from; validation,
            else test, to be measured on.

    Raises:
        InputError: no such configuration or split; names those that there are.
        MissingFileError: as of :func:`pinned`, or no text in it.
    """
    asked = hub_set(entry)
    assert asked is not None
    folder = snapshot(asked, ["README.md"])
    asked = replace(asked, revision=folder.name)
    splits = _listed(folder / "README.md", asked)
    if splits is None:
        inner = [f"{asked.config}/{p}" for p in _DATA] if asked.config else _DATA
        folder = snapshot(asked, [*inner, *(f"*/{p}" for p in inner)])
        return _by_names(folder, asked, which)
    order = [asked.split] if asked.split else _ORDERS[which]
    name = next((split for split in order if split in splits), None)
    if name is None:
        raise InputError(
            f"{entry}: no split {' or '.join(map(str, order))}; it has "
            f"{', '.join(splits)}: write {replace(asked, split=next(iter(splits)))}"
        )
    folder = snapshot(asked, splits[name])
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and is_named_text(path)
    ]
    inside = {path.relative_to(folder).as_posix(): path for path in files}
    fitting = {n: path for n, path in inside.items() if _fits(n, splits[name])}
    _refuse_gaps(asked, folder, fitting, splits[name])
    return _as_texts(asked, folder, fitting.values())


_ORDERS: dict[str, list[str]] = {"train": ["train"], "eval": ["validation", "test"]}


def snapshot(asked: HubSet, patterns: list[str]) -> Path:
    """The folder of a data set's commit, with the files of some patterns in it.

    Raises:
        MissingFileError: neither here nor to be had; gives the command that helps.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        folder: str = snapshot_download(
            asked.repo,
            repo_type="dataset",
            revision=asked.revision,
            allow_patterns=patterns,
        )
    except HFValidationError as error:
        raise InputError(f"{asked}: {error}; write {FORM}") from error
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        revision = f" --revision {asked.revision}" if asked.revision else ""
        state = "offline (HF_HUB_OFFLINE set)" if constants.HF_HUB_OFFLINE else "asked"
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise MissingFileError(
            f"{asked} is not in the cache {os.path.abspath(constants.HF_HUB_CACHE)}, "
            f"and the hub ({state}) gives none: {why}. Where there is a network run "
            f"`hf download {asked.repo} --repo-type dataset{revision}` (first `hf auth "
            "login` where it is gated), or give a folder that holds its files"
        ) from error
    return Path(folder)


def _listed(readme: Path, asked: HubSet) -> dict[str, list[str]] | None:
    """The patterns of each split, as the data set's card lists them; None where the
    names of its files alone tell."""
    try:
        head = _HEAD.match(readme.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    card = read_yaml(head[1], str(readme)) if head else None
    listed = card.get("configs") if isinstance(card, Mapping) else None
    if not isinstance(listed, list):
        return None
    configs = {
        str(config.get("config_name", "default")): config
        for config in listed
        if isinstance(config, Mapping) and config.get("data_files")
    }
    if not configs:
        return None
    first = next((n for n, c in configs.items() if c.get("default")), None)
    name = asked.config or first or ("default" if "default" in configs else None)
    name = name or (next(iter(configs)) if len(configs) == 1 else None)
    if name not in configs:
        near = meant(asked.config, list(configs)) if asked.config else ""
        raise InputError(
            f"{asked}: {'no configuration ' + repr(name) if name else 'which part?'}"
            f"{near} It has {', '.join(configs)}: write "
            f"{replace(asked, config=next(iter(configs)))}"
        )
    return _splits(configs[name])


def _splits(config: Mapping[str, Any]) -> dict[str, list[str]]:
    files = config["data_files"]
    if isinstance(files, str) or all(isinstance(file, str) for file in files):
        files = [{"split": "train", "path": files}]
    elif isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    base = str(config.get("data_dir") or "").strip("/")
    out: dict[str, list[str]] = {}
    for entry in files:
        paths = entry["path"]
        paths = [paths] if isinstance(paths, str) else list(paths)
        out.setdefault(str(entry["split"]), []).extend(
            f"{base}/{path}" if base else str(path) for path in paths
        )
    return out


def _by_names(folder: Path, asked: HubSet, which: Split) -> TextFiles:
    """The files whose names tell that they are of a split."""
    inside = folder / asked.config if asked.config else folder
    if not inside.is_dir():
        raise InputError(
            f"{asked}: its card lists no configurations, and it has no folder "
            f"{asked.config}; leave the configuration out"
        )
    if asked.split is None:
        texts = text_files(inside, which)
        listed = [file.path for file in texts.files]
        _refuse_gaps(asked, folder, [p.name for p in listed], ["*"])
        return replace(texts, files=_as_texts(asked, folder, listed).files)
    paths = [file.path for file in text_files(inside).files]
    fitting = [p for p in paths if asked.split in _words(p.relative_to(inside))]
    if not fitting:
        names = ", ".join(p.relative_to(inside).as_posix() for p in paths[:4])
        raise InputError(
            f"{asked}: no file's name has {asked.split!r} in it; there are {names}"
        )
    _refuse_gaps(asked, folder, [p.name for p in fitting], ["*"])
    return _as_texts(asked, folder, fitting)


def _refuse_gaps(
    asked: HubSet, folder: Path, names: Iterable[str], patterns: list[str]
) -> None:
    """Refuse part of a split: without a network the cache gives what it has of one,
    be it all or what came before a download broke off.

    Raises:
        MissingFileError: by their names (``train-00000-of-00004.parquet``), some files
            of it are not here.
    """
    parts: dict[tuple[str, ...], set[int]] = {}
    for match in filter(None, map(_PART.fullmatch, names)):
        kind = match["name"], match["count"], Path(match["end"]).suffix
        parts.setdefault(kind, set()).add(int(match["number"]))
    for (name, count, end), here in parts.items():
        every = {n: f"{name}-{n:05}-of-{count}{end}" for n in range(int(count))}
        lacking = [f for n, f in every.items() if n not in here and _fits(f, patterns)]
        if lacking:
            raise MissingFileError(
                f"{asked}: {len(lacking)} of {int(count)} files of a split are not in "
                f"{folder}, such as {lacking[0]}; where there is a network run `hf "
                f"download {asked.repo} --repo-type dataset --revision {folder.name}`"
            )


def _words(path: Path) -> set[str]:
    return {word for part in path.parts for word in re.split(r"[^A-Za-z0-9_]+", part)}


def _as_texts(asked: HubSet, folder: Path, paths: Iterable[Path]) -> TextFiles:
    origin = Path("/hub", *asked.repo.split("/"), *([asked.config or ""]))
    files = tuple(
        TextFile(path, f"{asked.repo}/{path.relative_to(folder).as_posix()}", origin)
        for path in paths
    )
    if not files:
        raise MissingFileError(
            f"{asked}: no text of this split is in {folder}; where there is a network "
            f"run `hf download {asked.repo} --repo-type dataset --revision "
            f"{folder.name}`"
        )
    return TextFiles(files)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(
        fnmatch(name, p) or fnmatch(name, p.replace("**/", "")) for p in patterns
    )


def _unpinned(entry: str) -> str:
    head, mark, revision = entry.rpartition("#")
    return head if mark and _COMMIT.fullmatch(revision) else entry


def _at(split: str | None) -> str:
    return f"@{split}" if split else ""
