"""Measure the students that a run has left, or any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from align.errors import InputError, MissingFileError, MtkdError
from align.support.quiet import quiet_libraries
from align.text.documents import TextSample
from align.tokens.cut import Reader
from experiments.assemble.data import (
    Encoder,
    at_most,
    cutter_of,
    held_out_text,
    load_data,
)
from experiments.assemble.lengths import PLACE, TEXTS
from experiments.assemble.text_sources import (
    ZOO,
    Reading,
    check_sources,
    left_out,
    tell,
)
from experiments.config.tree import Config, load_kept_config
from experiments.record.history import read_json
from experiments.record.progress import Progress, waiting
from experiments.record.seals import warn_unsealed
from experiments.record.students import students_of
from experiments.record.which_run import is_run
from experiments.run.lineage import held_out_changed, samples_digest
from experiments.sources.named import described_by, source_of, stored_facts
from experiments.texts.cuts import refuse_lost
from student.evaluate import Encode, bits_per_char
from teacher.capture.pair_capture import capture_of, decoder_start, start_of_folder
from teacher.loading.models import LoadedModel, load_model
from teacher.loading.tokenizer import load_tokenizer
from teacher.loading.vouched import check_vouched
from teacher.names import model_source
from teacher.store.facts import TOKENIZERS

BATCH = 16
"""Texts per forward pass."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model that is there, with the text it is to be measured on."""

    name: str
    source: str
    """As it was named: a folder, a hub name or ``zoo:NAME``."""
    loaded: LoadedModel
    encode: Encoder
    samples: Sequence[TextSample]


Measuring = Callable[[Opened, bool], T]
"""From a model, and whether to show how far it is, to what is measured of it."""


