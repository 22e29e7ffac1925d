"""What a model's folder holds, and what to do where that is not enough."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from align.errors import InputError, MissingFileError
from align.foreign.inside import check_name
from teacher.hub.pinned import INDEX, no_network, why_not

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
_WRAPPERS = {
    "_orig_mod.": "of torch.compile; save the model inside it, model._orig_mod",
    "base_model.model.": "of peft; call merge_and_unload() before saving",
    "module.": "of a parallel launch; save the model inside it, model.module",
}
"""Prefixes of weights that were saved with what stood around the model."""
_AHEAD = ("num_nextn_predict_layers", "num_mtp_layers")
"""Settings of how many layers behind the last predict several tokens ahead."""

Misfit = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A weight's name, its shape in the file and by ``config.json``."""


def refuse_adapter(name: str, source: str, revision: str | None = None) -> None:
    """Refuse a place with an ``adapter_config.json``.

    transformers puts such an adapter on the weights beside it, or on those of the base
    it names, wherever peft is installed, and passes it by elsewhere: one name would
    mean two models. Nothing says either whether the weights have it in them already.

    Args:
        name: what the user calls the model.
        source: a folder or a hub name.
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: it has one; says what it is for and how to go on.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        file = find_adapter_config_file(source, revision=revision)
    except OSError:
        if Path(source).is_dir():
            raise
        return  # no name that a hub gives; whoever loads it says so
    if file is None:
        return
    base, folder = _base_of(Path(file)), Path(file).parent
    if not (folder / "config.json").is_file():
        raise InputError(
            f"model {name!r}: {folder} is an adapter for {base!r}, not a model; merge "
            f"it into that with `mtkd models convert {folder} MERGED` and give the "
            "merged folder"
        )
    raise InputError(
        f"model {name!r}: {folder} holds an adapter for {base!r} (adapter_config.json) "
        "beside whole weights, and nothing says whether they have it in them. If they "
        "have, remove adapter_config.json and adapter_model.safetensors; if not, move "
        "both to a folder ADAPTER and merge them: peft's PeftModel.from_pretrained("
        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}), ADAPTER)"
        ".merge_and_unload().save_pretrained(MERGED)"
    )


def check_index(source: str) -> None:
    """See that an index of weights lists files of its own folder alone.

    Links are followed: the hub's cache is made of them.

    Raises:
        OutsideError: it lists another.
    """
    folder = weights_folder(source)
    index = folder / INDEX if folder else None
    if index is None or not index.is_file():
        return
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, AttributeError, TypeError):
        return  # damage is told where weights are missed
    for name in listed:
        check_name(name, index)


def _base_of(adapter_config: Path) -> str:
    try:
        settings = json.loads(adapter_config.read_text(encoding="utf-8"))
        return str(settings["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its base model"


def weights_folder(source: str) -> Path | None:
    """Where a model's files lie; None where they are not on this machine."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, "config.json")
    except HFValidationError:  # no name that a hub gives; whoever loads it says so
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def incomplete(name: str, missing: Collection[str], others: Collection[str]) -> str:
    """Say that a checkpoint lacks weights, and why where their names tell.

    Args:
        name: what the user calls the model.
        missing: names of weights that the model has and the checkpoint lacks.
        others: names that the checkpoint has and the model does not know.
    """
    shown = sorted(missing)[:3]
    start = f"model {name!r}: its checkpoint lacks {len(missing)} weights, such as "
    for prefix, wrapper in _WRAPPERS.items():
        wrapped = [other for other in others if other.startswith(prefix)]
        if wrapped:
            return (
                f"{start}{shown}, and has {len(wrapped)} whose names begin with "
                f"{prefix!r}, such as {min(wrapped)!r}: they were saved with the "
                f"wrapper {wrapper}, and give that folder"
            )
    return f"{start}{shown}; they would be random. Save the whole model again"


def misfits(name: str, source: str, shapes: Collection[Misfit]) -> str:
    """Say which weights have another shape than ``config.json`` asks for.

    Args:
        name: what the user calls the model.
        source: where it lies.
        shapes: of each, see :data:`Misfit`; one at least.
    """
    weight, stored, asked = min(shapes)
    more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
    return (
        f"model {name!r}: weights in {source} do not fit its config.json: {weight} has "
        f"shape {list(stored)}, and config.json asks for {list(asked)}{more}; copy the "
        "config.json that was saved with these weights"
    )


