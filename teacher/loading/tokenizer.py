"""Load the tokenizer that a model was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align.errors import InputError, MissingFileError
from align.tokens.placed import special_ids
from teacher.loading.model_files import not_found, weights_folder
from teacher.loading.trial import try_file, try_text

_UNMADE = "Couldn't instantiate the backend tokenizer"
"""How transformers begins a list of ways to make one, of which none was there."""
_ADVICE = "copy its tokenizer.json and tokenizer_config.json there"


def load_tokenizer(name: str, source: str, hub: dict[str, Any]) -> Any:
    """Load a fast tokenizer as its ``tokenizer.json`` describes it.

    transformers picks a class by the model's type or by ``tokenizer_config.json``, and
    many of these classes build their own way of splitting text in place of the file's,
    or of reading special tokens. The model was trained with the file, so wherever the
    class is another in any part that decides ids, the file is read as it is. What the
    class adds beside it, such as a chat template and the names of special tokens, is
    kept; a padding token is not made up (:func:`align.tokens.placed.pad_id`).

    Args:
        name: what the user calls the model, for errors.
        source: a folder or a hub name.
        hub: further arguments of ``from_pretrained``.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: no tokenizer, or one that knows special tokens only.
        ValueError: files that no tokenizer can be made of, that end the process that
            tries them or take too much of it, or a slow tokenizer, which has no
            character offsets.
    """
    file = _file(name, source, hub)
    tokenizer = _by_class(name, source, hub, file is not None)
    if file is not None and not _reads_alike(tokenizer, file):
        tokenizer = _by_file(name, source, hub, file)
    # Without files some classes quietly come up with little but special tokens.
    parts = set(tokenizer.vocab_files_names.values())  # none where bytes are tokens
    if file is None and parts and not any(_path(source, p, hub) for p in parts):
        wanted = ", ".join(sorted(parts))
        raise MissingFileError(
            f"model {name!r}: no usable tokenizer in {source}: there is no "
            f"tokenizer.json, nor any other file of a {type(tokenizer).__name__} "
            f"({wanted}); {_ADVICE}"
        )
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise MissingFileError(
            f"model {name!r}: no usable tokenizer in {source}: it knows special "
            f"tokens only; {_ADVICE}"
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"model {name!r} has the slow tokenizer {type(tokenizer).__name__}, "
            "which cannot tell which characters a token holds; convert it to a "
            "tokenizer.json (tokenizers library)"
        )
    for template in _templates(tokenizer):
        try_text(template, "template", f"model {name!r}: the chat template of {source}")
    model = tokenizer.backend_tokenizer.model
    if getattr(model, "dropout", None):
        model.dropout = None  # a setting of its training: ids would be drawn by lot
    return tokenizer


def _templates(tokenizer: Any) -> list[str]:
    """The chat templates that a tokenizer brings, of which it may have several."""
    template = getattr(tokenizer, "chat_template", None)
    templates = template.values() if isinstance(template, dict) else [template]
    return [text for text in templates if isinstance(text, str)]


def largest_id(tokenizer: Any) -> int:
    """The largest id a tokenizer can give; more than its size where ids have gaps.

    Args:
        tokenizer: a fast Hugging Face tokenizer.

    Returns:
        The id, -1 for an empty vocabulary.
    """
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    return int(max(vocabulary.values(), default=-1))


def _path(source: str, file: str, hub: dict[str, Any]) -> str | None:
    """Where a file of a model lies on this machine; None where there is none."""
    from transformers.utils.hub import cached_file

    options = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    path: str | None = cached_file(
        source,
        file,
        **options,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


def _file(name: str, source: str, hub: dict[str, Any]) -> Any:
    """What ``tokenizer.json`` describes; None where there is no such file."""
    from tokenizers import Tokenizer

    path = _path(source, "tokenizer.json", hub)
    if path is None:  # converted from another file; nothing to differ from
        return None
    try_file(Path(path), "tokenizer", f"model {name!r}: {path}")
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(
            f"model {name!r}: {path} cannot be read: {_line(error)}; copy it again"
        ) from error


def _by_class(name: str, source: str, hub: dict[str, Any], filed: bool) -> Any:
    """As transformers' own choice of class loads it; None where it cannot but a file
    can."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **hub)
    except Exception as error:  # each class fails in its own way
        if filed:
            return None
        if weights_folder(source) is None:
            raise not_found(name, source, error) from error
        missing = isinstance(error, OSError | ValueError)
        why = _line(error)
        if why.startswith(_UNMADE):
            why = "there is no tokenizer.json, nor another file to make one of"
        raise (MissingFileError if missing else InputError)(
            f"model {name!r}: no usable tokenizer in {source}: {why}; {_ADVICE}"
        ) from error


