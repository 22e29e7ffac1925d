"""What became of each launch of a run, and what belongs to all of them."""

from __future__ import annotations

import os
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.bounds.yaml_document import read_yaml
from align.errors import PROGRAM_ERROR, InputError, exit_code_of
from align.foreign.seal import DamageError, read_sealed, sealed_text
from align.support.whole_file import write_whole
from experiments.record.lease import Lease, LeaseLostError
from experiments.record.stop import RunStopped
from experiments.record.summed_log import SummedLog
from experiments.record.versions import versions
from experiments.record.which_run import CONFIG
from student.config import TrainConfig

STATE = "state.json"
"""``{"saved": …, "finished": …}``: what a launcher needs to know to requeue."""
IDENTITY = "run.json"
SETTINGS = ".settings.json"
"""How what a phase was trained with is called, behind the name of its folder."""
ATTEMPTS = "attempts.jsonl"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole; it vouches for itself."""
    write_whole(path, sealed_text(content))


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote; empty where there is no such file.

    Raises:
        InputError: it is damaged; says what to do.
    """
    try:
        return read_sealed(path)[0]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except DamageError as error:
        raise InputError(f"{error}; {way_on(path)}") from None


def way_on(path: Path) -> str:
    """What to do where a file of a run is damaged or gone."""
    if path.name == IDENTITY:
        return (
            "put it back from a copy, or delete it: the run then goes on as another, "
            "and takes its checkpoints by --trust-checkpoint"
        )
    if path.name.endswith(SETTINGS):
        phase = path.with_name(path.name.removesuffix(SETTINGS))
        trained = phase if phase.is_dir() else f"{phase}.checkpoint"
        return f"delete it and {trained} to train this phase again"
    words = shlex.join(["mtkd", "train", str(path.parent / CONFIG)])
    return (
        f"`{words}{_where_it_lies(path.parent)}` writes it anew and does not train "
        "again what is finished"
    )


def _where_it_lies(run: Path) -> str:
    """Settings that a copied or moved run needs, or its config means another folder."""
    try:
        said = read_yaml((run / CONFIG).read_text(encoding="utf-8"), CONFIG)["run"]
        named = Path(said["dir"], said["name"]).expanduser()
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    here = run.resolve()
    if named.resolve() == here:
        return ""
    return " " + shlex.join([f"run.dir={here.parent}", f"run.name={here.name}"])


def identify(
    run_dir: Path,
    train: TrainConfig,
    samples_per_step: int,
    bf16: bool | None = None,
    date: str | None = None,
) -> dict[str, Any]:
    """The run's own ``id`` and what it keeps from its first launch on.

    Args:
        run_dir: the run's.
        train: of its first phase.
        samples_per_step: over all processes.
        bf16: what ``train.bf16=auto`` came to; None where it was not asked.
        date: the day that chat templates are told; None where none writes it.
    """
    known = read_json(run_dir / IDENTITY)
    kept = {name: getattr(train, name) for name in ("batch_size", "grad_accum")}
    kept["samples_per_step"] = samples_per_step
    if bf16 is not None:
        kept["bf16"] = bf16
    if date is not None:
        kept["date"] = date
    if not known.items() >= kept.items():
        known = {**known, "id": known.get("id") or uuid.uuid4().hex, **kept}
        write_json(run_dir / IDENTITY, known)
    return known


def remember(run_dir: Path, **facts: Any) -> None:
    """Keep facts about the latest launch beside what identifies the run."""
    known = read_json(run_dir / IDENTITY)
    if not known.items() >= facts.items():
        write_json(run_dir / IDENTITY, {**known, **facts})


def tried_before(run_dir: Path) -> dict[str, str]:
    """Stamps of plugins whose contracts an earlier launch tried."""
    tried = read_json(run_dir / IDENTITY).get("tried_plugins", {})
    return tried if isinstance(tried, dict) else {}


def samples_per_step(run_dir: Path, train: TrainConfig) -> int | None:
    """What an earlier launch took per optimiser step, by the same settings.

    However many processes go on with a run, they share the step it began with.
    """
    known = read_json(run_dir / IDENTITY)
    same = all(
        known.get(name) == getattr(train, name) for name in ("batch_size", "grad_accum")
    )
    return int(known["samples_per_step"]) if known and same else None


@dataclass(slots=True)
class Launch:
    """A launch under way."""

    begun: bool = False
    """Whether it has changed the run; before that it may be refused."""


@contextmanager
def noted(run_dir: Path, lease: Lease | None, world_size: int) -> Iterator[Launch]:
    """Write down that a launch began, and how it ended.

    One that is refused before it has begun leaves no trace on a run that is finished,
    or on a folder without a run.

    Args:
        run_dir: the run's.
        lease: None on all processes but the first, which alone writes.
        world_size: processes of this launch.

    Yields:
        To be told that it has begun.
    """
    launch = Launch()
    if lease is None:
        yield launch
        return
    before = attempts(run_dir)
    finished = bool(before) and before[-1]["how"] == "finished"
    log = SummedLog(run_dir / ATTEMPTS)
    trace = log.content()
    log.mend_aloud()
    note_start(run_dir, world_size)
    try:
        yield launch
    except LeaseLostError:
        raise  # the successor writes here now
    except RunStopped as stopped:
        asked = read_json(run_dir / STATE).get("signal")
        note_end(run_dir, "stopped", f"{asked}, {stopped}")
        raise
    except BaseException as error:
        refused = exit_code_of(error) != PROGRAM_ERROR and not launch.begun
        if not (run_dir / "config.yaml").is_file():
            log.put_back((None, None))
        elif refused and finished:
            log.put_back(trace)
        else:
            notes = getattr(error, "__notes__", ())
            why = ", ".join([str(error) or type(error).__name__, *notes])
            note_end(run_dir, "failed", why)
        raise
    note_end(run_dir, "finished")


def note_start(run_dir: Path, world_size: int) -> None:
    """Note that a launch begins."""
    _append(
        run_dir,
        {
            "event": "start",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "world_size": world_size,
            "versions": versions(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "requeued": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        },
    )


def note_end(run_dir: Path, how: str, why: str = "") -> None:
    """Note how a launch ended.

    Args:
        run_dir: the run's.
        how: ``finished``, ``stopped`` or ``failed``.
        why: the signal or the error.
    """
    _append(run_dir, {"event": "end", "how": how, "why": why})


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Every launch in order, each with how it ended (``how`` is None if it never said).

    Returns:
        The fields of :func:`note_start` with ``time``, ``ended``, ``how`` and ``why``.
    """
    launches: list[dict[str, Any]] = []
    for line in SummedLog(run_dir / ATTEMPTS).read().records:
        if line.get("event") == "start":
            launches.append({**line, "ended": None, "how": None, "why": ""})
        elif launches:
            launches[-1] |= {k: line.get(k) for k in ("how", "why")}
            launches[-1]["ended"] = line.get("time")
    return launches


def launch_faults(run_dir: Path) -> Sequence[str]:
    """A sentence on everything that :func:`attempts` has to leave out."""
    return SummedLog(run_dir / ATTEMPTS).read().faults


def _append(run_dir: Path, line: Mapping[str, Any]) -> None:
    SummedLog(run_dir / ATTEMPTS).append({"time": round(time.time(), 3), **line})
