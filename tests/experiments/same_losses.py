"""A short run whose losses are the same on every machine, and were so before.

    python -m tests.experiments.same_losses            # says what differs
    python -m tests.experiments.same_losses --write    # keeps the new numbers

It is ``mtkd train`` on three phases: a teacher with the student's own tokenizer, three
of several families and tokenizers with a router, and two that meet in a latent. The
models are not trained: their weights are hashes of their places. What the code under it
calls float32 is float64 in this process (:func:`widen`), so that threads and processors
do not reach the digits that are compared.
"""

import gc
import io
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

NUMBERS = Path(__file__).with_suffix(".json")
"""What the losses were when they were last meant to change."""
RELATIVE = 1e-6
"""Largest difference, as a share of the number."""
Line = Mapping[str, Any]
"""``phase``, ``step``, and by name the loss, its terms and the gradient's norm."""
CUT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "student": ("bytes-chatml", "llama", CUT),
    "qwen2": (
        "bytes-chatml",
        "qwen2",
        CUT | {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 40},
    ),
    "gpt2": (
        "bytes-nfc",
        "gpt2",
        {"n_embd": 24, "n_layer": 5, "n_head": 3, "n_positions": 96},
    ),
    # the only tokenizer with a token before the text
    "neox": (
        "metaspace-legacy",
        "gpt_neox",
        CUT
        | {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
        | {"rotary_pct": 0.4},
    ),
}
"""Tokenizer, architecture and sizes of every model."""
PHASES: dict[str, Any] = {
    "single": {
        "teachers": ["qwen2"],
        "fuse": {"space": "student"},
        "loss": {
            "outcome_every": 2,
            "relation_k": 0.3,
            "relation_v": 0.2,
            "temperatures": [1.5],
        },
        "output": {"kd": 0.5, "temperature": 2.0, "top_k": 8, "hard_labels": 0.1},
    },
    "routing": {
        "teachers": ["gpt2", "neox", "qwen2"],
        "align": {"layer_mapping_strategy": "uniform"},
        "fuse": {
            "space": "losses",
            "fusion_method": "learnable",
            "temperature": 0.7,
            "entropy_reg_strength": 0.5,
        },
        "loss": {"outcome_every": 2},
        "output": {
            "likelihood": 1.0,
            "projected_kl": 1.0,
            "hybrid_ot": 1.0,
            "ot_top_k": 8,
        },
    },
    "z_space": {
        "teachers": ["neox", "gpt2"],
        "fuse": {"space": "z", "z_dim": 8, "fusion_method": "learnable"},
        "loss": {"outcome_every": 1},
        "train": {"steps": 2},
    },
}
CONFIG: dict[str, Any] = {
    # weights at which a ten-thousandth of each shows in the loss
    "loss": {"beta_cos": 1.0, "gamma_kl": 3.0},
    "data": {"max_length": 48, "eval_samples": 2, "train_samples": 24},
    "train": {
        "steps": 3,
        "batch_size": 3,
        "grad_accum": 2,
        "calibration_samples": 12,
        "warmup_steps": 1,
        "log_every": 1,
        "engine": "torch",
    },
    "baselines": {"ce_only": False, "single_teachers": "none"},
}


