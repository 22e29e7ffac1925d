"""Extraction beside forward passes, writing and reading beside plain files, memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import torch

from align.text.documents import TextSample
from align.tokens.batch import encode_batch
from experiments.bench.measure import Bar, paired_ratio
from experiments.extraction.forms import RawForm
from teacher.extract_teacher_kv import TeacherKVExtractor
from teacher.loading.models import LoadedModel
from teacher.store import Encoding, KVStore, Plan, StoreWriter, open_store
from teacher.store.manifest import Sample, Shape
from teacher.store.packing import EncodedSample, StoredSample
from teacher.store.reader import all_origins

LAYERS, TOKENS, WIDTH, SAMPLES = 24, 512, 256, 16
SOME = (0, 8, 16, 23)
"""A sample of 12 MiB in bfloat16: one text of a middle-sized teacher."""


def costs() -> list[Bar]:
    """Measure all bars of time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        return [
            _extraction(place / "extraction"),
            *_writing(place / "writing"),
            *_reading(place / "reading"),
            *_memory(place / "memory"),
        ]


def wall_ratio(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    afterwards: Callable[[], object],
    rounds: int = 15,
) -> float:
    """As :func:`paired_ratio` in wall time, for work that waits for a disk.

    Args:
        candidate: what is measured.
        baseline: what it is measured against.
        afterwards: called after each of them, outside the measured time.
        rounds: pairs of calls, in alternating order.
    """
    took: dict[Callable[[], object], list[float]] = {candidate: [], baseline: []}
    for turn in range(rounds + 1):
        for work in (candidate, baseline) if turn % 2 else (baseline, candidate):
            start = time.perf_counter()
            work()
            took[work].append(time.perf_counter() - start)
            afterwards()
    pairs = list(zip(took[candidate], took[baseline], strict=True))[1:]
    return statistics.median(ours / theirs for ours, theirs in pairs)


def _extraction(folder: Path) -> Bar:
    """Processor time of everything, on whichever core, against the forward passes.

    Extraction writes one shard while it computes the next, so that on an idle second
    core less than this shows.
    """
    loaded = _teacher()
    texts = [TextSample("word " * 127, "a", str(n)) for n in range(16)]
    extractor = TeacherKVExtractor(loaded, batch_size=8, device="cpu")
    form = RawForm(extractor, False, None)
    capture = extractor.capture
    plan = _plan(capture.num_layers, capture.num_kv_heads * capture.k_dim, len(texts))
    writer, count = open_store(folder, plan), iter(range(1000))

    def whole() -> None:
        rows = [_row(writer, sample) for sample in form(texts)]
        writer.write(next(count), 0, rows)

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, len(texts), 8):
            chosen = [text.text for text in texts[start : start + 8]]
            batch = encode_batch(loaded.tokenizer, chosen)
            capture(batch.ids, batch.mask)

    ratio = paired_ratio(whole, bare, 15)
    return Bar("extraction / captured forward passes", ratio, 1.1)


def _writing(folder: Path) -> list[Bar]:
    """Wall time until the disk has all; ours digests, records and renames as well."""
    writer = open_store(folder, _plan(LAYERS, WIDTH, SAMPLES))
    rows = [_row(writer, sample) for sample in _samples()]
    pieces = [
        memoryview(t.view(torch.uint8).numpy().data)
        for _, row in rows
        for fields in row.parts.values()
        for t in fields.values()
    ]

    def ours() -> None:
        writer.write(0, 0, rows)

    def raw() -> None:
        with (folder / "kv-raw").open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def digest() -> None:
        made = hashlib.sha256()
        for piece in pieces:
            made.update(piece)

    def digested() -> None:
        other = Thread(target=digest)
        other.start()
        raw()
        other.join()

    def clear() -> None:
        for file in folder.glob("kv-*"):
            file.unlink()

    return [
        Bar("writing / raw file", wall_ratio(ours, raw, clear), 1.25),
        Bar(
            "writing / raw file that is digested",
            wall_ratio(ours, digested, clear),
            1.25,
        ),
    ]


