"""Bytes against error: every encoding of the zoo's teachers, raw and student-ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments.bench.measure import Bar
from experiments.config.tree import load_config
from experiments.extraction.context import (
    ExtractionContext,
    open_extraction,
    replace_store,
)
from experiments.extraction.encoding_error import encoding_errors
from experiments.extraction.sources import Source, sources_of, student_space
from teacher.store.encoding import (
    ChannelConstants,
    Codec,
    bytes_per_sample,
    measure_constants,
)
from teacher.store.manifest import Encoding
from teacher.store.packing import StoredSample
from teacher.store.records import codecs_of, sample_bytes

TEACHERS = 3  # the first of a scale, all of them causal
ENCODINGS = ("bfloat16", "int8", "int4", "lowrank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One way to store the run's teachers."""

    form: str
    encoding: str
    bytes_per_text: float
    """All teachers together, headers aside."""
    k: float
    """Relative error of keys, the worst teacher's."""
    v: float
    attention_kl: float


def sizes(scale: str, picture: Path | None) -> list[Bar]:
    """Measure the bars of size and error, print the curve, and draw it.

    Args:
        scale: of the zoo.
        picture: PNG to write; None for none.
    """
    from teacher.zoo import build_zoo
    from teacher.zoo.recipes import recipes

    teachers = list(recipes(scale))[:TEACHERS]
    # The zoo's student is untrained: its attention is flat, and any error vanishes in
    # it. Where there is a trained model with its tokenizer, that one reads.
    student = "llama-twin" if scale == "strong" else "student"
    prefix = "" if scale == "default" else f"{scale}/"
    config = load_config(
        {
            "student": {"model": f"zoo:{prefix}{student}"},
            "teachers": {name: f"zoo:{prefix}{name}" for name in teachers},
            "data": {"train": ["zoo"], "train_samples": 16},
            "phases": ["multi_basic"],
            "phase": {"all": {"fuse": {"space": "student"}}},
        }
    )
    build_zoo([*teachers, student], scale=scale)
    extraction = open_extraction(config)
    points = {(p.form, p.encoding): p for p in _points(extraction)}
    _print(list(points.values()))
    if picture is not None:
        _draw(list(points.values()), picture)
    raw, ready = points["raw", "bfloat16"], points["fused", "int8"]
    int8 = points["raw", "int8"]
    content, rotated = _rotation(extraction, f"zoo:{prefix}qwen-code")
    return [
        Bar("int8 / bfloat16, bytes at 512 tokens", _int8_share(512), 0.51),
        Bar("int8, relative error of keys in %", 100 * int8.k, 0.7),
        Bar("int8, relative error of values in %", 100 * int8.v, 0.7),
        Bar("int8 error, content / rotated keys", content / rotated, 1.0),
        Bar(
            "student-ready int8 / raw bf16",
            ready.bytes_per_text / raw.bytes_per_text,
            1 / 8,
        ),
        Bar("student-ready int8, attention KL", ready.attention_kl, 1e-2),
    ]


def _points(extraction: ExtractionContext) -> Iterator[Point]:
    faculties: dict[tuple[str, ...], Any] = {}
    for form in ("raw", "fused"):
        config = replace_store(extraction.config, form=form, encoding="float32")
        sources = sources_of(replace(extraction, config=config))
        shapes = [source.plan.shape for source in sources]
        narrowest = min(min(shape.k_width, shape.v_width) for shape in shapes)
        for encoding in ENCODINGS:
            rank = narrowest // 2 if encoding == "lowrank" else None
            total, errors = 0.0, []
            for source in sources:
                settings = Encoding.model_validate({"name": encoding, "rank": rank})
                chosen = replace(
                    source, plan=source.plan.model_copy(update={"encoding": settings})
                )
                if source.teachers not in faculties:
                    faculties[source.teachers] = student_space(
                        extraction, source.teachers
                    )
                constants = chosen.measure(extraction.corpus.probe)
                errors.append(
                    encoding_errors(
                        extraction, chosen, constants, faculties[source.teachers]
                    )
                )
                total += _bytes(chosen, constants, extraction)
            worst = {key: max(error[key] for error in errors) for key in errors[0]}
            yield Point(form=form, encoding=encoding, bytes_per_text=total, **worst)