def widen() -> None:
    """Let everything that asks for float32 from now on get float64.

    So the run goes its usual way, at a width in which no order of summing shows.
    """
    torch.set_default_dtype(torch.float64)
    np.float32 = np.float64  # type: ignore[misc]
    torch.float32 = torch.float = torch.float64  # type: ignore[misc]
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def hashed(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Numbers in [-1, 1) that depend on their places alone: splitmix64."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    values = (x >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1
    return torch.from_numpy(values).reshape(shape)


def save_model(folder: Path, name: str) -> None:
    """Write one of :data:`FAMILIES` with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.small_tokenizers import small

    tokenizer_name, family, sizes = FAMILIES[name]
    tokenizer = small(tokenizer_name)
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        **sizes,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = hashed(tuple(weight.shape), zlib.crc32(f"{name} {key}".encode()))
            if weight.dim() > 1:  # a product is about as large as what goes in
                weight.copy_(noise * (3 / weight.shape[-1]) ** 0.5)
            else:  # norms' scales are left about 1, biases about 0
                weight.add_(noise * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(folder: Path) -> list[Line]:
    """Make models and texts in an empty folder and train on them.

    Raises:
        RuntimeError: the run failed; with all it said.
    """
    from experiments.cli import main
    from experiments.report import alignment, figures
    from tests.small_tokenizers import sections

    # Losses alone are looked at: no picture is drawn, no garbage sought in libraries.
    figures.draw_run = lambda run, folder=None: []
    alignment.draw_what_meets = lambda run: None
    gc.freeze()
    for name in FAMILIES:
        save_model(folder / name, name)
    texts = [folder / "news.txt", folder / "code.txt"]
    for path in texts:
        path.write_bytes(sections()[path.stem].encode())
    config = CONFIG | {
        "run": {"name": "run", "dir": str(folder)},
        "student": {"model": str(folder / "student")},
        "teachers": {
            name: {"model": str(folder / name)}
            for name in FAMILIES
            if name != "student"
        },
        "data": CONFIG["data"] | {"train": list(map(str, texts))},
        "samples": {"prompts": 0},
        "phases": list(PHASES),
        "phase": PHASES,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(["train", str(path), "--debug"])
    if code:
        raise RuntimeError(f"the run failed:\n{said.getvalue()}")
    return [*_lines((folder / "run" / "metrics.jsonl").read_text(encoding="utf-8"))]


def _lines(metrics: str) -> Iterator[Line]:
    for line in map(json.loads, metrics.splitlines()):
        if line["kind"] == "train":
            values = {"loss": line["loss"], **line["terms"]}
            values |= {"gradient norm": line["grad_norm"]}
            rounded = {name: float(f"{value:.10g}") for name, value in values.items()}
            yield {"phase": line["phase"], "step": line["step"], **rounded}


def differences(before: Sequence[Line], now: Sequence[Line]) -> list[str]:
    """What is not as it was, a sentence each; empty where all is equal."""
    old = {(line["phase"], line["step"]): line for line in before}
    new = {(line["phase"], line["step"]): line for line in now}
    out = []
    for place in [*old, *(place for place in new if place not in old)]:
        was, is_ = old.get(place, {}), new.get(place, {})
        for name in [*was, *(name for name in is_ if name not in was)]:
            if name in ("phase", "step"):
                continue
            a, b = was.get(name), is_.get(name)
            if a is None or b is None or not abs(a - b) <= RELATIVE * abs(a):
                out.append(f"{place[0]}, step {place[1]}, {name}: was {a}, is {b}")
    return out


def main(arguments: Sequence[str]) -> int:
    """Train, and compare with the numbers in the repository or replace them."""
    if not {*arguments} <= {"--write"}:
        print(f"{' '.join(arguments)!r} is not known; give --write, or nothing")
        return 2
    with redirect_stdout(io.StringIO()):
        # These tell float32 from float64 by the names as they stand when imported.
        import accelerate  # noqa: F401
        import safetensors.torch  # noqa: F401
        import transformers  # noqa: F401

    widen()
    with tempfile.TemporaryDirectory() as folder:
        now = train(Path(folder))
    before = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else []
    changed = differences(before, now)
    print("\n".join(changed) or f"{len(now)} steps, all losses as they were")
    if "--write" in arguments:
        NUMBERS.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return 0
    if changed:
        print(
            "Losses are not what they were. Where only a name is new, give it to the "
            f"numbers in {NUMBERS.name}; where a change is meant, run "
            "`make same-losses ARGS=--write` and say in the commit why"
        )
    return int(bool(changed))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main(sys.argv[1:]))