def _reading(folder: Path) -> list[Bar]:
    """Processor time of bringing samples into a buffer, as a batch is filled."""
    writer = open_store(folder, _plan(LAYERS, WIDTH, SAMPLES))
    writer.write(0, 0, [_row(writer, sample) for sample in _samples()])
    writer.finish()
    store = KVStore(folder)
    (data,) = store.manifest.data
    file = os.open(folder / data.file, os.O_RDONLY)
    rng = random.Random(0)
    picks = [rng.randrange(SAMPLES) for _ in range(20)]
    buffers = torch.empty(2, LAYERS, TOKENS, WIDTH, dtype=torch.bfloat16)
    k, v = (memoryview(b.view(torch.uint8).numpy().data).cast("B") for b in buffers)

    def ours() -> None:
        for pick in picks:
            sample = store.read_sample(pick)
            buffers[0], buffers[1] = sample.k, sample.v

    def raw() -> None:
        for pick in picks:
            os.preadv(file, [k], pick * len(k))
            os.preadv(file, [v], (SAMPLES + pick) * len(k))

    def some() -> None:
        for pick in picks:
            store.read_sample(pick, layers=SOME)  # joins them, hence copies them once

    share = len(SOME) / LAYERS
    bars = [
        Bar("random sample / pread", paired_ratio(ours, raw, 15), 1.5),
        Bar("4 of 24 layers / all layers", paired_ratio(some, ours, 15), share * 1.5),
    ]
    os.close(file)
    return bars


def _memory(folder: Path) -> list[Bar]:
    """Peak memory of whole extractions of one, four and sixteen times the text."""
    folder.mkdir()
    small = _teacher(width=32, layers=2)
    small.model.save_pretrained(folder / "model")
    small.tokenizer.save_pretrained(folder / "model")
    peaks = {times: _peak(folder, times) for times in (1, 4, 16)}
    return [
        Bar(f"peak memory, {times} x text / 1 x", peaks[times] / peaks[1], 1.05)
        for times in (4, 16)
    ]


def _peak(folder: Path, times: int) -> int:
    """Bytes, of `mtkd extract` in a process of its own."""
    text = folder / f"{times}.jsonl"
    line = json.dumps({"text": "word and word, word. " * 8})
    text.write_text("".join(f"{line}\n" for _ in range(60 * times)))
    words = ["extract", f"run.name=r{times}", f"store.dir={folder}"]
    words += [f"student.model={folder / 'model'}", f"data.train=[{text}]"]
    words += [f"teachers={{a: {{model: {folder / 'model'}}}, b: {folder / 'model'}}}"]
    words += ["phases=[dual]", "store.shard_samples=16", "data.max_length=64"]
    code = (
        "import sys; from align.support.process_memory import highest; "
        "from experiments.cli import main; code = main(sys.argv[1:]); "
        "print(highest()); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split()[-1])


def _plan(layers: int, width: int, samples: int) -> Plan:
    return Plan(
        form="raw",
        shape=Shape(layers=layers, heads=4, k_width=width, v_width=width),
        encoding=Encoding(name="bfloat16"),
        fingerprint={},
        samples=samples,
        shard_samples=samples,
    )


def _samples() -> list[StoredSample]:
    generator = torch.Generator().manual_seed(0)
    shape = (LAYERS, TOKENS, WIDTH)
    origin = all_origins(TOKENS)
    return [
        StoredSample(
            torch.randn(shape, generator=generator).bfloat16(),
            torch.randn(shape, generator=generator).bfloat16(),
            origin,
        )
        for _ in range(SAMPLES)
    ]


def _row(writer: StoreWriter, made: StoredSample | str) -> tuple[Sample, EncodedSample]:
    assert isinstance(made, StoredSample)
    return Sample(tokens=made.k.shape[1]), writer.encode(made)


def _teacher(width: int = 512, layers: int = 6) -> LoadedModel:
    """A random GPT-2, by default of a width at which arithmetic decides."""
    import tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]")
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[UNK]")
    config = GPT2Config(
        vocab_size=16, n_positions=128, n_embd=width, n_layer=layers, n_head=8
    )
    return LoadedModel(GPT2LMHeadModel(config).eval(), tokenizer, "decoder", "bench")
