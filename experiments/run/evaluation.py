"""What a run measures of a student: held-out bits per character, and its KV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from align.errors import InputError
from align.foreign.quote import say
from align.text.documents import TextSample
from experiments.assemble.data import Encoder
from experiments.record.run_dir import MAIN
from experiments.routing_room.foretold import texts_by_domain
from experiments.routing_room.read import room_by_domain
from experiments.routing_room.words import gain_warnings
from experiments.run.context import RunContext
from student.evaluate import bits_per_char, kv_health
from teacher.capture.kv_capture import KVCapture


def evaluate(
    run: RunContext,
    capture: KVCapture,
    title: str,
    encode: Encoder | None = None,
    samples: Sequence[TextSample] | None = None,
) -> dict[str, float]:
    """Bits per character by domain, of a student unless told otherwise.

    Args:
        run: what all arms share.
        capture: the model.
        title: of the progress bar.
        encode: None: the student's tokenizer.
        samples: None: the held-out text.
    """
    texts = run.data.eval if samples is None else samples
    threads = _threads(run)
    # A teacher's vocabulary may be large: no more logits at once than one thread's.
    size = 16 if encode is None else 16 // threads
    batches = -(-len(texts) // size)
    read = encode or run.models.encode
    return bits_per_char(
        capture,
        lambda texts: read(texts).to(run.engine.device),
        texts,
        batch_size=size,
        progress=lambda items: run.progress.over(items, title, batches),
        threads=threads,
    )


def _threads(run: RunContext) -> int:
    """Two where products take one, as in training, where the other thread reads ahead.

    Not where a teacher's forward takes all processes, which must talk in one order.
    """
    alone = torch.get_num_threads() == 1 and run.engine.device.type == "cpu"
    return 2 if alone and not run.models.sharded else 1


@torch.no_grad()
def measure_health(
    encode: Encoder,
    device: torch.device,
    capture: KVCapture,
    texts: Sequence[str],
    most: int | None = None,
) -> dict[str, float]:
    """Spread and effective rank of a student's KV, see ``kv_health``."""
    batch = encode(texts).to(device)
    return asdict(kv_health(capture(batch.ids, batch.mask).kv, most))


def teachers_alone(run: RunContext) -> dict[str, dict[str, float]]:
    """Every decoder teacher's own held-out bits per character."""
    bits = {}
    for name, teacher in run.models.standing.items():
        if teacher.predicts:
            encode, title = Encoder.of_teacher(teacher), f"measuring {name}"
            bits[name] = evaluate(run, teacher.capture, title, encode)
    return bits


def tell_routing_room(run: RunContext) -> dict[str, Any]:
    """Say on the console, and for the report, what a router could gain in a run.

    Returns:
        For the summary; empty where fewer than two live teachers predict text.
    """
    teachers = {n: t for n, t in run.models.standing.items() if t.predicts}
    if len(teachers) < 2:
        return {}

    domains = iter(texts_by_domain(run.data.eval))

    def shown(starts: Iterable[int]) -> Iterable[int]:
        every, title = list(starts), f"what routing could gain in {next(domains)}"
        return run.progress.over(every, title, len(every))

    try:
        others = run.models.live.keys() - run.models.standing.keys()
        every = {n: t for n, t in run.models.teachers.items() if n not in others}
        room = room_by_domain(every, run.data.eval, shown)
    except InputError as error:  # a look beforehand stops no run
        say(f"warning: {error}")
        return {}
    plain = room.plain()
    for warning in gain_warnings(plain) if run.engine.is_main else ():
        say(warning)
        event = {"kind": "event", "step": 0, "event": warning}
        run.metrics.write_once(MAIN, run.config.phases[0], event)
    return plain
