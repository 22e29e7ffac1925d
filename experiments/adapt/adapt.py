"""Give a model another vocabulary, train it there, and keep it with a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.foreign.marker import MARKER
from align.support.cache_folder import made_folder
from align.support.quiet import quiet_libraries
from experiments.adapt.plan import ORIGIN, Request, config_of
from experiments.config.presets import load_registry
from experiments.config.tree import Config
from experiments.config.zoo_names import build_named
from experiments.making.origin import origin_of
from experiments.record.history import read_json
from experiments.record.progress import waiting
from experiments.record.run_dir import SUMMARY
from experiments.run.driver import sum_up, train_arms
from experiments.run.opening import open_run
from experiments.run.plan import plan_run
from student.checkpoint import mark_complete, read_complete
from student.loop.launch import launched_rank
from teacher.adapt.transplant import save_transplanted
from teacher.loading.vocabulary import GivenVocabulary
from teacher.output_head import vocabulary_digest
from teacher.packages.manifest import (
    NAME,
    Adaptation,
    Manifest,
    read_manifest,
    write_manifest,
)


def adapt(request: Request, resume: str = "auto") -> Manifest:
    """Make a model that reads as another model's tokenizer does.

    What is done already is not done again, so the same call goes on with what was
    stopped.

    Args:
        request: which model, whose vocabulary, what is trained on what.
        resume: see :func:`experiments.run.plan.plan_run`.

    Returns:
        The manifest of the new model, which lies in the request's folder.

    Raises:
        InputError: a model that cannot be given that vocabulary, a folder that is there
            already, or settings that cannot be used.
        RunStopped: asked to stop; a checkpoint was written.
    """
    quiet_libraries()
    out = request.folder
    if out.exists():
        raise InputError(f"{out} is there already; give another folder with --out")
    config = config_of(request)
    plan = plan_run(config, load_registry(config), resume)
    with waiting("giving the model its new vocabulary", launched_rank() == 0):
        given = _given(request, config)
    with open_run(plan) as run:
        sum_up(run, train_arms(run))
        texts = dict(run.texts)
    manifest = _manifest_fields(request, config, texts)
    if launched_rank() == 0:
        _keep(out, config.run_dir / "student", manifest)
    return read_manifest(out) or given


def _given(request: Request, config: Config) -> Manifest:
    """The model with new rows, in the run's folder; made once."""
    from filelock import FileLock

    build_named([request.model, request.to])
    folder = Path(config.student.model)
    vocabulary = GivenVocabulary.of(request.to)
    origin = origin_of(request.model)
    lock = folder.with_name(".given.lock")
    with _kept_if_used(lock), FileLock(lock):
        before = read_manifest(folder)
        if before is not None:
            _check_same(before, request, origin, config.run_dir)
            return before
        return save_transplanted(request.model, vocabulary, folder, origin=origin)


@contextmanager
def _kept_if_used(lock: Path) -> Iterator[None]:
    """The folder of a lock, made; where what follows is refused, it goes again, and so
    do folders around it that were made for it."""
    folder = lock.parent
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            lock.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else has put something there
            for place in new:
                place.rmdir()
        raise


def _check_same(
    before: Manifest, request: Request, origin: Mapping[str, Any], run_dir: Path
) -> None:
    """See that a run that goes on began with this model and vocabulary.

    Raises:
        InputError: it did not.
    """
    asked = f"the vocabulary of {request.to}:"
    same = before.source == request.model and (
        before.source_sha256 == origin["source_sha256"]
    )
    if not same or asked not in before.conversion:
        raise InputError(
            f"{run_dir} holds a run that began with {before.source}, "
            f"{before.conversion}; give another --out, or another run.name"
        )


def _manifest_fields(
    request: Request, config: Config, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Of the finished model, from what the run has measured."""
    given = read_manifest(Path(config.student.model))
    assert given is not None, "the run began with it"
    summary = read_json(config.run_dir / SUMMARY)
    last = summary["phases"][-1]
    adaptation = Adaptation(
        vocabulary=request.to,
        vocabulary_sha256=vocabulary_digest(GivenVocabulary.of(request.to).tokenizer),
        steps=last["steps"],
        trained=request.parts,
        texts=dict(texts),
        run=str(config.run_dir),
        bits_origin=summary["teachers"][ORIGIN]["bpc"],
        bits_given=summary["start"],
        bits_adapted=last["bpc"],
    )
    kept = given.model_dump(exclude={"files", "adaptation", "making"})
    return kept | {"adaptation": adaptation}


def _keep(out: Path, student: Path, fields: Mapping[str, Any]) -> None:
    """Put the trained model where it was asked for, with its manifest, vouched for."""
    state = read_complete(student, digests=True) or {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with made_folder(out) as fresh:
        beside = shutil.ignore_patterns(NAME, MARKER)
        shutil.copytree(student, fresh, dirs_exist_ok=True, ignore=beside)
        write_manifest(fresh, **fields)
        mark_complete(fresh, state)
