"""A causal model in the vocabulary of another: rows made, config and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from align.errors import InputError, MtkdError
from align.support.cache_folder import made_folder
from teacher.adapt.cut import Cuts, cut_vocabulary
from teacher.adapt.rows import new_rows
from teacher.loading.model_config import read_config
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.tokenizer import largest_id, load_tokenizer
from teacher.names import model_source
from teacher.output_head import vocabulary_digest
from teacher.packages.manifest import Manifest, write_manifest

_OF_A_VOCABULARY = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "forced_decoder_ids",
    "bad_words_ids",
    "force_words_ids",
    "sequence_bias",
    "constraints",
)
"""Settings of generating that name ids, which mean other tokens then."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GivenVocabulary:
    """The vocabulary that a model is given."""

    name: str
    """Of the model it is of, as the user calls it."""
    tokenizer: Any
    rows: int
    """Of the embedding: its own model's, where there is one, so that heads are of one
    size; else one for each id."""
    ends: int | list[int] | None
    """What ends a text that is generated."""

    @staticmethod
    def of(name: str) -> GivenVocabulary:
        """Read the vocabulary of a model, or of a folder with a tokenizer alone.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be used.
        """
        from transformers import GenerationConfig

        source = model_source(name)
        tokenizer = load_tokenizer(name, source, {})
        rows, ends = largest_id(tokenizer) + 1, tokenizer.eos_token_id
        with suppress(MtkdError):  # a tokenizer alone will do
            config, _ = read_config(name)
            rows = max(rows, int(config.get_text_config().vocab_size))
        with suppress(OSError):
            written = GenerationConfig.from_pretrained(source).eos_token_id
            ends = ends if written is None else written
        return GivenVocabulary(name=name, tokenizer=tokenizer, rows=rows, ends=ends)


def transplant(
    model: nn.Module, old: Any, given: GivenVocabulary, head: str = "mean"
) -> Cuts:
    """Give a causal model another vocabulary, in place.

    Rows of its embedding are means of its own pieces' rows, those of its head as
    ``head`` says where it has rows of its own; everything else stays as it is.

    Args:
        model: a causal ``PreTrainedModel`` that reads text alone.
        old: the tokenizer that it was trained with.
        given: the vocabulary.
        head: of :data:`teacher.adapt.rows.HEADS`.

    Returns:
        What was cut into what.

    Raises:
        InputError: a model or tokenizer that this cannot be done with.
    """
    whole: Any = model
    _check(whole)
    embedding, last = whole.get_input_embeddings(), whole.get_output_embeddings()
    size = int(embedding.weight.shape[0])
    cuts = cut_vocabulary(given.tokenizer, old, given.rows, size)
    tied = last.weight is embedding.weight
    bias = getattr(last, "bias", None)
    _put(embedding, "weight", new_rows(embedding.weight, cuts.old))
    if tied:
        last.weight = embedding.weight
    else:
        _put(last, "weight", new_rows(last.weight, cuts.old, head))
    if bias is not None:
        _put(last, "bias", new_rows(bias, cuts.old, head))
    embedding.num_embeddings = last.out_features = given.rows
    module: Any
    for module in model.modules():
        if getattr(module, "vocab_size", None) == size:
            module.vocab_size = given.rows
    _set_ids(whole, embedding, given)
    return cuts


def save_transplanted(
    name: str,
    given: GivenVocabulary,
    folder: Path,
    *,
    head: str = "mean",
    origin: Mapping[str, object],
) -> Manifest:
    """Write a model with another vocabulary as a folder that transformers loads.

    Args:
        name: of the model, see :func:`teacher.names.model_source`.
        given: the vocabulary.
        folder: where to; replaced as a whole.
        head: see :func:`transplant`.
        origin: what the manifest says of the model: ``title``, ``source``,
            ``source_sha256``, ``licence``, ``redistributable``, and under ``notices``
            texts that go with it by file name.

    Returns:
        The manifest.

    Raises:
        InputError: it cannot be loaded, or not be given that vocabulary, or has it.
    """
    loaded = load_model(name)
    if loaded.kind != "decoder":
        raise InputError(
            f"model {name!r} is an {loaded.kind}; only causal language models are "
            "given another vocabulary"
        )
    if vocabulary_digest(loaded.tokenizer) == vocabulary_digest(given.tokenizer):
        raise InputError(
            f"model {name!r} has the vocabulary of {given.name!r} already; use it as "
            "it is"
        )
    fields = dict(origin)
    notices: Any = fields.pop("notices", {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with made_folder(folder) as fresh:
        cuts = transplant(loaded.model, loaded.tokenizer, given, head)
        _save(loaded, given, fresh)
        for file, text in notices.items():
            (fresh / file).write_text(text, encoding="utf-8")
        return write_manifest(
            fresh,
            **fields,
            conversion=f"given the vocabulary of {given.name}: {cuts.kept} pieces of "
            f"its own kept, {cuts.cut} made of several, {cuts.unmatched} of none; "
            f"head by the {head}",
        )


def _save(loaded: LoadedModel, given: GivenVocabulary, folder: Path) -> None:
    model: Any = loaded.model
    model.save_pretrained(folder)
    positions = getattr(model.config, "max_position_embeddings", None)
    tokenizer, most = given.tokenizer, given.tokenizer.model_max_length
    if positions and positions < most:
        tokenizer.model_max_length = positions
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = most


def _put(module: Any, name: str, rows: Tensor) -> None:
    trained = getattr(module, name).requires_grad
    setattr(module, name, nn.Parameter(rows, requires_grad=trained))


def _check(model: Any) -> None:
    """See that rows of one embedding and one head are all that a vocabulary has."""
    config, kind = model.config, type(model).__name__
    if config.get_text_config() is not config:
        raise InputError(
            f"{kind} reads more than text, and its other towers name tokens of its "
            "vocabulary; give a model of text alone"
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    linear = isinstance(head, nn.Linear) and isinstance(embedding, nn.Embedding)
    if not linear or head.weight.shape[0] != embedding.weight.shape[0]:
        raise InputError(
            f"{kind} has no plain embedding and head of one size, so its vocabulary "
            "cannot be changed"
        )
    size = embedding.weight.shape[0]
    known = {id(p) for p in (embedding.weight, head.weight, head.bias)}
    for name, parameter in model.named_parameters():
        whole = parameter.dim() and parameter.shape[0] == size
        if whole and id(parameter) not in known and _by_token(model, name):
            raise InputError(
                f"{kind} has a further table of its vocabulary, {name}, so that cannot "
                "be changed"
            )


def _by_token(model: nn.Module, parameter: str) -> bool:
    """Whether it is a table, and not that of positions."""
    table, _, _ = parameter.rpartition(".")
    positions = re.search(r"pos|wpe", table)
    return isinstance(model.get_submodule(table), nn.Embedding) and not positions


def _set_ids(model: Any, embedding: Any, given: GivenVocabulary) -> None:
    """Special tokens' ids, and how many there are, in the model's configs.

    A padding row gets no gradient: a token that also ends texts is not named one.
    """
    config, tokenizer = model.config, given.tokenizer
    pad = tokenizer.pad_token_id
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": given.ends,
        "pad_token_id": None if pad in used else pad,
    }
    had = embedding.padding_idx is not None
    embedding.padding_idx = ids["pad_token_id"] if had else None
    config.vocab_size = given.rows
    for settings in (config, getattr(model, "generation_config", None)):
        if settings is None:
            continue
        for key, value in ids.items():
            setattr(settings, key, value)
        for key in _OF_A_VOCABULARY:
            if getattr(settings, key, None) is not None:
                setattr(settings, key, None)
