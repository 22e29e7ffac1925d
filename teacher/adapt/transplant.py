"""A causal model in the vocabulary of another: rows made, config and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from align.errors import InputError
from align.support.cache_folder import made_folder
from teacher.adapt.cut import Cuts, cut_vocabulary
from teacher.adapt.rows import new_rows
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.vocabulary import GivenVocabulary
from teacher.output_head import vocabulary_digest
from teacher.packages.manifest import Manifest, write_manifest


def transplant(model: nn.Module, old: Any, given: GivenVocabulary) -> Cuts:
    """Give a causal model another vocabulary, in place.

    Rows of its embedding, and of a head that has rows of its own, are means of the rows
    of its own pieces; everything else stays as it is.

    Args:
        model: a causal ``PreTrainedModel`` that reads text alone.
        old: the tokenizer that it was trained with.
        given: the vocabulary.

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
        _put(last, "weight", new_rows(last.weight, cuts.old))
    if bias is not None:
        _put(last, "bias", new_rows(bias, cuts.old))
    embedding.num_embeddings = last.out_features = given.rows
    module: Any
    for module in model.modules():
        if getattr(module, "vocab_size", None) == size:
            module.vocab_size = given.rows
    given.write_into(whole.config, getattr(whole, "generation_config", None))
    if embedding.padding_idx is not None:
        embedding.padding_idx = whole.config.pad_token_id
    return cuts


def save_transplanted(
    name: str,
    given: GivenVocabulary,
    folder: Path,
    *,
    origin: Mapping[str, object],
) -> Manifest:
    """Write a model with another vocabulary as a folder that transformers loads.

    Args:
        name: of the model, see :func:`teacher.names.model_source`.
        given: the vocabulary.
        folder: where to; replaced as a whole.
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
        cuts = transplant(loaded.model, loaded.tokenizer, given)
        _save(loaded, given, fresh)
        for file, text in notices.items():
            (fresh / file).write_text(text, encoding="utf-8")
        return write_manifest(
            fresh,
            **fields,
            conversion=f"given the vocabulary of {given.name}: {cuts.kept} pieces of "
            f"its own kept, {cuts.cut} made of several, {cuts.unmatched} of none",
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
