"""Load the tokenizer that a model was trained with."""

from __future__ import annotations

from typing import Any

from align.errors import InputError, MissingFileError

_PROBE = (
    "def f(x):\n    return x + 12345  # done\n\n\nclass A:\n\tpass\r\n It's  WE'LL, "
    "naïve Ünïcode ﬁ １２ 東京 🙂 …  end "
)
"""Blanks, digits, capitals and compatibility forms: where tokenizers of one
vocabulary part."""


def load_tokenizer(name: str, source: str, hub: dict[str, Any]) -> Any:
    """Load a fast tokenizer as its ``tokenizer.json`` describes it.

    transformers picks a class by the model's type, and some of these classes bring
    their own way of splitting text in place of the file's. Where the two differ on a
    probe the file is right: the model was trained with it.

    Args:
        name: what the user calls the model, for errors.
        source: a folder or a hub name.
        hub: further arguments of ``from_pretrained``.

    Returns:
        The tokenizer, with a pad token.

    Raises:
        FileNotFoundError: no tokenizer, or one that knows special tokens only.
        ValueError: a slow tokenizer, which has no character offsets.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    advice = "copy its tokenizer.json and tokenizer_config.json there"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    except (OSError, ValueError) as error:
        raise MissingFileError(
            f"model {name!r}: no usable tokenizer in {source}: {error}; {advice}"
        ) from error
    # Without files some classes quietly come up with nothing but special tokens.
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise MissingFileError(
            f"model {name!r}: no usable tokenizer in {source}: it knows special "
            f"tokens only; {advice}"
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"model {name!r} has the slow tokenizer {type(tokenizer).__name__}, "
            "which cannot tell which characters a token holds; convert it to a "
            "tokenizer.json (tokenizers library)"
        )
    if not _reads_as_its_file(tokenizer, source, hub):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **hub)
    if tokenizer.pad_token is None:  # only on this copy; masked wherever it stands
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _reads_as_its_file(tokenizer: Any, source: str, hub: dict[str, Any]) -> bool:
    from tokenizers import Tokenizer
    from transformers.utils.hub import cached_file

    path = cached_file(
        source, "tokenizer.json", **hub, _raise_exceptions_for_missing_entries=False
    )
    if path is None:  # converted from another file; nothing to differ from
        return True
    backends = (tokenizer.backend_tokenizer, Tokenizer.from_file(path))
    one, other = (b.encode(_PROBE, add_special_tokens=False).ids for b in backends)
    return bool(one == other)
