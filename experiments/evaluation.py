"""What a run measures of a student: held-out bits per character, and its KV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from align.text import TextSample
from experiments.data import Encoder
from experiments.run_parts import Bench
from student.evaluate import bits_per_char, kv_health
from teacher.capture import KVCapture


def evaluate(
    bench: Bench,
    capture: KVCapture,
    title: str,
    encode: Encoder | None = None,
    samples: Sequence[TextSample] | None = None,
) -> dict[str, float]:
    """Bits per character by domain, of a student unless told otherwise.

    Args:
        bench: what all arms share.
        capture: the model.
        title: of the progress bar.
        encode: None: the student's tokenizer.
        samples: None: the held-out text.
    """
    texts = bench.data.eval if samples is None else samples
    batches = -(-len(texts) // 16)
    read = encode or bench.models.encode
    return bits_per_char(
        capture,
        lambda texts: read(texts).to(bench.engine.device),
        texts,
        batch_size=16,
        progress=lambda items: bench.progress.over(items, title, batches),
    )


def measure_gate(
    bench: Bench, capture: KVCapture, title: str
) -> dict[str, dict[str, float]]:
    """What the gate's own text says of a student; nothing where there is none."""
    if not bench.data.gate:
        return {}
    found = evaluate(bench, capture, f"{title} for the gate", None, bench.data.gate)
    return {"gate_bpc": bench.engine.from_main(lambda: found)}


@torch.no_grad()
def measure_health(
    bench: Bench, capture: KVCapture, texts: Sequence[str], most: int | None = None
) -> dict[str, float]:
    """Spread and effective rank of a student's KV, see ``kv_health``."""
    batch = bench.models.encode(texts).to(bench.engine.device)
    return asdict(kv_health(capture(batch.ids, batch.mask).kv, most))


def starting_point(bench: Bench) -> dict[str, dict[str, float]]:
    """What is measured of the student before any training."""
    capture = KVCapture(bench.models.student(None).to(bench.engine.device))
    title = "measuring the untrained student"
    bpc = evaluate(bench, capture, title)
    found = {"bpc": bench.engine.from_main(lambda: bpc)}
    return found | measure_gate(bench, capture, title)


def teachers_alone(bench: Bench) -> dict[str, dict[str, float]]:
    """Every decoder teacher's own held-out bits per character."""
    found = {}
    for name in bench.config.teachers:
        loaded, capture = bench.models.teacher(name)
        if capture.causal and capture.has_logits:
            encode = Encoder(loaded.tokenizer, None)
            found[name] = evaluate(bench, capture, f"measuring {name}", encode)
    return found
