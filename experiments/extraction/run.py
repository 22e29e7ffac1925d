"""Extract: every shard of a task's share, each teacher, written while computing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from align.errors import InputError, MtkdError
from align.foreign.quote import say
from align.text.documents import TextSample
from experiments.assemble.stored_teachers import save_tokenizer
from experiments.config.parsing import ConfigError
from experiments.config.tree import Config, save_config
from experiments.extraction.context import ExtractionContext, open_extraction
from experiments.extraction.encoding_error import encoding_errors, output_errors
from experiments.extraction.sources import Source, sources_of
from experiments.record.progress import Progress, waiting
from experiments.record.stop import StopRequest
from plugins.registry import Registry
from teacher.store import StoreWriter
from teacher.store.manifest import PLAN, Sample
from teacher.store.packing import EncodedSample, StoredSample
from teacher.store.reader import text_digest
from teacher.store.records import shard_ranges


class NonFiniteStopError(MtkdError, RuntimeError):
    """A teacher's KV were not finite, and the config says to stop."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What one task did."""

    made: int = 0
    """Shards written by this task, over all stores."""
    kept: int = 0
    """Shards that were there already."""
    elsewhere: int = 0
    """Shards that another task is making, or made first."""
    skipped: list[str] = field(default_factory=list)
    """Texts without KV: teacher, text and reason."""
    unfinished: dict[str, str] = field(default_factory=dict)
    """Stores that lack shards, and which."""
    stopped: bool = False
    """Whether a signal ended it early."""


def extract(
    config: Config,
    share: tuple[int, int] = (1, 1),
    *,
    registry: Registry | None = None,
    stop: StopRequest | None = None,
) -> Outcome:
    """Make the shards of one task that are missing.

    Args:
        config: the run whose teachers and text are stored.
        share: (i, n), this task's number from 1 and how many there are.
        registry: plugins; None loads the built-in and the installed ones.
        stop: asked between shards.

    Raises:
        ConfigError: no phase asks for what a store holds.
        StoreError: a store with another plan stands there.
        NoRoomError: the disk is full; finished shards are kept.
        NonFiniteStopError: a teacher's KV are not finite.
        ValueError: a model, a text or a setting cannot be used.
    """
    with waiting("loading models and planning the texts"):
        extraction = open_extraction(config, registry, begin=True)
        sources = sources_of(extraction)
    if not sources:
        raise ConfigError(
            "no phase learns from keys and values, and without store.top_k a store "
            "holds nothing else; store next-token outputs with store.top_k=64, train "
            "from live teachers (store.read=false), or give a term that compares keys "
            "and values a weight, such as loss.lambda_k"
        )
    for sentence in extraction.warnings:
        say(f"warning: {sentence}")
    with waiting("measuring what the encoding costs"):
        writers = [_open(extraction, source) for source in sources]
    save_config(extraction.config, config.store_dir / "config.yaml")
    for name in config.teachers:
        save_tokenizer(config, name, extraction.models.teacher(name).tokenizer)
    numbers = share_of(writers[0].plan.shards, share)
    outcome = Outcome()
    wanted = [n for n in numbers if any(w.record(n) is None for w in writers)]
    progress = Progress()
    rows = extraction.corpus.shards(config.store.shard_samples, wanted)
    with (
        _Background() as background,
        progress.work(_title(share), len(wanted)) as show,
    ):
        for done, (number, texts) in enumerate(rows):
            if stop is not None and stop():
                outcome.stopped = True
                break
            for source, writer in zip(sources, writers, strict=True):
                _shard(
                    source,
                    writer,
                    number,
                    texts=texts,
                    background=background,
                    outcome=outcome,
                )
            show(done + 1)
    outcome.kept = len(numbers) * len(writers) - outcome.made - outcome.elsewhere
    if not outcome.stopped:
        _finish(sources, writers, outcome)
    return outcome


