"""The measurements behind ``short_texts``."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from align.text.documents import TextSample
from align.tokens.batch import TokenBatch
from experiments.assemble.data import Encoder
from experiments.bench.measure import paired_ratio
from experiments.bench.school import School
from experiments.bench.step.costs import drawn_model
from experiments.config.presets import builtin_presets, load_registry
from experiments.config.tree import load_config, resolve_phase
from student.loop.batches import BatchMaker
from student.loop.data_order import deal
from student.places import Share
from teacher.capture.kv_capture import KVCapture
from teacher.live_teacher import LiveTeacher
from teacher.zoo import DOMAINS, zoo_documents

TEACHERS = ("gpt2-prose", "qwen-code")
TOKENS, PASSES = 128, 8
FAMILIES = ("student", "gpt2-prose", "qwen-code", "neox-mixed")
LEAST = 1.5
_SENTENCE = re.compile(r"[^.\n]*[.\n]+")


def sentences(count: int) -> list[TextSample]:
    """Short texts: sentences and lines, with a paragraph now and then."""
    pieces: list[str] = []
    for domain in DOMAINS:
        for _, text in zoo_documents(domain, "student"):
            for number, paragraph in enumerate(text.split("\n\n")):
                short = [paragraph] if number % 8 == 0 else _SENTENCE.findall(paragraph)
                pieces += [piece.strip() for piece in short if len(piece.strip()) > 8]
            if len(pieces) > 4 * count:
                break
    step = max(1, len(pieces) // count)
    return [
        TextSample(piece, "short", str(number))
        for number, piece in enumerate(pieces[::step][:count])
    ]


def school_of(scale: str, samples: Sequence[TextSample], size: int) -> School:
    """A student and two teachers in one phase."""
    settings = ["phase.all.loss.outcome_every=0"]
    config = load_config(
        {"teachers": list(TEACHERS), "data": {"max_length": TOKENS}}, settings
    )
    registry = load_registry(config)
    student = drawn_model(scale, "student", False)
    loaded = {name: drawn_model(scale, name, False) for name in TEACHERS}
    return School(
        resolve_phase(config, "multi_basic", builtin_presets()),
        registry,
        student=student,
        teachers={
            name: LiveTeacher(name, model, KVCapture(model.model))
            for name, model in loaded.items()
        },
        encode=Encoder(student.tokenizer, TOKENS, learn_end=True),
        samples=samples,
        batch=size,
    )


def whole_step(school: School, maker: BatchMaker) -> None:
    """One optimiser step of several passes."""
    made = maker.by_step(PASSES)
    for number in range(PASSES):
        read = made(number)
        share = Share(read.places, read.counts, read.step)
        result = school.distiller(read.batch, read.views, read.rows, 1, False, share)
        result.loss.backward()
    school.optimizer.step()
    school.optimizer.zero_grad()


def packed_rows(batch: TokenBatch, width: int) -> list[list[int]]:
    """Rows of a batch whose texts fit together into full ones, longest first."""
    lengths = batch.mask.sum(1).tolist()
    bins: list[tuple[int, list[int]]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        fitting = [
            n for n, (used, _) in enumerate(bins) if used + lengths[row] <= width
        ]
        if not fitting:
            bins.append((lengths[row], [row]))
            continue
        fullest = max(fitting, key=lambda n: bins[n][0])
        used, members = bins[fullest]
        bins[fullest] = (used + lengths[row], [*members, row])
    return [members for _, members in bins]


def packed(batch: TokenBatch, rows: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Texts one behind the other: ids, labels, positions (B, T), mask (B, 1, T, T)."""
    lengths = batch.mask.sum(1).tolist()
    width = max(sum(lengths[row] for row in members) for members in rows)
    shape = (len(rows), width)
    ids, places = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape).long()
    labels, texts = torch.full(shape, -100), torch.full(shape, -1)
    for at, members in enumerate(rows):
        begin = 0
        for row in members:
            end = begin + lengths[row]
            ids[at, begin:end] = batch.ids[row, : lengths[row]]
            places[at, begin:end] = torch.arange(lengths[row])
            labels[at, begin + 1 : end] = ids[at, begin + 1 : end]
            texts[at, begin:end] = row
            begin = end
    causal = torch.ones(width, width).tril().bool()
    same = (texts[:, :, None] == texts[:, None, :]) & causal
    bias = torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)
    return ids, labels, places, bias[:, None], texts


def losses(model: Any, batch: TokenBatch) -> Tensor:
    """(B,) summed next-token losses of padded texts."""
    logits = model(batch.ids, attention_mask=batch.mask.long()).logits
    labels = batch.ids.masked_fill(~batch.mask, -100)[:, 1:]
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none")
    return nll.sum(1)