def unused_layers(name: str, model: Any, others: Collection[str]) -> str | None:
    """Say which whole layers a checkpoint has and a model of its config.json has not.

    Layers of another form are passed over: some families store what predicts several
    tokens ahead behind the last layer, under the next number.

    Args:
        name: what the user calls the model.
        model: as loaded, a torch module.
        others: names that the checkpoint has and the model does not know.

    Returns:
        An error; None where there are no such layers.
    """
    ahead = max(int(getattr(model.config, key, None) or 0) for key in _AHEAD)
    for stack, layers in model.named_modules():
        if type(layers).__name__ != "ModuleList" or not len(layers):
            continue
        place = re.compile(rf"{re.escape(stack)}\.(\d+)\.(.+)")
        parts: dict[int, set[str]] = {}
        for match in filter(None, map(place.fullmatch, others)):
            parts.setdefault(int(match[1]), set()).add(match[2])
        form = {key.partition(".")[2] for key in layers.state_dict()}
        form = form.union(*(parts[n] for n in parts if n < len(layers)))
        beyond = sorted(
            n for n in parts if n >= len(layers) + ahead and parts[n] <= form
        )
        if beyond:
            shown = sorted(f"{stack}.{beyond[0]}.{part}" for part in parts[beyond[0]])
            return (
                f"model {name!r}: its weights hold layers that its config.json leaves "
                f"out, such as {shown[:3]}: {stack} has {len(layers)} by config.json "
                f"and {beyond[-1] + 1} by its weights; put that number right, or save "
                "a shorter model of its own with save_pretrained"
            )
    return None


def damaged(name: str, source: str, error: Exception) -> InputError:
    """The error for weights that cannot be read, with the file where one is found."""
    from safetensors import SafetensorError, safe_open

    folder = weights_folder(source)
    for file in sorted(folder.glob("*.safetensors")) if folder else []:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as damage:
            size = file.stat().st_size
            return InputError(
                f"model {name!r}: {file} ({size:,} bytes) is damaged: {damage}; "
                "delete it and download or copy it again"
            )
    return InputError(f"model {name!r}: weights in {source} are damaged: {error}")


def no_weights(
    name: str, source: str, error: BaseException | None = None
) -> MissingFileError:
    """The error for a folder without its weights, or without a part of them."""
    folder = weights_folder(source)
    if folder is None:
        return not_found(name, source, error)
    lacking = _dead_link(folder) or _lacking_shards(folder)
    if lacking:
        return MissingFileError(f"model {name!r}: {lacking}")
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt"))
    if not pickled:
        return MissingFileError(
            f"model {name!r}: {folder} holds no weights (no .safetensors file); "
            "download or copy model.safetensors there, or give another folder"
        )
    return MissingFileError(
        f"model {name!r}: {folder} holds no .safetensors weights (only "
        f"{', '.join(pickled)}), and pickled weights are not read; convert them with "
        "`mtkd models convert FOLDER NEW` or use a revision with them"
    )


def _dead_link(folder: Path) -> str | None:
    """Which link to weights, or to their index, leads to no file."""
    for file in sorted(folder.iterdir()):
        if file.suffix != ".safetensors" and file.name != INDEX:
            continue
        try:
            file.stat()
        except OSError as error:
            if not file.is_symlink():
                continue
            loops = error.errno == errno.ELOOP
            why = "and round in a circle" if loops else f"({error.strerror})"
            return (
                f"{file} is a link that leads to {os.readlink(file)} {why}; put the "
                "file itself there, or a link to where it is"
            )
    return None


def _lacking_shards(folder: Path) -> str | None:
    """Which part of weights in several files is not there."""
    shards = {p.name: m for p in folder.iterdir() if (m := _SHARD.fullmatch(p.name))}
    index = folder / INDEX
    if index.is_file():
        try:
            listed = set(
                json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            )
        except (ValueError, KeyError, AttributeError) as error:
            return f"{index} is damaged ({error}); download or copy it again"
        absent = sorted(listed - {p.name for p in folder.iterdir()})
        if absent:
            return (
                f"{folder} lacks {', '.join(absent)}, {len(absent)} of the "
                f"{len(listed)} files of weights that {INDEX} lists; download or copy "
                "the rest"
            )
        return None
    if not shards:
        return None
    count = int(next(iter(shards.values()))[2])
    return (
        f"{folder} holds {len(shards)} of {count} files of weights, such as "
        f"{min(shards)}, but no {INDEX}, which says what lies where; download or copy "
        "it as well"
    )


def not_found(
    name: str, source: str, error: BaseException | None = None
) -> MissingFileError:
    """The error for a name that is neither a folder nor known to the hub, or that the
    hub does not give; ``error`` is what was raised in its place."""
    from huggingface_hub import constants

    flags = [f for f in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(f)]
    answer = "" if no_network(error) else why_not(name, error)
    if answer:
        return MissingFileError(f"model {name!r} was not found: {answer}")
    state = f"offline ({', '.join(flags)} set)" if flags else "the hub was asked too"
    return MissingFileError(
        f"model {name!r} was not found: looked for the folder "
        f"{Path(source).absolute()} and in the cache {constants.HF_HUB_CACHE}; "
        f"{state}. Where there is a network run `hf download {name}`, copy the model "
        "to a folder and give that, or use the zoo (`mtkd zoo build`)"
    )
