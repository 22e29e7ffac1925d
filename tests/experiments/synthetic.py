"""A made-up run in the form the driver writes: five phases, three arms."""

import json
import math
import random
from pathlib import Path
from typing import Any

PHASES = ("dual", "multi_basic", "real_multi", "routing", "z_space")
TEACHERS = {
    "dual": ["gpt2-prose", "qwen-code"],
    "multi_basic": ["gpt2-prose", "qwen-code", "neox-mixed"],
    "real_multi": ["gpt2-prose", "qwen-code", "neox-mixed"],
    "routing": ["gpt2-prose", "qwen-code", "neox-mixed"],
    "z_space": ["gpt2-prose", "qwen-code", "neox-mixed", "bert-mixed", "t5-mixed"],
}
STEPS = 40


def write_run(path: Path) -> Path:
    """Write metrics.jsonl, summary.json and config.yaml under ``path``."""
    rng = random.Random(0)
    path.mkdir(parents=True, exist_ok=True)
    lines = [line for i, name in enumerate(PHASES) for line in _phase(i, name, rng)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    (path / "summary.json").write_text(json.dumps(summary()))
    (path / "config.yaml").write_text("run: {name: made-up, dir: runs}\n")
    return path


def summary() -> dict[str, Any]:
    """Phases of which the third and the fifth did not help."""
    main = [(3.62, 3.35), (3.21, 2.98), (3.05, 2.80), (2.90, 2.61), (2.84, 2.60)]
    plain = [(3.70, 3.41), (3.26, 3.05), (3.02, 2.78), (2.95, 2.70), (2.83, 2.59)]
    single = [(3.64, 3.36), (3.24, 3.01), (3.01, 2.79), (2.93, 2.66), (2.85, 2.62)]
    phases, previous = [], {"prose": 7.9, "code": 8.1}
    for name, ours, ce, one in zip(PHASES, main, plain, single, strict=True):
        bpc = {"prose": ours[0], "code": ours[1]}
        phases.append(
            {
                "name": name,
                "steps": STEPS,
                "teachers": TEACHERS[name],
                "bpc": bpc,
                "ce_only": {"prose": ce[0], "code": ce[1]},
                "best_single": {
                    "teacher": "gpt2-prose",
                    "bpc": {"prose": one[0], "code": one[1]},
                },
                "previous": previous,
                "helped": name not in ("real_multi", "z_space"),
            }
        )
        previous = bpc
    teachers = {
        name: {"bpc": {"prose": 2.1 + i / 10, "code": 2.5 - i / 10}}
        for i, name in enumerate(TEACHERS["routing"])
    }
    return {"phases": phases, "teachers": teachers, "time_s": 312.4}


def _phase(index: int, name: str, rng: random.Random) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(5, STEPS + 1, 5):
        far = index * STEPS + step
        base = {"time": 1.0 * far, "arm": "main", "phase": name, "step": step}
        noise = rng.uniform(-0.05, 0.05)
        terms = {
            "ce": 2 + 4 * math.exp(-far / 60) + noise,
            "kv_k": 0.4 + 1.2 * math.exp(-far / 90) + noise,
            "kv_v": 0.5 + 1.1 * math.exp(-far / 80) - noise,
            "cos": 0.2 + 0.5 * math.exp(-far / 100),
            "attention_kl": 0.02 + 0.3 * math.exp(-far / 70),
        }
        if name in ("routing", "z_space"):
            terms["outcome"] = 2.4 + 3 * math.exp(-step / 30) + noise
            terms["entropy"] = -1.0 + 0.01 * step
            lines.append(
                {**base, "kind": "routing", **_routing(TEACHERS[name], step, rng)}
            )
        if name == "z_space":
            terms["z_reconstruction"] = 1.5 * math.exp(-step / 25)
        moved = float(name in ("routing", "z_space"))  # by the outcome only
        coverage = {t: 0.97 - 0.06 * i for i, t in enumerate(TEACHERS[name])}
        lines.append(
            {
                **base,
                "kind": "train",
                "loss": sum(terms.values()),
                "terms": terms,
                "coverage": coverage,
                "gates": [0.5 + moved * step / 100, 0.5 - moved * step / 200],
                "lr": 1e-3,
            }
        )
        for arm, extra in (("ce_only", 0.05), ("single:gpt2-prose", 0.02)):
            ce = terms["ce"] + extra
            lines.append(
                {**base, "arm": arm, "kind": "train", "loss": ce, "terms": {"ce": ce}}
            )
    return lines


def _routing(teachers: list[str], step: int, rng: random.Random) -> dict[str, Any]:
    def share(lean: int, strength: float) -> dict[str, float]:
        raw = [
            math.exp(strength * step / 15 * (i == lean) + rng.uniform(0, 0.1))
            for i in range(len(teachers))
        ]
        return {t: x / sum(raw) for t, x in zip(teachers, raw, strict=True)}

    return {
        "weights": {"prose": share(0, 0.8), "code": share(1, 0.6)},
        "layers": {str(layer): share(layer % 2, 0.2 * layer) for layer in range(6)},
        "entropy": 1.09 - 0.012 * step,
    }


def save_tokenizer(folder: Path, kind: str) -> None:
    """Save a tiny fast tokenizer: of bytes, or of words cut at blanks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {"<eos>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}
        raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    else:
        words = ["<eos>", "<unk>", "one", "two", "three"]
        raw = Tokenizer(
            models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
        )
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(folder)


def save_llama(folder: Path) -> None:
    """Save a two-layer Llama with random weights over the byte tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    save_tokenizer(folder, "bytes")
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