def packed_losses(model: Any, parts: tuple[Tensor, ...], count: int) -> Tensor:
    """The same of packed texts, in the order of the batch."""
    ids, labels, places, bias, texts = parts
    logits = model(ids, attention_mask=bias, position_ids=places).logits
    nll = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none"
    )
    return torch.zeros(count + 1).index_add(
        0, texts[:, 1:].flatten() % (count + 1), nll.flatten()
    )[:count]


def taken(batch: TokenBatch, rows: Sequence[int]) -> TokenBatch:
    """Some rows of a batch, without columns that pad them all."""
    width = int(batch.mask[rows].sum(1).max())
    return TokenBatch(
        batch.ids[rows, :width],
        batch.mask[rows, :width],
        batch.spans[rows, :width],
        tuple(batch.texts[row] for row in rows),
    )


def bare_ways(school: School, maker: BatchMaker) -> dict[str, Callable[[], None]]:
    """The student alone: passes as they come, dealt, and packed rows."""
    model = school.distiller.student
    size = maker.batch_size
    batch = maker.encode([sample.text for sample in maker.samples[: size * PASSES]])
    plain = [list(range(n, n + size)) for n in range(0, size * PASSES, size)]
    dealt = deal(batch.mask.sum(1).tolist(), PASSES, 1, size)
    rows = packed_rows(batch, TOKENS)
    step = max(1, -(-len(rows) // PASSES))
    groups = [rows[n : n + step] for n in range(0, len(rows), step)]
    prepared = [packed(batch, group) for group in groups]

    def of(runs: Sequence[Sequence[int]]) -> Callable[[], None]:
        batches = [taken(batch, list(run)) for run in runs]

        def work() -> None:
            for part in batches:
                losses(model, part).sum().backward()
            model.zero_grad()

        return work

    def of_packed() -> None:
        for parts in prepared:
            packed_losses(model, parts, len(batch.ids)).sum().backward()
        model.zero_grad()

    return {"as they come": of(plain), "dealt": of(dealt), "packed": of_packed}


def errors(scale: str, samples: Sequence[TextSample]) -> Iterator[str]:
    """By family, how far losses beside other texts are from losses alone."""
    for name in FAMILIES:
        loaded = _model(scale, name)
        encode = Encoder(loaded.tokenizer, TOKENS, learn_end=True)
        batch = encode([sample.text for sample in samples[:32]])
        with torch.no_grad():
            alone = torch.cat(
                [losses(loaded.model, taken(batch, [n])) for n in range(32)]
            )
            together = torch.zeros(32)
            for run in deal(batch.mask.sum(1).tolist(), 4, 1, len(batch.ids) // 4):
                together[run] = losses(loaded.model, taken(batch, run))
            parts = packed(batch, packed_rows(batch, 2 * TOKENS))
            in_rows = packed_losses(loaded.model, parts, 32)
        tokens = (batch.mask.sum(1) - 1).clamp(min=1)
        dealt, packed_ = (
            float(((other - alone) / tokens).abs().max())
            for other in (together, in_rows)
        )
        yield f"{name:<12} dealt {dealt:.1e}   packed {packed_:.1e}"


@lru_cache
def _model(scale: str, name: str) -> Any:
    return drawn_model(scale, name, False)


def measure(scale: str, rounds: int, size: int) -> bool:
    """Print all, and say whether dealing keeps its bar."""
    samples = sentences(size * PASSES * 4)
    school = school_of(scale, samples, size)
    plain = school.maker
    dealt = replace(plain, dealt=PASSES)
    lengths = plain.encode([s.text for s in samples]).mask.sum(1).tolist()
    print(
        f"{len(samples)} texts of {min(lengths)} to {max(lengths)} tokens, median "
        f"{statistics.median(lengths):g}; steps of {PASSES} passes of {size}"
    )
    for name, maker in (("as they come", plain), ("dealt", dealt)):
        orders = [maker.order(number) for number in range(PASSES)]
        real = sum(int(order.batch.mask.sum()) for order in orders)
        padded = sum(order.batch.ids.numel() for order in orders)
        print(f"{name}: {real} tokens a step in {padded} places, {real / padded:.0%}")
    ratio = 1 / paired_ratio(
        lambda: whole_step(school, dealt), lambda: whole_step(school, plain), rounds
    )
    print(f"whole steps with {len(TEACHERS)} teachers: {ratio:.2f} x tokens/s, dealt")
    ways = bare_ways(school, plain)
    base = ways.pop("as they come")
    for name, work in ways.items():
        gain = 1 / paired_ratio(work, base, rounds)
        print(f"bare student: {gain:.2f} x tokens/s, {name}")
    print("largest difference of a text's loss from its loss alone, nats per token:")
    for line in errors(scale, samples):
        print(f"  {line}")
    print(f"bar: whole steps, dealt >= {LEAST}: {'pass' if ratio >= LEAST else 'MISS'}")
    return ratio >= LEAST
