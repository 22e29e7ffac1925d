"""Turn models that the platform does not read into folders of safetensors that it does.

Pickles are read with PyTorch's ``weights_only``, which runs no code of theirs.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from align.errors import InputError, MissingFileError
from align.support import extras
from align.support.cache_folder import made_folder
from align.support.digest import sha256_of
from align.support.quiet import quiet_libraries
from teacher.conversion.gguf_header import check_gguf
from teacher.conversion.gguf_reading import read_once
from teacher.conversion.splitting import splitting_of, without_first_blank
from teacher.packages.manifest import Manifest, write_manifest

_ADAPTER = "adapter_config.json"
_BESIDE = (".json", ".txt", ".model", ".jinja")
"""Endings of what lies beside weights: config, tokenizer, chat template."""
_WEIGHTS = re.compile(
    r"(pytorch_model|model|consolidated)([-.]\d+(-of-\d+)?)?\.(bin|pt|pth)"
)
"""Names that weights usually have, whole or in parts."""
_OF_A_TRAINER = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state(_\d+)?")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def convert(
    source: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    base: str | Path | None = None,
) -> Manifest:
    """Convert a model into a folder of safetensors, its tokenizer and a manifest.

    Args:
        source: a ``.gguf`` file; a folder with ``.bin`` or ``.pt`` weights; or a folder
            with an adapter (``adapter_config.json``), which is merged into its base.
        out: the new folder; must not be there yet.
        tokenizer: folder or hub name of a tokenizer that goes with it instead of
            its own.
        base: folder or hub name of an adapter's base; None: as the adapter names it.

    Raises:
        FileNotFoundError: no such source, or a part of it is missing.
        ValueError: it cannot be converted, a library for it is missing, or ``out``
            is there.
    """
    quiet_libraries()
    path, out = Path(source).expanduser(), Path(out).expanduser()
    if out.exists():
        raise InputError(f"{out} is there already; give a new folder")
    if not path.exists():
        raise MissingFileError(
            f"{path.absolute()} is not there; give a .gguf file, a folder with .bin "
            "weights, or one with an adapter"
        )
    if not out.absolute().parent.is_dir():
        raise MissingFileError(f"the folder {out.absolute().parent} is not there")
    with made_folder(out) as folder:
        if path.is_file():
            check_gguf(path)
            from_gguf(path, folder, with_tokenizer=tokenizer is None)
            done, digest = "GGUF, dequantised to float32", sha256_of(path)
        elif (path / _ADAPTER).is_file():
            done, digest = _merge(path, folder, base, tokenizer is None), ""
        else:
            done, digest = _from_pickles(path, folder, tokenizer is None), ""
        if tokenizer is not None:
            _copy_tokenizer(str(tokenizer), folder)
        check_loads(path.name, folder)
        return write_manifest(
            folder,
            title=path.name,
            source=str(path.absolute()),
            source_sha256=digest,
            conversion=done,
        )


def check_loads(name: str, folder: Path) -> None:
    """See that a converted model can be used as a teacher.

    Raises:
        ValueError: as :func:`teacher.loading.models.load_model` raises it.
    """
    from teacher.loading.models import load_model

    try:
        load_model(folder)
    except InputError as error:
        raise InputError(f"{name} was converted and cannot be used: {error}") from error


def from_gguf(path: Path, folder: Path, with_tokenizer: bool = True) -> None:
    """Write a GGUF file's model as float32, and its tokenizer.

    Args:
        path: the file.
        folder: to write into.
        with_tokenizer: whether to convert its tokenizer.

    Raises:
        ValueError: the ``gguf`` package is missing, the architecture is unknown to
            transformers, or the tokenizer splits text in a way that is not known.
    """
    extras.gguf(f"converting {path.name}")
    from transformers import AutoModelForCausalLM

    with read_once(path):
        vocabulary = _vocabulary(path) if with_tokenizer else None
        with _named(path):
            if vocabulary is not None:
                _take_tokenizer(path, vocabulary, folder)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, **_dequantised()
            )
            model.save_pretrained(folder)


def _take_tokenizer(path: Path, vocabulary: _Vocabulary, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if vocabulary.split is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = vocabulary.split
    _as_the_file_says(tokenizer, vocabulary).save_pretrained(folder)


def _dequantised() -> dict[str, Any]:
    """Asks newer versions of transformers for plain weights; older ones always give
    them."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What a GGUF file says of its tokenizer and transformers does not heed."""

    tokens: int
    """Ids from here on were made up."""
    split: Any = None
    """The pre-tokenizer that it names; None of SentencePiece, which splits nothing."""
    blank_first: bool = True
    """Whether SentencePiece puts a blank in front of a text."""


def _vocabulary(path: Path) -> _Vocabulary:
    reader = extras.gguf(f"converting {path.name}").GGUFReader(path)

    def value(key: str) -> Any:
        entry = reader.get_field(f"tokenizer.ggml.{key}")
        return None if entry is None else entry.contents()

    tokens = len(value("tokens") or ())
    if value("model") != "gpt2":  # of SentencePiece: nothing is split beforehand
        return _Vocabulary(tokens, blank_first=value("add_space_prefix") is not False)
    name = value("pre")
    if name is None:
        raise InputError(
            f"{path} does not say how its tokenizer splits text (tokenizer.ggml.pre); "
            "give the folder of the original model's tokenizer with --tokenizer"
        )
    with _named(path):
        return _Vocabulary(tokens, splitting_of(name))