def _by_file(name: str, source: str, hub: dict[str, Any], file: Any) -> Any:
    """As the file says, with what ``tokenizer_config.json`` says beside it."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **hub)
    except Exception as error:
        raise InputError(
            f"model {name!r}: no usable tokenizer in {source}: {_line(error)}; "
            f"{_ADVICE}"
        ) from error
    # The config may describe tokens of the file otherwise, and would win.
    added = file.get_added_tokens_decoder()
    tokenizer.backend_tokenizer.add_tokens([added[id_] for id_ in sorted(added)])
    return tokenizer


def _reads_alike(tokenizer: Any, file: Any) -> bool:
    """Whether a tokenizer is what the file describes in all that decides ids."""
    if tokenizer is None or not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    added = file.get_added_tokens_decoder()
    known = backend.get_added_tokens_decoder()
    return (
        all(_flags(known.get(id_)) == _flags(token) for id_, token in added.items())
        and all(
            _alike(getattr(backend, part), getattr(file, part))
            for part in ("normalizer", "pre_tokenizer", "model")
        )
        and special_ids(backend) == special_ids(file)
    )


def _flags(token: Any) -> Any:
    """How an added token is found in a text."""
    if token is None:
        return None
    fields = ("content", "single_word", "lstrip", "rstrip", "normalized")
    return [getattr(token, field) for field in fields]


_IDLE = {"dropout", "trim_offsets", "fuse_unk"}
"""Settings that change no id: dropout is put off, offsets are no ids, and unknown
tokens are fused only where there are any."""


def _alike(component: Any, described: Any) -> bool:
    """Whether two components give the same ids."""
    if component is None or described is None:
        return component is described
    try:
        states = component.__getstate__(), described.__getstate__()
    except Exception:  # a custom Python component cannot be serialised
        return False
    (first, pieces), (second, others) = map(_parted, states)
    if pieces == others:  # parsing a vocabulary takes seconds
        return first == second or bool(_settings(first) == _settings(second))
    return bool(_settings(states[0]) == _settings(states[1]))


def _parted(serialised: bytes) -> tuple[bytes, bytes]:
    """A component without its vocabulary and what follows, and these."""
    key = b',"vocab":'  # within a piece its quotation marks would be escaped
    settings, separator, pieces = serialised.partition(key)
    return (settings + b"}", pieces) if separator else (serialised, b"")


def _settings(serialised: bytes) -> Any:
    """A component's settings without those that change no id."""
    state = json.loads(serialised)
    if isinstance(state.get("vocab"), list):  # scores of pieces, read by two parsers
        state["vocab"] = [[piece, f"{score:.12g}"] for piece, score in state["vocab"]]
    return _bare(state, state.get("unk_token") is not None)


def _bare(state: Any, unknown: bool) -> Any:
    if isinstance(state, list) and state and isinstance(state[0], dict):
        return [_bare(item, unknown) for item in state]
    if not isinstance(state, dict) or state.get("type") is None:
        return state
    idle = _IDLE - {"fuse_unk"} if unknown else _IDLE
    return {
        key: _bare(value, unknown)
        for key, value in state.items()
        if key not in idle and value not in (None, "")
    }


def _line(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
