"""How a GGUF file's tokenizer splits text, which transformers does not read from it.

A GGUF file holds vocabulary and merges, and *names* the way in which text is split
before merging (``tokenizer.ggml.pre``). transformers converts the first and puts the
splitting of GPT-2 in place of the second, so digits and blanks of other models would be
cut at other places than the model was trained with.
"""

from __future__ import annotations

from typing import Any

from align.errors import InputError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS = {"llama-bpe": _LLAMA3, "qwen2": _QWEN2}

KNOWN_SPLITTING = ("gpt-2", "smollm", *_PATTERNS)
"""Names that are understood."""


def splitting_of(name: str) -> Any:
    """The pre-tokenizer of the ``tokenizers`` library that a name stands for.

    Args:
        name: of :data:`KNOWN_SPLITTING`.

    Raises:
        ValueError: another name.

    Source:
        The pre-tokenizers of the models' own ``tokenizer.json``: GPT-2; SmolLM2
        (digits one by one, then GPT-2's); Llama 3; Qwen2.
    """
    from tokenizers import Regex, pre_tokenizers

    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return bytes_of_words
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, bytes_of_words])
    if name in _PATTERNS:
        words = pre_tokenizers.Split(Regex(_PATTERNS[name]), "isolated")
        alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([words, alone])
    raise InputError(
        f"its tokenizer splits text in the way {name!r}, which is not known here "
        f"({', '.join(KNOWN_SPLITTING)} are); give the folder of the original model's "
        "tokenizer with --tokenizer"
    )


def without_first_blank(described: dict[str, Any]) -> None:
    """Change a tokenizer so that texts get no blank in front.

    Args:
        described: its ``tokenizer.json``, changed in place.

    Source:
        llama.cpp's ``tokenizer.ggml.add_space_prefix``, which transformers reads and
        does not use.
    """
    words, normal = described["pre_tokenizer"], described["normalizer"]
    for step in _steps(words, "pretokenizers"):
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    if normal is not None and normal["type"] == "Prepend":
        described["normalizer"] = None
    if normal is not None and normal["type"] == "Sequence":
        normal["normalizers"] = [
            step for step in normal["normalizers"] if step["type"] != "Prepend"
        ]
    decoder = described["decoder"]
    if decoder is not None and decoder["type"] == "Sequence":  # it took that blank off
        decoder["decoders"] = [
            step for step in decoder["decoders"] if step["type"] != "Strip"
        ]


def _steps(component: Any, inside: str) -> list[dict[str, Any]]:
    """The parts of a component, which may be a sequence of them."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [step for part in component[inside] for step in _steps(part, inside)]
