"""Build the zoo once, keep it in a cache, and say what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from align.errors import InputError, MachineError, MissingFileError, meant
from align.foreign.marker import changed_file, files_in
from align.foreign.seal import DamageError, read_sealed, sealed_text
from align.support.cache_folder import cache_folder, made_folder, make_kept_folder
from align.support.digest import sha256_of
from teacher.zoo.recipes import ZooModel, recipes
from teacher.zoo.shipped import shipped
from teacher.zoo.shown import Shown, shown
from teacher.zoo.text import text_fingerprint

MANIFEST = "zoo.json"
"""Written last; a folder without it is no zoo model."""
_SAVING = threading.Lock()
_FORMAT = 1  # raise when training code changes what a recipe gives


def build_zoo(
    names: Iterable[str] | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    scale: str = "default",
    workers: int | None = None,
    fresh: bool = False,
) -> dict[str, Path]:
    """Build what the cache lacks and give the folders of all asked models.

    A teacher that lies trained beside the code (:mod:`teacher.zoo.shipped`) is
    unpacked. Every other model is trained on one thread, several at a time. A
    finished model is kept whatever happens to the others; processes that build at the
    same time wait for each other's models instead of building them twice.

    Args:
        names: models to build; None for the whole zoo.
        cache_dir: where to keep it; None for
            :func:`align.support.cache_folder.cache_folder`.
        progress: show how far every model is, on the error stream.
        scale: one of :data:`teacher.zoo.SCALES`.
        workers: models trained at once; None for one per CPU of this process.
        fresh: take nothing that was trained elsewhere: train what was not trained here.

    Returns:
        Folder by name, in the zoo's order, for ``from_pretrained``.

    Raises:
        ValueError: an unknown name or scale.
        OSError: the cache cannot be written, or what lies beside the code is damaged.
        RuntimeError: training failed; names the model, what else was kept.
    """
    all_recipes = recipes(scale)
    selection = [all_recipes[name] for name in _check_names(names, all_recipes)]
    folder = zoo_folder(cache_dir, scale)
    unbuilt = [m for m in selection if not is_built(folder / m.name, m, fresh)]
    if unbuilt:
        make_kept_folder(folder, "the zoo")
        _build_all(unbuilt, folder, progress, workers or _cpus(), fresh)
    return {m.name: folder / m.name for m in selection}


def zoo_path(
    name: str, cache_dir: str | Path | None = None, scale: str = "default"
) -> Path:
    """Give the folder of a built model.

    Raises:
        ValueError: the zoo has no such model.
        FileNotFoundError: it is not built, or not from the present recipe.
    """
    all_recipes = recipes(scale)
    (name,) = _check_names([name], all_recipes)
    path = zoo_folder(cache_dir, scale) / name
    if not is_built(path, all_recipes[name]):
        fault = "has not been built"
        if (path / MANIFEST).is_file():
            damage = _damage(path)
            fault = f"is damaged ({damage})" if damage else "is out of date"
        raise MissingFileError(
            f"zoo model {name!r} {fault} in {path.parent}; run {_how_to_build(scale)}"
        )
    return path


def _build_all(
    unbuilt: Sequence[ZooModel],
    folder: Path,
    progress: bool,
    workers: int,
    fresh: bool,
) -> None:
    """Train in threads: tensor work runs outside the interpreter's lock.

    Two models on one thread each learn faster than one after the other on two:
    such small products gain little from a second thread.
    """
    import torch

    from teacher.zoo.train import load_libraries

    load_libraries()
    stop = threading.Event()
    threads = torch.get_num_threads()
    longest_first = sorted(unbuilt, key=lambda m: -m.train.steps)
    try:
        with (
            shown(progress) as display,
            ThreadPoolExecutor(min(workers, len(unbuilt)), "zoo") as pool,
        ):
            for m in longest_first:
                display.add(m.name, m.train.steps)
            jobs = {
                pool.submit(_build_one, m, folder, display, stop, fresh): m.name
                for m in longest_first
            }
            try:
                while not all(job.done() for job in jobs):
                    wait(jobs, timeout=0.5)  # short, so that interrupts are seen
                    display.tick()
            except BaseException:  # the user's interrupt reaches only this thread
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
    failed = {name: job.exception() for job, name in jobs.items() if job.exception()}
    if failed:
        _explain(failed, folder)


def _explain(failed: dict[str, BaseException | None], folder: Path) -> None:
    name, error = next(iter(failed.items()))
    kept = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    text = (
        f"zoo model {name!r} could not be built in {folder}: {error}; "
        f"kept: {', '.join(kept) or 'nothing'}; "
        f"mend the cause and run {_how_to_build(folder.name)} again, which goes on "
        "from there"
    )
    if isinstance(error, OSError):
        raise MachineError(text) from error
    raise RuntimeError(text) from error


def _build_one(
    recipe: ZooModel,
    folder: Path,
    display: Shown,
    stop: threading.Event,
    fresh: bool,
) -> None:
    import torch
    from filelock import FileLock

    torch.set_num_threads(1)
    with FileLock(folder / f".{recipe.name}.lock"):
        if is_built(folder / recipe.name, recipe, fresh):  # by another process
            display.ready(recipe.name, "cached")
            return
        if (folder / recipe.name / MANIFEST).is_file():
            damage = _damage(folder / recipe.name)
            if damage:
                display.note(f"{recipe.name} is damaged ({damage}) and made anew")
        kept = None if fresh else shipped(recipe)
        if kept is None:
            _train(recipe, folder, display, stop)
            return
        display.state(recipe.name, "unpacking")
        facts = {"fingerprint": kept.fingerprint, "shipped": True, **kept.facts}
        _save(folder / recipe.name, kept.unpack, facts)
        display.ready(recipe.name, f"comes trained with mtkd, {_measured(kept.facts)}")


def _train(
    recipe: ZooModel, folder: Path, display: Shown, stop: threading.Event
) -> None:
    from teacher.zoo.evaluate import held_out
    from teacher.zoo.train import train_model

    started, cpu = time.monotonic(), time.thread_time()
    display.state(recipe.name, "tokenizer")

    def report(step: int, steps: int, loss: float | None) -> None:
        display.state(recipe.name, f"loss {loss:.3f}", step)

    model, tokenizer = train_model(recipe, report, stop)
    display.state(recipe.name, "measuring")
    bits = held_out(recipe, model, tokenizer)
    manifest = {
        "fingerprint": fingerprint(recipe),
        "recipe": recipe.plain(),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "bits_per_char": bits,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.thread_time() - cpu, 1),
    }
    _save(folder / recipe.name, partial(_save_pretrained, model, tokenizer), manifest)
    display.ready(recipe.name, _measured(manifest))


def _measured(manifest: Mapping[str, Any]) -> str:
    bits = ", ".join(f"{d} {b:.2f}" for d, b in manifest["bits_per_char"].items())
    return f"bits per character: {bits}"


def _save(
    path: Path, write: Callable[[Path], None], manifest: Mapping[str, Any]
) -> None:
    """Write a model beside its place, then put it there in one step."""
    with made_folder(path) as fresh:
        write(fresh)
        files = files_in(fresh, MANIFEST)
        kept = {
            "sizes": {name: file.stat().st_size for name, file in files.items()},
            "digests": {name: sha256_of(file) for name, file in files.items()},
        }
        text = sealed_text({**manifest, **kept})
        (fresh / MANIFEST).write_text(text, encoding="utf-8")


def _save_pretrained(model: Any, tokenizer: Any, path: Path) -> None:
    from transformers.utils import logging

    with _SAVING:  # the library's progress bars are one switch for all threads
        bars_enabled = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
        finally:
            if bars_enabled:
                logging.enable_progress_bar()


def fingerprint(recipe: ZooModel) -> str:
    """Digest what decides a model: format, recipe and this CPython's text."""
    parts = [_FORMAT, recipe.plain(), text_fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(path: Path) -> dict[str, Any]:
    """What is known of the model in a folder; empty where it is none, or damaged."""
    try:
        return read_sealed(path / MANIFEST)[0]
    except (FileNotFoundError, NotADirectoryError, DamageError):
        return {}


def _damage(path: Path) -> str | None:
    """What is not as it was saved in a folder with a manifest; None of earlier ones."""
    try:
        manifest, _ = read_sealed(path / MANIFEST)
    except DamageError as error:
        return str(error)
    if "sizes" not in manifest:
        return None
    return changed_file(path, manifest["sizes"], manifest["digests"], MANIFEST)


def trained_manifest(path: Path, recipe: ZooModel) -> dict[str, Any]:
    """What is known of a model that was trained here, by this recipe.

    Raises:
        MissingFileError: there is none.
    """
    manifest = read_manifest(path)
    if manifest.get("fingerprint") != fingerprint(recipe):
        raise MissingFileError(
            f"{path} holds no model trained here by the present recipe; run "
            f"`mtkd zoo build --fresh {recipe.name}`"
        )
    return manifest


def is_built(path: Path, recipe: ZooModel, fresh: bool = False) -> bool:
    """Whether a folder holds a recipe's model, whole; ``fresh``: and trained here."""
    named = read_manifest(path).get("fingerprint")
    if named is None:
        return False
    if named != fingerprint(recipe):
        kept = None if fresh else shipped(recipe)
        if kept is None or named != kept.fingerprint:
            return False
    return _damage(path) is None


def _check_names(names: Iterable[str] | None, zoo_names: Iterable[str]) -> list[str]:
    zoo_names = list(zoo_names)
    if names is None:
        return zoo_names
    if isinstance(names, str):
        names = [names]
    requested = list(names)
    for name in requested:
        if name not in zoo_names:
            raise InputError(
                f"the zoo has no model {name!r}{meant(name, zoo_names)} It has "
                f"{', '.join(zoo_names)}"
            )
    return [name for name in zoo_names if name in requested]


def _how_to_build(scale: str) -> str:
    return f"`mtkd zoo build{'' if scale == 'default' else f' --scale {scale}'}`"


def zoo_folder(cache_dir: str | Path | None, scale: str) -> Path:
    """Where the models of a scale are kept."""
    root = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    return root / "zoo" / scale


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