def _int8_share(tokens: int) -> float:
    """Bytes of int8 beside bfloat16; steps weigh more in shorter texts."""
    width = 256
    plain = Codec(Encoding(name="bfloat16"), width)
    int8 = Codec(Encoding(name="int8"), width, ChannelConstants(torch.zeros(1, width)))
    return bytes_per_sample(int8, 1, tokens) / bytes_per_sample(plain, 1, tokens)


def _bytes(source: Source, constants: Any, extraction: ExtractionContext) -> float:
    codecs = codecs_of(source.plan, constants)
    made = [
        m for m in source.form(extraction.corpus.probe) if isinstance(m, StoredSample)
    ]
    layers = source.plan.shape.layers
    return sum(
        sample_bytes(codecs, layers, sample.k.shape[1]) for sample in made
    ) / len(made)


@torch.no_grad()
def _rotation(extraction: ExtractionContext, name: str) -> tuple[float, float]:
    """Relative int8 error of one rotary teacher's keys before and after rotation."""
    from align import encode_batch, rotary_table, rotate
    from teacher.capture.kv_capture import KVCapture
    from teacher.loading.models import load_model

    loaded = load_model(name)
    capture = KVCapture(loaded.model)
    table: Any = loaded.model.base_model
    kinds: dict[str, list[torch.Tensor]] = {"content": [], "rotated": []}
    for sample in extraction.corpus.probe[:24]:
        batch = encode_batch(loaded.tokenizer, [sample.text])
        kv = capture(batch.ids, batch.mask).kv
        positions = torch.arange(kv.num_tokens)
        turned = rotate(kv.k, *rotary_table(table.rotary_emb.inv_freq, positions))
        for kind, k in (("content", kv.k), ("rotated", turned)):
            kinds[kind].append(k.transpose(2, 3).flatten(3)[:, 0])
    errors = []
    for every in kinds.values():
        constants = measure_constants(torch.cat([k[:, 1:] for k in every], 1))
        codec = Codec(Encoding(name="int8"), every[0].shape[-1], constants)
        off = size = 0.0
        for k in every:
            back = codec.decode(codec.encode(k), None)
            off += float((back - k)[:, 1:].square().sum())
            size += float(k[:, 1:].square().sum())
        errors.append((off / size) ** 0.5)
    return errors[0], errors[1]


def _print(points: Sequence[Point]) -> None:
    print(
        f"{'form':<9}{'encoding':<10}{'KiB/text':>9}{'error K':>10}{'error V':>10}",
        end="",
    )
    print(f"{'attention KL':>14}")
    for p in points:
        print(
            f"{p.form:<9}{p.encoding:<10}{p.bytes_per_text / 1024:>9.1f}"
            f"{p.k:>10.3%}{p.v:>10.3%}{p.attention_kl:>14.1e}"
        )
    print()


def _draw(points: Sequence[Point], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for form, marker in (("raw", "o"), ("fused", "s")):
        of_form = [p for p in points if p.form == form]
        x = [p.bytes_per_text / 1024 for p in of_form]
        y = [max(p.attention_kl, 1e-12) for p in of_form]
        axes.plot(x, y, marker, label=form, markersize=8)
        for p, left, low in zip(of_form, x, y, strict=True):
            axes.annotate(p.encoding, (left, low), (6, 4), textcoords="offset points")
    axes.axhline(1e-2, color="grey", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="KiB per text, all teachers")
    axes.margins(0.15)  # room for the words beside the last point
    ticks = [25 * 2**n for n in range(8)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter("")
    axes.set_ylabel("KL of the student's attention, nats")
    axes.legend(title="what a shard holds")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
