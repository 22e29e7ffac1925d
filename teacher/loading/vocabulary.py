"""Another model's vocabulary, and how a config is written that has it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from align.errors import InputError, MtkdError
from teacher.loading.model_config import read_config
from teacher.loading.tokenizer import largest_id, load_tokenizer
from teacher.names import model_source

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
    """A vocabulary that a model is given in place of its own."""

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

    def _start(self, config: Any) -> int:
        """The token with which a decoder starts that has this vocabulary: its padding
        or end, where the model's own was that; else its padding.

        Raises:
            InputError: it has no padding token of its own, which such models need.
        """
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        if pad is None or pad == end:
            raise InputError(
                f"the vocabulary of {self.name} has no padding token beside its end of "
                "text, which an encoder-decoder needs; give a tokenizer that has one"
            )
        was_end = config.decoder_start_token_id == config.eos_token_id
        return int(end if was_end and end is not None else pad)

    def write_into(self, *settings: Any) -> None:
        """Set a model's number of tokens and its special tokens' ids.

        A padding row gets no gradient: a token that also ends texts is not named one.

        Args:
            settings: configs of transformers, of a model and of generating, or None.
        """
        tokenizer = self.tokenizer
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        other = (end, tokenizer.bos_token_id, tokenizer.unk_token_id)
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": self.ends,
            "pad_token_id": None if pad in other else pad,
        }
        for config in settings:
            if getattr(config, "is_encoder_decoder", False):
                config.decoder_start_token_id = self._start(config)
            for key, value in ids.items() if config is not None else ():
                setattr(config, key, value)
            for key in _OF_A_VOCABULARY:
                if getattr(config, key, None) is not None:
                    setattr(config, key, None)
            if hasattr(config, "vocab_size"):
                config.vocab_size = self.rows