def _as_the_file_says(tokenizer: Any, vocabulary: _Vocabulary) -> Any:
    """Leave out what transformers adds and the file has not: special tokens, and a
    blank in front of every text.

    Args:
        tokenizer: as transformers converted it.
        vocabulary: of the file.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    made_up = max(ids.values(), default=-1) >= vocabulary.tokens
    if not made_up and vocabulary.blank_first:
        return tokenizer
    if not vocabulary.blank_first:
        without_first_blank(described)
    described["added_tokens"] = [
        token for token in described["added_tokens"] if token["id"] < vocabulary.tokens
    ]
    model = described["model"]
    if ids.get(model.get("unk_token"), 0) >= vocabulary.tokens:
        model["unk_token"] = None
    kept = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and ids[token] < vocabulary.tokens
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        chat_template=tokenizer.chat_template,
        **kept,
    )


def _from_pickles(path: Path, folder: Path, with_tokenizer: bool) -> str:
    """Read a folder's pickled weights without running anything of theirs."""
    from safetensors.torch import save_file

    from teacher.loading.models import load_model

    pickles = _weights_in(path)
    state: dict[str, torch.Tensor] = {}
    for file in pickles:
        state |= _tensors(file)
    with TemporaryDirectory(dir=folder.parent) as scratch:
        plain = Path(scratch) / path.name
        plain.mkdir()
        for file in path.iterdir():
            if file.suffix in _BESIDE and not file.name.endswith(".index.json"):
                shutil.copy(file, plain)
        # Tied weights share their memory, which safetensors refuses.
        state = {name: value.clone().contiguous() for name, value in state.items()}
        save_file(state, plain / "model.safetensors", metadata={"format": "pt"})
        loaded = load_model(plain)  # refuses what lacks weights or does not fit
        loaded.model.save_pretrained(folder)
        if with_tokenizer:
            loaded.tokenizer.save_pretrained(folder)
    return f"from {', '.join(p.name for p in pickles)}"


def _weights_in(folder: Path) -> list[Path]:
    """The pickled weights of a folder: those with a usual name, else all there are.

    A trainer leaves its own pickles beside them (``training_args.bin``,
    ``optimizer.pt``, ``scheduler.pt``), which are no weights.

    Raises:
        FileNotFoundError: there are none.
    """
    pickles = [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
    usual = [p for p in pickles if _WEIGHTS.fullmatch(p.name)]
    weights = usual or [p for p in pickles if not _OF_A_TRAINER.fullmatch(p.stem)]
    if not weights:
        beside = ", ".join(sorted(p.name for p in pickles))
        holds = f" ({beside} are no weights)" if pickles else ""
        raise MissingFileError(
            f"{folder} has no .bin or .pt weights{holds} and no {_ADAPTER}; folders "
            "with .safetensors need no conversion"
        )
    return sorted(weights)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file} holds more than tensors and is not read, since reading it would "
            f"run code ({reason}); ask its maker for .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} is damaged: {reason}; copy it again") from error
    tensors = isinstance(content, dict) and all(
        isinstance(value, torch.Tensor) for value in content.values()
    )
    if not tensors:
        raise InputError(
            f"{file} is no state dict (names to tensors), such as torch.save("
            "model.state_dict()) writes; move it out of the folder if it is something "
            "else, such as an optimiser's state"
        )
    return dict(content)


def _merge(
    path: Path, folder: Path, base: str | Path | None, with_tokenizer: bool
) -> str:
    """Merge an adapter into its base; a tokenizer beside it, with the chat template it
    was trained in, goes before the base's."""
    peft = extras.peft(f"merging the adapter in {path}", "merge it elsewhere")
    from teacher.loading.models import load_model

    settings = _adapter_settings(path / _ADAPTER)
    name = str(base or settings.get("base_model_name_or_path") or "")
    if not name:
        raise InputError(f"{path / _ADAPTER} names no base model; give it with --base")
    loaded = load_model(name, role="student")
    with _named(path):
        merged = peft.PeftModel.from_pretrained(loaded.model, path).merge_and_unload()
        merged.save_pretrained(folder)
    if with_tokenizer and any((path / name).is_file() for name in _TOKENIZERS):
        _copy_tokenizer(str(path), folder)
    elif with_tokenizer:
        loaded.tokenizer.save_pretrained(folder)
    return f"adapter merged into {name}"


def _adapter_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}; copy it again") from error
    if not isinstance(settings, dict):
        raise InputError(f"{file} holds no settings by name; copy it again")
    return settings


def _copy_tokenizer(name: str, folder: Path) -> None:
    from teacher.loading.tokenizer import load_tokenizer
    from teacher.names import model_source

    load_tokenizer(name, model_source(name), {}).save_pretrained(folder)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file in front of what a library says of it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be converted: {lines[0]}") from error