def share_of(shards: int, share: tuple[int, int]) -> range:
    """The shards of task i of n: neighbours, so that it reads one stretch of text.

    Raises:
        ValueError: not 1 <= i <= n.
    """
    index, count = share
    if not 1 <= index <= count:
        raise InputError(
            f"--shard {index}/{count}: give i/n with 1 <= i <= n, such as 1/8 to 8/8"
        )
    return range((index - 1) * shards // count, index * shards // count)


def _open(extraction: ExtractionContext, source: Source) -> StoreWriter:
    """Begin a store; its first task also measures what the encoding costs."""
    if (source.path / PLAN).is_file():
        return source.open()
    source.path.mkdir(parents=True, exist_ok=True)
    constants = source.measure(extraction.corpus.probe)
    errors: dict[str, float] = {}
    if source.plan.encoding.name != "float32" and source.plan.shape.layers:
        errors |= encoding_errors(extraction, source, constants)
    if source.plan.outputs is not None:
        errors |= output_errors(source, extraction.corpus.probe)
    if not errors:
        return source.open(constants)
    facts = {**source.plan.facts, "errors": dict(errors)}
    plan = source.plan.model_copy(update={"facts": facts})
    return replace(source, plan=plan).open(constants)


def _shard(
    source: Source,
    writer: StoreWriter,
    number: int,
    *,
    texts: Sequence[TextSample],
    background: _Background,
    outcome: Outcome,
) -> None:
    """Run one teacher over one shard and hand the result on to be written."""
    if writer.record(number) is not None:
        return
    with ExitStack() as claim:
        if not claim.enter_context(writer.claim(number)):
            outcome.elsewhere += writer.record(number) is None
            return
        made = source.form(texts)
        problems = [
            f"{source.name}: {text.id}: {sample}"
            for text, sample in zip(texts, made, strict=True)
            if isinstance(sample, str)
        ]
        if problems and writer.plan.fingerprint["on_non_finite"] == "stop":
            raise NonFiniteStopError(
                f"{problems[0]}; check the teacher's weights, load it in a wider "
                "dtype, or set store.on_non_finite=skip to leave such texts out. "
                "Finished shards are kept"
            )
        outcome.skipped += problems
        first = writer.plan.span(number).start
        held = claim.pop_all()

        def write() -> None:
            with held:
                rows = [
                    _row(writer, text, sample)
                    for text, sample in zip(texts, made, strict=True)
                ]
                if writer.write(number, first, rows):
                    outcome.made += 1
                else:
                    outcome.elsewhere += 1

        background.submit(write)


def _row(
    writer: StoreWriter, text: TextSample, made: StoredSample | str
) -> tuple[Sample, EncodedSample]:
    reason = made if isinstance(made, str) else None
    stored = _nothing(writer) if isinstance(made, str) else made
    sample = Sample(
        tokens=stored.k.shape[1],
        text_sha256=text_digest(text.text),
        id=text.id,
        skipped=reason,
    )
    return sample, writer.encode(stored)


def _nothing(writer: StoreWriter) -> StoredSample:
    shape = writer.plan.shape
    return StoredSample(
        torch.zeros(shape.layers, 0, shape.k_width),
        torch.zeros(shape.layers, 0, shape.v_width),
        torch.zeros(0, dtype=torch.uint8),
        named=writer.codecs["o"].nothing() if "o" in writer.codecs else None,
    )


def _finish(
    sources: Sequence[Source], writers: Sequence[StoreWriter], outcome: Outcome
) -> None:
    """Write the manifests of stores that are whole, whoever made the last shard."""
    for source, writer in zip(sources, writers, strict=True):
        missing = writer.missing()
        if missing:
            outcome.unfinished[source.name] = shard_ranges(missing)
        else:
            writer.finish()


class _Background:
    """Writes one shard while the next one is computed; holds no third."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    def submit(self, work: object) -> None:
        """Queue a piece of work when the one before is done.

        Raises:
            OSError: what the one before raised.
        """
        self._wait()
        assert callable(work)
        self._pending = self._pool.submit(work)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _title(share: tuple[int, int]) -> str:
    index, count = share
    return "extracting" if count == 1 else f"extracting, task {index} of {count}"