def measure(
    name: str,
    data: Sequence[str] | None = None,
    progress: bool = True,
    like: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Measure a run's students, or one model that need not be of a run.

    Args:
        name: a run's folder, a model's folder, a hub name or ``zoo:NAME``.
        data: held-out text, ``domain=path`` or paths; a run has its own.
        like: a run, on whose pieces of text a model is measured.
        progress: show how far it is.

    Returns:
        Bits per character by domain, by the student's place in the run, or by the
        model's name.

    Raises:
        ValueError: neither a run nor a causal model, no student, or no text.
    """
    return measure_by(_bits, name, data, progress, like)


def measure_by(
    measuring: Measuring[T],
    name: str,
    data: Sequence[str] | None = None,
    progress: bool = True,
    like: Path | None = None,
) -> dict[str, T]:
    """The same by any measure.

    Args:
        measuring: asked of every student, or of the one model, in turn.
        name: as the others, see :func:`measure`.
        data: see there.
        progress: see there.
        like: see there.
    """
    if is_run(name):
        return measure_run(Path(name).expanduser(), data, progress, measuring)
    return measure_model(name, data, progress, like, measuring)


def measure_run(
    run: Path,
    data: Sequence[str] | None = None,
    progress: bool = True,
    measuring: Measuring[Any] | None = None,
) -> dict[str, Any]:
    """Measure every phase's student, and the last student of every baseline.

    Args:
        run: the run's folder, with its config.yaml.
        data: held-out text in place of the run's own, ``domain=path`` or paths.
        progress: show how far it is.
        measuring: None: bits per character.

    Returns:
        Bits per character by domain, or what else is measured, by the student's place
        in the run.

    Raises:
        ValueError: no run, no student, or no text.
    """
    folders = students_of(run)
    warn_unsealed(run)
    config = _with_text(load_kept_config(run / "config.yaml"), data)
    results: dict[str, Any] = {}
    samples: list[TextSample] = []
    for name, folder in folders.items():
        loaded, encode = open_model(name, str(folder), config, progress)
        # all students of a run share one tokenizer, hence one cut of the text
        if not samples:
            samples = _measured(config, encode, readers_of(run, config))
            if data is None:
                tell(held_out_changed(run, config, samples_digest(samples)))
        opened = Opened(
            name=name,
            source=str(folder),
            loaded=loaded,
            encode=encode,
            samples=samples,
        )
        results[name] = (measuring or _bits)(opened, progress)
    return results


def measure_model(
    name: str,
    data: Sequence[str] | None,
    progress: bool = True,
    like: Path | None = None,
    measuring: Measuring[Any] | None = None,
) -> dict[str, Any]:
    """Measure one causal model on given text, as a run measures its students.

    Like a run, it reads the very pieces that the run's students are measured on, whole.
    Otherwise pieces are as long as the default ``data.max_length``, or as the model
    reads, and as many of a domain as the default ``data.eval_samples``.

    Args:
        name: see :func:`teacher.names.model_source`.
        data: held-out text, ``domain=path`` or paths; None: the run's.
        progress: show how far it is.
        like: a run's folder.
        measuring: None: bits per character.

    Returns:
        Bits per character by domain, or what else is measured, by the model's name.

    Raises:
        ValueError: no text, or a model that predicts no next token, or that reads
            less than the pieces have.
    """
    measured = measuring or _bits
    if like is not None:
        return {name: measured(_opened_like(name, data, progress, like), progress)}
    if not data:
        beginnings = ("/", "./", "../", "~")
        if name.startswith(beginnings) and not Path(name).expanduser().exists():
            raise MissingFileError(
                f"there is no {name}; give a run's folder, a model's, or a hub name"
            )
        raise InputError(
            f"{name} is no run's folder, which would have held-out text of its own; "
            "give text by --data, such as --data news=news.txt, or a run's by --like"
        )
    config = _with_text(Config(), data)
    loaded, encode = open_model(name, name, config, progress)
    limit = capture_of(loaded.model).max_tokens
    if limit is not None and limit < config.data.max_length:
        encode = Encoder(loaded.tokenizer, limit, config.data.learn_end, encode.start)
    samples = _measured(config, encode)
    opened = Opened(
        name=name, source=name, loaded=loaded, encode=encode, samples=samples
    )
    return {name: measured(opened, progress)}


def _opened_like(
    name: str, data: Sequence[str] | None, progress: bool, run: Path
) -> Opened:
    student = str(next(iter(students_of(run).values())))
    warn_unsealed(run)
    check_vouched(student, student)
    config = _with_text(load_kept_config(run / "config.yaml"), data)
    tokenizer = load_tokenizer(student, student, {})
    start = start_of_folder(student)
    cut = Encoder(tokenizer, config.data.max_length, config.data.learn_end, start)
    samples = _measured(config, cut, readers_of(run, config))
    loaded, encode = open_model(name, name, config, progress)
    encode = encode.uncut()
    check_fits(
        name,
        loaded,
        encode,
        samples,
        where=f"as {run} cuts it",
        advice="without --like",
    )
    return Opened(name=name, source=name, loaded=loaded, encode=encode, samples=samples)


def check_fits(
    name: str,
    loaded: LoadedModel,
    encode: Encoder,
    samples: Sequence[TextSample],
    *,
    where: str,
    advice: str,
) -> None:
    """See that a model reads texts whole that were cut for another.

    Raises:
        InputError: one of them makes more tokens of it than it has positions.
    """
    limit = capture_of(loaded.model).max_tokens
    for sample in samples:
        tokens = int(encode([sample.text]).mask.sum())
        if limit is not None and tokens > limit:
            raise InputError(
                f"{name} has {limit} positions, but text {sample.id}, cut {where}, "
                f"makes {tokens} of its tokens; measure it {advice}"
            )


def _with_text(config: Config, data: Sequence[str] | None) -> Config:
    section = config.data if data is None else replace(config.data, eval=list(data))
    if section.eval:  # what was learned from is not read, and need not be here
        section = replace(section, train=[ZOO])
    check_sources(section)
    tell(left_out(section, "eval"))
    return replace(config, data=section)


def open_model(
    name: str, source: str, config: Config, progress: bool
) -> tuple[LoadedModel, Encoder]:
    """Load a causal model, and its tokenizer cut as a config says.

    Raises:
        InputError: it predicts no next token.
    """
    quiet_libraries()
    with waiting(f"loading {name}", progress):
        loaded = load_model(source, role="student")
    if loaded.kind == "encoder":
        raise InputError(
            f"{name} is an {loaded.kind}, which predicts no next token from those "
            "before it; give a causal language model, or an encoder-decoder"
        )
    section, start = config.data, decoder_start(loaded.model)
    return loaded, Encoder(
        loaded.tokenizer, section.max_length, section.learn_end, start
    )


def _bits(opened: Opened, progress: bool) -> dict[str, float]:
    device = settled(opened.loaded)
    batches = math.ceil(len(opened.samples) / BATCH)
    return bits_per_char(
        capture_of(opened.loaded.model),
        on(device, opened.encode),
        opened.samples,
        BATCH,
        partial(
            Progress(progress).over, title=f"measuring {opened.name}", total=batches
        ),
    )


def settled(loaded: LoadedModel) -> Any:
    """Put a model where it is measured, in evaluation mode; returns the device."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = loaded.model
    model.to(device).eval()
    return device


def _measured(
    config: Config, encode: Encoder, readers: Sequence[Reader] = ()
) -> list[TextSample]:
    """The held-out text of a run; text to learn from is read where it is part of it."""
    section, seed = config.data, config.run.seed
    if not section.eval:
        return load_data(section, encode, seed, teachers=readers).eval
    cutter = cutter_of(encode, readers)
    apart, _ = held_out_text(Reading(section), cutter, seed)
    samples = at_most(apart, section.eval_samples)
    if not samples:
        refuse_lost(cutter, encode)
        raise InputError(
            f"{', '.join(section.eval)} holds no text to measure on; give other text"
        )
    return samples


def readers_of(run: Path, config: Config) -> list[Reader]:
    """The teachers that limited how long the texts of a run are.

    Raises:
        ValueError: the tokenizer of one is no longer here, or the run names others.
    """
    limits: dict[str, int] = read_json(run / TEXTS)
    readers = []
    for name, limit in limits.items():
        if name not in config.teachers:
            raise InputError(
                f"{run / TEXTS} names {name!r}, which is no teacher of the run's "
                "config.yaml: one of them was changed; put it back, or give one "
                "student's folder in place of the run and text by --data"
            )
        stored = config.store_dir / TOKENIZERS / name
        kept = config.store.read and stored.is_dir()
        source = str(stored) if kept else config.teachers[name].model
        try:
            source = source if kept else _tokenizer_of(config, name)
            read = Encoder(load_tokenizer(name, str(model_source(source)), {}), None)
        except MtkdError as error:
            raise InputError(
                f"{run} cut its texts for teacher {name!r}, too; no tokenizer can "
                f"be read from {source} now: put it back there, or give one student's "
                f"folder, such as {next(iter(students_of(run).values()))}, in place of "
                "the run and text by --data"
            ) from error
        readers.append(Reader(f"{PLACE}{name}", read, limit))
    return readers


def _tokenizer_of(config: Config, name: str) -> str:
    """The model whose tokenizer a teacher has.

    A run's plugins are code that its folder names: who looks at it runs none of them.
    """
    source = source_of(config, name)
    if (stored := stored_facts(source)) is not None:
        return str(stored.tokenizer)
    model, vocabulary = described_by(config, source)
    return vocabulary or model


def on(device: Any, encode: Encoder) -> Encode:
    """An encoder whose batches lie on a device."""
    return lambda texts: encode(texts).to(device)
